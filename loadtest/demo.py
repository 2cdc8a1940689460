"""The demo: serve, import, replay a recommender's lookups over HTTP, check every row, print a table, serve on.

Speaks to the service through the client alone, as anybody would.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from embcache_client import Client
from embcache_client.results import TableRows
from loadtest.datasets import DataError, Dataset, read_folder, synthetic
from loadtest.demo_text import next_things, results_table
from loadtest.importing import import_table
from loadtest.processes import ProcessFailed, terminated_as_interrupted
from loadtest.replay import Replayed, RowsDiffer, replay
from loadtest.served import Served, served
from loadtest.workloads import U64s

WARM_SHARE = 0.25
"""The warm tier's part of all rows' bytes: small enough that the tiers show."""


def run(data: Path | None, once: bool, seconds: float, console: Console) -> None:
    """The whole demo. seconds: the longest replay of one table.

    Raises DataError, ProcessFailed, RowsDiffer or the client's errors. The service is stopped and its files are removed
    in any case, Ctrl-C included.
    """
    with terminated_as_interrupted():
        datasets = _datasets(data, console)
        row_bytes = sum(dataset.rows.nbytes for dataset in datasets)
        capacity = f"{max(round(row_bytes * WARM_SHARE / 2**20), 1)}MiB"
        console.print(
            f"\nStarting the service: {row_bytes / 2**20:.0f} MiB of rows, a warm tier of {capacity}. "
            f"(It is made {WARM_SHARE:.0%} of the rows, 1 MiB at least, so that the tiers show.)\n"
            "The first start on a machine compiles the kernels, 20 to 30 s; later ones take about 3 s ...",
            highlight=False,
        )
        with served(capacity) as service:
            console.print(f"Ready at {service.url} after {service.ready_s:.1f} s.\n", highlight=False)
            with Client(service.url) as client:
                _import(client, datasets, console)
                replayed = _replay(client, datasets, seconds, console)
            say_results(replayed, console)
            if not once:
                _serve_on(service, datasets, console)


def _datasets(data: Path | None, console: Console) -> Sequence[Dataset]:
    if data is None:
        console.print("No DATA given: tables and lookups are SYNTHETIC.")
        datasets = synthetic()
    else:
        found = read_folder(data)
        datasets = found.datasets
        for remark in found.remarks:
            console.print(f"Passed over {remark}", style="yellow", highlight=False, markup=False)
        if not datasets:
            raise DataError(f"{data} holds no table: no .npy of rows, no .npz of ids and rows, or of ids alone")
    for dataset in datasets:
        shape = f"{len(dataset.ids):,} x {dataset.dim} {dataset.dtype}"
        console.print(f"[bold]{dataset.table}[/bold], {shape}: {dataset.origin}.", highlight=False)
    return datasets


def _import(client: Client, datasets: Sequence[Dataset], console: Console) -> None:
    with _progress(console) as progress:
        for dataset in datasets:
            _import_one(client, dataset, progress)


def _import_one(client: Client, dataset: Dataset, progress: Progress) -> None:
    bar = progress.add_task(f"import {dataset.table}", total=len(dataset.ids))
    import_table(client, dataset, lambda rows: progress.update(bar, completed=rows, refresh=True))


def _replay(client: Client, datasets: Sequence[Dataset], seconds: float, console: Console) -> list[Replayed]:
    console.print(f"\nEach table's lookups, replayed for at most {seconds:g} s; the bars then stop where they are.")
    with _progress(console) as progress:
        return [_replay_one(client, dataset, seconds, progress) for dataset in datasets]


def _replay_one(client: Client, dataset: Dataset, seconds: float, progress: Progress) -> Replayed:
    table, dtype = dataset.table, dataset.dtype
    bar = progress.add_task(f"lookups of {table}", total=len(dataset.lookups))

    def look_up(ids: U64s) -> TableRows:
        return client.lookup({table: ids}, dtype=dtype)[table]

    return replay(dataset, look_up, seconds, lambda done: progress.update(bar, completed=done, refresh=True))


def say_results(replayed: Sequence[Replayed], console: Console) -> None:
    """Print the table and what the check found. RowsDiffer names the first row that was not its source's."""
    console.print(results_table(replayed))
    wrong = [seen for seen in replayed if seen.wrong]
    if wrong:
        seen = wrong[0]
        raise RowsDiffer(f"{seen.wrong} rows of {seen.table} are not those of the source; first: {seen.first_wrong}")
    checked = sum(seen.ids for seen in replayed)
    console.print(f"All {checked:,} rows were compared with their source bit for bit: no difference.", style="green")


def _serve_on(service: Served, datasets: Sequence[Dataset], console: Console) -> None:
    console.print(next_things(service, datasets[0]), highlight=False, markup=False, soft_wrap=True)
    try:
        while service.process.running:
            time.sleep(0.2)
    except KeyboardInterrupt:
        console.print("\nStopping.")
        return
    raise ProcessFailed(f"the service ended by itself: {service.process.last_words()}")


def _progress(console: Console) -> Progress:
    # Drawn only when told: a thread that redraws ten times a second would show in the latencies.
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, console=console, auto_refresh=False)
