"""From what the command line asks for to a service with tables, and a workload for them; taken down at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from embcache_client import Client
from embcache_client.address import Address
from loadtest.datasets import DataError
from loadtest.load import tables as making
from loadtest.load.asked import DLRM_DIM, DLRM_HOT, DLRM_ROWS, AskedTable, Kind, Workload, parse_mix
from loadtest.load.asking import Target
from loadtest.load.metrics import service_version
from loadtest.load.tables import Progress
from loadtest.load.traces import TraceFiles, read_trace
from loadtest.served import served

DEFAULT_TABLE = "loadtest"
DEFAULT_ROWS = {"zipf": 100_000, "latest": 100_000, "dlrm": 20_000}
DEFAULT_DIM = 64
DEFAULT_RATE = {"zipf": 500.0, "latest": 500.0, "trace": 500.0, "dlrm": 10.0}
_ROW_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8": 1.2}
_WARM_ROOM = 1.5
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for. None: as is fitting for the workload; see `python -m loadtest run --help`."""

    kind: Kind
    seed: int = 1
    file: Path | None = None
    url: str | None = None
    token: str | None = None
    serve: bool = False
    warm: str | None = None
    fill: bool = False
    keep: bool = False
    preload: bool | None = None
    tables: tuple[str, ...] = ()
    rows: int | None = None
    dim: int | None = None
    table_dtype: str = "f32"
    keys: str = "dense"
    alpha: float = 0.99
    scattered: bool = True
    ids: int = 256
    mix: str = "lookup=1"
    update_rows: int = 256
    pooling: str | None = None
    dtype: str = "f32"
    timeout_s: float = 10.0
    deadline_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """A service that can be asked. origin: what is real and what is made up, for the reader of a report."""

    target: Target
    workload: Workload
    served: bool
    service_version: str
    origin: str


def check(wanted: Wanted) -> None:
    """DataError for what can never be right, before anything is started."""
    if wanted.serve == (wanted.url is not None):
        raise DataError("give --url of a service, or --serve to start one: one of them, and not both")
    if (wanted.kind == "trace") != (wanted.file is not None):
        raise DataError("`trace` takes a file of ids, and the other workloads none")
    if wanted.url is not None:
        _check_url(wanted.url)
    for name, value in (("rows", wanted.rows), ("dim", wanted.dim), ("ids", wanted.ids)):
        if value is not None and value < 1:
            raise DataError(f"--{name} is {value}, and 1 is the least")
    if wanted.kind == "latest" and wanted.keys != "dense":
        raise DataError("`latest` counts ids up from 0: it goes with --keys dense alone")
    if wanted.kind == "dlrm" and len(wanted.tables) > 1:
        raise DataError("`dlrm` has 26 tables: --table names what their names begin with, once")
    if wanted.pooling not in (None, "none") and wanted.kind != "dlrm":
        raise DataError("--pooling goes with `dlrm` alone: the other workloads have no bags")
    try:
        parse_mix(wanted.mix)
    except ValueError as error:
        raise DataError(f"--mix: {error}") from error


def _check_url(url: str) -> None:
    try:
        Address.parse(url)
    except ValueError as error:
        raise DataError(f"--url: {error}") from error


@contextmanager
def prepared(wanted: Wanted, progress: Progress) -> Iterator[Ready]:
    """Start or find the service, make its tables, bring them into memory; at the end what was made is taken away.

    DataError, ProcessFailed, the client's errors.
    """
    check(wanted)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="loadtest-")))
        trace = read_trace(wanted.file, _made(folder / "trace")) if wanted.file is not None else None
        fills = wanted.serve or wanted.fill
        tables = _new_tables(wanted, trace, folder) if fills else ()
        url = wanted.url
        if url is None:
            progress("starting the service", 0, 1)
            url = stack.enter_context(served(wanted.warm or _room_for(tables, wanted.table_dtype))).url
            progress("starting the service", 1, 1)
        target = Target(url, wanted.token, wanted.timeout_s, wanted.deadline_ms)
        with Client(url, token=wanted.token, timeout=_TIMEOUT_S) as client:
            if not fills:
                tables = _found_tables(wanted, client, folder, progress)
            keep = wanted.keep or wanted.serve
            made = stack.enter_context(making.dropped_at_the_end(target, keep=keep)) if fills else []
            workload = _workload(wanted, tables, trace)
            if fills:
                filled = making.Done(progress, "filling tables", tables)
                for table in tables:
                    making.fill(client, table, wanted.table_dtype, add=_adds(workload), done=filled)
                    made.append(table.name)
            if wanted.preload if wanted.preload is not None else fills:
                loaded = making.Done(progress, "loading tables", tables)
                for table in tables:
                    making.preload(client, table, loaded)
        transport = target.transport()
        version = service_version(transport)
        transport.close()
        yield Ready(target, workload, wanted.serve, version, _origin(wanted, trace, fills=fills))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _names(wanted: Wanted) -> list[str]:
    if wanted.kind == "dlrm":
        prefix = wanted.tables[0] if wanted.tables else "dlrm"
        return [f"{prefix}_{number:02}" for number in range(len(DLRM_HOT))]
    return list(wanted.tables or [DEFAULT_TABLE])


def _new_tables(wanted: Wanted, trace: TraceFiles | None, folder: Path) -> tuple[AskedTable, ...]:
    names = _names(wanted)
    if wanted.kind == "dlrm":
        most, dim = wanted.rows or DEFAULT_ROWS["dlrm"], wanted.dim or DLRM_DIM
        hot_rows = zip(names, DLRM_HOT, DLRM_ROWS, strict=True)
        return tuple(AskedTable(name, dim, min(rows, most), hot) for name, hot, rows in hot_rows)
    if wanted.keys == "read":
        raise DataError("--keys read asks the service for its ids; tables that are filled have none yet")
    source = trace if trace is not None else _keys_file(wanted, folder)
    if source is None:
        ids, rows = None, wanted.rows or DEFAULT_ROWS[wanted.kind]
    else:
        ids, rows = making.distinct_ids(source, folder)
    return tuple(AskedTable(name, wanted.dim or DEFAULT_DIM, rows, ids=ids) for name in names)


def _found_tables(wanted: Wanted, client: Client, folder: Path, progress: Progress) -> tuple[AskedTable, ...]:
    hot = dict(zip(_names(wanted), DLRM_HOT, strict=True)) if wanted.kind == "dlrm" else {}
    tables = []
    source = _keys_file(wanted, folder)
    for name in _names(wanted):
        table = replace(making.found(client, name, wanted.rows), hot=hot.get(name, 1))
        if wanted.keys == "read":
            table = _with_ids(table, *making.read_ids(client, name, folder, progress))
        elif source is not None:
            table = _with_ids(table, *making.distinct_ids(source, folder))
        tables.append(table)
    return tuple(tables)


def _with_ids(table: AskedTable, ids: Path, rows: int) -> AskedTable:
    return replace(table, ids=ids, rows=rows)


def _keys_file(wanted: Wanted, folder: Path) -> TraceFiles | None:
    if wanted.keys in ("dense", "read"):
        return None
    return read_trace(Path(wanted.keys), _made(folder / "keys"))


def _workload(wanted: Wanted, tables: tuple[AskedTable, ...], trace: TraceFiles | None) -> Workload:
    pooling = (wanted.pooling or "sum") if wanted.kind == "dlrm" else None
    return Workload(
        kind=wanted.kind,
        tables=tables,
        seed=wanted.seed,
        alpha=wanted.alpha,
        scattered=wanted.scattered,
        ids=wanted.ids,
        mix=parse_mix(wanted.mix),
        update_rows=wanted.update_rows,
        pooling=None if pooling == "none" else pooling,
        dtype=wanted.dtype,
        trace=trace,
    )


def _adds(workload: Workload) -> bool:
    return any(op == "add" for op, _ in workload.mix)


def _room_for(tables: tuple[AskedTable, ...], dtype: str) -> str:
    """A warm tier in which all rows fit."""
    row_bytes = sum(table.rows * (64 + table.dim * _ROW_BYTES[dtype]) for table in tables)
    return f"{max(round(_WARM_ROOM * row_bytes / 2**20), 64)}MiB"


def _origin(wanted: Wanted, trace: TraceFiles | None, *, fills: bool) -> str:
    asked = {
        "zipf": f"ids made up, Zipf with alpha {wanted.alpha:g}",
        "latest": f"ids made up, the latest the most often, Zipf with alpha {wanted.alpha:g}",
        "dlrm": f"queries of the sizes of MLPerf's DLRM-v2, ids made up, Zipf with alpha {wanted.alpha:g}",
        "trace": f"ids from a file, {trace.count:,} of them, in its order" if trace is not None else "",
    }[wanted.kind]
    rows = "rows made up from their ids" if fills else "rows as the service had them"
    return f"{asked}; {rows}"
