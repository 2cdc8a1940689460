"""What the demo prints: the table of results, and what to try next."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

from rich import box
from rich.table import Table

from loadtest.datasets import Dataset
from loadtest.replay import Replayed
from loadtest.served import Served

TIERS = ("hot", "warm", "cold", "missing")


def results_table(replayed: Sequence[Replayed]) -> Table:
    """One line a table: lookups, ids/s, latencies, and the share of ids that each tier answered."""
    title = "Lookups over HTTP, one client, one at a time"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("table", no_wrap=True)
    for column in ("lookups", "ids/s", "p50 ms", "p99 ms", *TIERS):
        table.add_column(column, justify="right", no_wrap=True)
    for seen in replayed:
        table.add_row(
            seen.table,
            f"{seen.lookups:,}",
            f"{seen.ids_per_s:,.0f}",
            f"{seen.latencies.percentile_ms(50):.3f}",
            f"{seen.latencies.percentile_ms(99):.3f}",
            *(f"{seen.share(tier):.1%}" for tier in TIERS),
        )
    return table


def _as_typed(folder: Path) -> Path:
    """The folder relative to the current one where it lies below."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def next_things(service: Served, dataset: Dataset) -> str:
    """Commands that work against this service, as they stand, from the folder in which the demo runs."""
    url, table, first = service.url, dataset.table, int(dataset.ids[len(dataset.ids) // 2])
    programs = _as_typed(Path(sys.executable).parent)
    return dedent(
        f"""
        Serving on at {url} until Ctrl-C. Next, in another terminal:

          curl {url}/v1/tables
          curl {url}/v1/tables/{table}/rows/{first}
          curl -s {url}/metrics | grep embcache
          {programs}/embcache lookup {table} {first} --url {url}
          {programs}/python -c "from embcache_client import Client; \\
            print(Client('{url}').lookup({{'{table}': [{first}]}})['{table}'].rows)"

        API reference: {url}/docs    Configuration: {service.config}
        """
    )
