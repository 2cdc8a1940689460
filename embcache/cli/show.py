"""What the commands print: tables and rows, for people. May touch nothing but its arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from embcache.cli.plan import Need
from embcache.cli.tables import TableInfo
from embcache.config import Settings, shown_size
from embcache_client import STATUS_NAMES, TableRows

SHOWN = 8
"""Elements of a row that `lookup` prints unless it is asked for all."""


def tables_table(infos: Sequence[TableInfo]) -> Table:
    """One line a table; with what is in GPU memory, where something is."""
    table = Table("table", "version", "dtype", box=None)
    on_gpu = any(info.hot_bytes for info in infos)
    for column in ("dim", "rows", "in memory", "memory", "disk", *(["GPU"] if on_gpu else [])):
        table.add_column(column, justify="right")
    for info in infos:
        table.add_row(
            info.spec.name,
            info.version,
            info.spec.dtype,
            f"{info.spec.dim:,}",
            info.shown_rows,
            f"{info.warm_rows:,}",
            shown_size(info.warm_bytes),
            shown_size(info.cold_bytes),
            *([shown_size(info.hot_bytes)] if on_gpu else []),
        )
    return table


def versions_table(infos: Sequence[TableInfo]) -> Table:
    """One line a version."""
    table = Table("version", "state", "follows", "dtype", box=None)
    for column in ("rows", "in memory", "memory", "disk"):
        table.add_column(column, justify="right")
    for info in infos:
        table.add_row(
            *(info.version, info.state, "yes" if info.follow else "no", info.spec.dtype),
            *(info.shown_rows, f"{info.warm_rows:,}", shown_size(info.warm_bytes), shown_size(info.cold_bytes)),
        )
    return table


def rows_table(ids: Sequence[str], found: TableRows, whole: bool) -> Table:
    """One line an id: its tier and its row, or the first elements of it."""
    table = Table("id", "tier", box=None)
    table.add_column("row", overflow="fold")
    for asked, status, row in zip(ids, found.status.tolist(), found.rows.tolist(), strict=True):
        shown = row if whole else row[:SHOWN]
        more = f" ... {len(row) - len(shown)} more" if len(shown) < len(row) else ""
        table.add_row(asked, STATUS_NAMES[status], " ".join(f"{value:.6g}" for value in shown) + more)
    return table


def plan_table(needs: Sequence[Need], settings: Settings, disk_free: int | None) -> Table:
    """One line a dtype: bytes a row, in host memory, on disk, and how that fits what is configured."""
    capacity = settings.warm.capacity
    table = Table("dtype", box=None)
    for column in ("row", "warm: all rows", f"warm of {shown_size(capacity)} holds", "cold: all rows (about)"):
        table.add_column(column, justify="right")
    for need in needs:
        holds = need.warm_rows(capacity)
        fits = "" if disk_free is None or need.cold <= disk_free else f", {shown_size(disk_free)} free"
        table.add_row(
            need.dtype,
            f"{need.row:,} B",
            shown_size(need.warm),
            "all" if holds == need.rows else f"{holds / need.rows:.1%} ({holds:,})",
            shown_size(need.cold) + fits,
        )
    return table


def quarantine_table(batches: Sequence[Mapping[str, Any]]) -> Table:
    """One line a batch that is set aside, and the row for which it is."""
    table = Table("position", "since", "producer", "seq", box=None)
    for column in ("rows", "over", "the worst", "norm", "limit"):
        table.add_column(column, justify="right")
    for batch in batches:
        since = datetime.fromtimestamp(batch["since"], UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        worst = f"{batch['table']} ({batch['version']}) {batch['id']}"
        counts = (f"{batch['rows']:,}", f"{batch['over']:,}", worst, f"{batch['norm']:.6g}", f"{batch['limit']:g}")
        table.add_row(str(batch["position"]), since, batch["producer"], str(batch["seq"]), *counts)
    return table


def quarantined_changes_table(changes: Sequence[Mapping[str, Any]]) -> Table:
    """One line for each change of a batch that is set aside."""
    table = Table("table", "op", box=None)
    for column in ("rows", "changed since"):
        table.add_column(column, justify="right")
    for change in changes:
        name = "(gone)" if change["table"] is None else change["table"]
        table.add_row(name, change["op"], f"{change['rows']:,}", f"{change['skipped']:,}")
    return table
