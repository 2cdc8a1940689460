"""Puts rows into a service through the client's table transfer."""

from __future__ import annotations

from collections.abc import Callable

from embcache_client import Client
from loadtest.datasets import Dataset

ROWS_AT_ONCE = 16_384


def import_table(client: Client, dataset: Dataset, progress: Callable[[int], object] | None = None) -> None:
    """Create or replace the dataset's table: all of its rows go live at once. The client's errors.

    progress: called with the number of rows sent so far.
    """
    spec = {"name": dataset.table, "dim": dataset.dim, "dtype": dataset.dtype}
    with client.importing(dataset.table, spec, dtype=dataset.dtype) as filling:
        for ids, rows in dataset.chunks(ROWS_AT_ONCE):
            done = filling.write(ids, rows)
            if progress is not None:
                progress(done)
