"""An EmbeddingCache in process with one table and a small warm tier. Shared by the pairs that read cold rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embcache import EmbeddingCache
from embcache.spec import TableSpec
from loadtest.workloads import F32s, U64s

TABLE = "rows"
IMPORT_ROWS = 50_000
CONFIG = """
[warm]
capacity = "4MiB"
[cold]
path = "data"
"""


@contextmanager
def cold_cache(folder: Path, ids: U64s, rows: F32s) -> Iterator[EmbeddingCache]:
    """A cache of its own owner, with all rows imported."""
    config = folder / "config.toml"
    config.write_text(CONFIG, encoding="utf-8")
    with EmbeddingCache.open(config) as cache:
        with cache.importing(TABLE, TableSpec(name=TABLE, dim=rows.shape[1])) as filling:
            for start in range(0, len(ids), IMPORT_ROWS):
                filling.write(ids[start : start + IMPORT_ROWS], rows[start : start + IMPORT_ROWS])
        yield cache
