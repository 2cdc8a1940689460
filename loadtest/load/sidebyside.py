"""Two reports of one kind: what their figures are, and what stands between comparing them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from loadtest.load.result import Report
from loadtest.tables import figure

_TIMES: Final = ("p50", "p90", "p99", "p99.9", "p99.99", "max")
_ASKED: Final = ("workload", "seed", "alpha", "scattered", "ids", "mix", "update_rows", "pooling", "dtype", "trace")
_LOAD: Final = ("arrivals", "rate", "clients", "processes", "warmup_s", "duration_s", "slo_ms")
_SAME: Final = (*_LOAD, "timeout_s", "deadline_ms")
_MACHINE: Final = ("processor", "cores", "memory", "system")
_TABLES_NAMED: Final = 3


def check_alike(first: Report, second: Report) -> None:
    """ValueError where the two are not of one kind."""
    if first["kind"] != second["kind"]:
        raise ValueError(f"a {first['kind']} and a {second['kind']} have nothing to compare")


def differences_in_setting(first: Report, second: Report) -> list[str]:
    """What differs beside what was measured, in words; two runs that asked alike on one machine have none of it."""
    lines = []
    if first["data"]["sha256"] != second["data"]["sha256"]:
        lines.append("They did not ask for the same: their data's hashes differ.")
    one, other = first["settings"], second["settings"]
    asked = [{"workload": each["workload"]["kind"], **each["workload"]} for each in (one, other)]
    lines += [f"{what} differs: {values}." for what, values in _unlike(asked[0], asked[1], _ASKED)]
    lines += _unlike_tables(*(_tables(workload) for workload in asked))
    lines += [f"{what} differs: {values}." for what, values in _unlike(one, other, _SAME)]
    services = _service(first), _service(second)
    if services[0] != services[1]:
        lines.append(f"The services differ: {services[0]} and {services[1]}.")
    versions = {"service": first["target"].get("version"), **first["versions"]}
    others = {"service": second["target"].get("version"), **second["versions"]}
    lines += [f"The versions differ: {what} {values}." for what, values in _unlike(versions, others)]
    machines = _unlike(first["machine"], second["machine"], _MACHINE)
    return lines + [f"The machines differ: {what} {values}." for what, values in machines]


def _unlike(first: Report, second: Report, names: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """(name, "one value and another") of what differs. names: None for all that either has."""
    names = dict.fromkeys((*first, *second)) if names is None else names
    both = [(name, first.get(name), second.get(name)) for name in names]
    return [(name, f"{_said(one)} and {_said(other)}") for name, one, other in both if one != other]


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(part)}" for name, part in value.items())
    if isinstance(value, float):
        return f"{value:.10g}"
    return "none" if value is None else str(value)


def _tables(workload: Report) -> Report:
    """What there is to say of each table, by name."""
    return {
        table["name"]: f"{table['rows']:,} rows of {table['dim']}, {table['hot']} a sample"
        for table in workload["tables"]
    }


def _unlike_tables(first: Report, second: Report) -> list[str]:
    unlike = _unlike(first, second)
    lines = [f"table {name} differs: {values}." for name, values in unlike[:_TABLES_NAMED]]
    more = len(unlike) - len(lines)
    return [*lines, f"Tables that differ besides: {more}."] if more > 0 else lines


def _service(report: Report) -> str:
    """Which was asked; the address of one that was started for it is another each time."""
    return "one of its own" if report["target"].get("served") else str(report["target"].get("url"))


def difference(first: Report, second: Report) -> list[tuple[str, str, str, str]]:
    """Rows of (what, first, second, second / first)."""
    before, after = _figures(first), _figures(second)
    known = [*before.items(), *after.items()]
    names = list(dict.fromkeys(name for name, value in known if value is not None))
    return [(name, *_row(before.get(name), after.get(name))) for name in names]


def print_difference(first: tuple[str, Report], second: tuple[str, Report], console: Console) -> None:
    """The table, after what stands between comparing."""
    for line in differences_in_setting(first[1], second[1]):
        console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("figure")
    for column in (first[0], second[0], "second / first"):
        table.add_column(column, justify="right")
    for row in difference(first[1], second[1]):
        table.add_row(*row)
    console.print(table)


def _row(before: float | None, after: float | None) -> tuple[str, str, str]:
    ratio = after / before if before and after is not None else None
    return figure(before), figure(after), figure(ratio)


def _figures(report: Report) -> dict[str, float | None]:
    return _search_figures(report) if report["kind"] == "search" else _run_figures(report)


def _run_figures(report: Report) -> dict[str, float | None]:
    result: dict[str, Any] = report["result"]
    figures: dict[str, float | None] = {
        "offered/s": result["offered_per_s"],
        "answered/s": result["answered_per_s"],
        "within the objective/s": result["good_per_s"],
        "ids/s": result["ids_per_s"],
        "errors": result["errors"],
        "not sent": result["not_sent"],
    }
    for op, of_op in result["ops"].items():
        times = of_op["response_ms"] or {}
        figures |= {f"{op} {which} ms": times.get(which) for which in _TIMES}
    total = max(sum(result["tiers"].values()), 1)
    figures |= {f"{tier} % of the ids": 100 * count / total for tier, count in result["tiers"].items()}
    figures["MiB received"] = result["received_bytes"] / 2**20
    figures["MiB sent"] = result["sent_bytes"] / 2**20
    if result["visible_ms"]:
        figures |= {f"update visible {which} ms": result["visible_ms"][which] for which in ("p50", "p99")}
    return figures


def _search_figures(report: Report) -> dict[str, float | None]:
    found = report["found"]
    figures: dict[str, float | None] = {"highest rate within the objective": found["rate"], "knee": found["knee"]}
    figures |= {f"answered in time at {step['factor']:g} times it": step["good_per_s"] for step in report["overload"]}
    return figures
