"""Snapshots and audits, wherever the data is: of a running service (HTTP, or its owner's socket), or on disk alone."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from embcache import snapshotcalls
from embcache.cli.words import counted
from embcache.config import Cold, shown_size
from embcache.errors import EmbcacheError, Internal, MalformedRequest, NotReady
from embcache.local.link import Link
from embcache.owner import errands
from embcache.owner.errands import Tell
from embcache_client.call import DEFAULT_TIMEOUT_S, MAX_REPLY_BYTES, Call, Endpoint, json_call
from embcache_client.transport import Transport

_POLL_S = 0.1
_CONNECT_S = 5.0
_LINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the data is: on disk here (`cold`, as JSON), with the link to its owner where one runs; or behind HTTP."""

    cold: str | None
    link: Link | None
    http: Transport | None

    @classmethod
    @contextmanager
    def opened(cls, cold: str | None, url: str | None, token: str | None) -> Iterator[Place]:
        """The place until the block ends. MalformedRequest for a bad URL."""
        with ExitStack() as stack:
            if url is not None:
                try:
                    endpoint = Endpoint(url, token, DEFAULT_TIMEOUT_S, None, MAX_REPLY_BYTES)
                except ValueError as error:
                    raise MalformedRequest(f"--url: {error}") from None
                yield cls(None, None, stack.enter_context(contextlib.closing(Transport(endpoint))))
                return
            assert cold is not None
            link = None
            with contextlib.suppress(NotReady):
                link = Link.connect(Cold.model_validate_json(cold).path, _CONNECT_S)
                stack.callback(link.close)
            yield cls(cold, link, None)


def take_snapshot(place: Place, target: Path) -> dict[str, Any]:
    """Take a snapshot, with a bar of how far it is -> what it is. An interruption leaves nothing of it."""
    with _bar("snapshot") as tell:
        if place.http is None and place.link is None:
            began = time.monotonic()
            told = errands.run("snapshot", {"cold": place.cold, "target": str(target)}, tell)
            return {**told, "seconds": time.monotonic() - began}
        snapshot = _begin(place, target)
        try:
            while True:
                told = _state(place, snapshot)
                if told["state"] == "failed":
                    raise EmbcacheError.from_dict(told["failure"])
                if told["state"] == "done":
                    done: dict[str, Any] = told["done"]
                    return done
                tell(*told["at"])
                time.sleep(_POLL_S)
        except BaseException:
            with contextlib.suppress(Exception):
                _stop(place, snapshot)
            raise


def restore_snapshot(cold: str, source: Path, *, force: bool) -> dict[str, Any]:
    """Put a snapshot in the place of stopped data, see embcache/owner/snapshots.py."""
    with _bar("restore") as tell:
        return errands.run("restore", {"cold": cold, "source": str(source), "force": force}, tell)


def audit(place: Place) -> dict[str, Any]:
    """Everything that is wrong: {"findings", "on disk": what was looked at, or None, "in memory": likewise}."""
    found: dict[str, Any] = {"findings": [], "on disk": None, "in memory": None}
    with _bar("check") as tell:
        if place.cold is not None:
            found["on disk"] = errands.run("check", {"cold": place.cold}, tell)
            found["findings"] += found["on disk"].pop("findings")
        if place.http is not None or place.link is not None:
            found["in memory"] = _audit_memory(place, tell)
            found["findings"] += found["in memory"].pop("findings")
    return found


def shown_snapshot(told: dict[str, Any]) -> str:
    """A line for people."""
    return (
        f"{told['path']}: snapshot at position {told['position']} of history {told['history']}, "
        f"{shown_size(told['bytes'])} in {told['files']:,} files, {told['seconds']:.1f} s"
    )


def shown_restored(told: dict[str, Any]) -> str:
    kept = "" if told["kept"] is None else f"\nwhat was there is kept in {told['kept']}: remove it when you are sure"
    found, rows = counted(told["findings"], "finding"), counted(told["rows"], "row")
    damaged = f"\nit is damaged: {found}, see `embcache check`" if told["findings"] else ""
    return f"restored {rows}, as of position {told['position']}; a new history begins{damaged}{kept}"


def shown_audit(found: dict[str, Any]) -> str:
    """A line for each finding, how to mend it below, and what was looked at."""
    lines = []
    for each in found["findings"]:
        lines += [f"{each['where']}: {each['what']}", f"    to mend it: {each['mend']}"]
    disk, memory = found["on disk"], found["in memory"]
    looked = []
    if disk is not None:
        tables, entries = counted(disk["tables"], "table"), counted(disk["entries"], "entry", "entries")
        looked.append(f"{counted(disk['rows'], 'row')} of {tables} and {entries} of the log")
    if memory is not None:
        looked.append(f"{counted(memory['rows'], 'row')} in memory")
    count = len(found["findings"])
    verdict = counted(count, "finding") if count else "nothing is wrong"
    return "\n".join([*lines, f"{verdict}: looked at {' and '.join(looked)}"])


def _audit_memory(place: Place, tell: Tell) -> dict[str, Any]:
    findings: list[dict[str, str]] = []
    rows, following = 0, [0, 0]
    while following is not None:
        if place.link is not None:
            told = snapshotcalls.check(place.link, *following).result()
        else:
            told = _asked(place, "GET", "/v1/check?start={}-{}".format(*following))
            told["next"] = told["next"] and list(map(int, told["next"].split("-")))
        findings += told["findings"]
        rows, following = rows + told["rows"], told["next"]
        tell("compare what is in memory", told["done"], told["total"])
    return {"findings": findings, "rows": rows}


def _begin(place: Place, target: Path) -> str:
    if place.link is not None:
        return snapshotcalls.begin(place.link, str(target)).result()
    return str(_asked(place, "POST", "/v1/snapshots", {"path": str(target)}, idempotent=False)["snapshot"])


def _state(place: Place, snapshot: str) -> dict[str, Any]:
    if place.link is not None:
        return snapshotcalls.state(place.link, snapshot).result()
    told = _asked(place, "GET", f"/v1/snapshots/{snapshot}")
    at = told["at"]
    return {**told, "at": [at["what"], at["done"], at["total"]], "done": told["result"], "failure": told["error"]}


def _stop(place: Place, snapshot: str) -> None:
    if place.link is not None:
        snapshotcalls.stop(place.link, snapshot).result()
    else:
        _asked(place, "DELETE", f"/v1/snapshots/{snapshot}")


def _asked(place: Place, method: str, target: str, content: object = None, **options: Any) -> dict[str, Any]:
    assert place.http is not None
    call: Call[dict[str, Any]] = json_call(method, target, _as_map, content, **options)
    return place.http.run(call)


def _as_map(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Internal("the service answers in a way that this release does not know")
    return value


@contextmanager
def _bar(command: str) -> Iterator[Tell]:
    """Shows how far it is: a bar for each step in a terminal, else a line now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(command)
        return
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(command, total=None)

        def tell(what: str, done: int, total: int) -> None:
            progress.update(task, description=f"{command}: {what}", completed=done, total=total or None)

        yield tell


def _lines(command: str) -> Callable[[str, int, int], None]:
    told = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _LINE_S:
            told = time.monotonic()
            print(f"{command}: {what}" + (f" {done / total:.0%}" if total else ""), file=sys.stderr, flush=True)

    return tell
