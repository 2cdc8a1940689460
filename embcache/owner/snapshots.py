"""Snapshots of a data folder, and putting one back: on files alone, in an errand's process.

A snapshot is a data folder: `rocksdb/` as everywhere, the lists of what was in memory (kept_ids.py), and
`snapshot.json`, which says what it is. It is made under
hidden names and renamed when it is whole and on the disk. It may be taken of a folder in use (rocks_checkpoint.py).

Putting one back exchanges two folders in one step, so that there is the old data or the new at any time:
1. the new rows come into `.restoring-*` beside the old, with a file MARK in them;
2. they are audited, and marked as those of nobody, so that whoever opens them begins a new history;
3. `.restoring-*` and `rocksdb` change names;
4. MARK goes, and the old rows, which have none, get the name under which they are kept.
What a crash leaves under `.restoring-*` is new, and removed, where it has a MARK, and old, and kept, where it has none.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from embcache.config import Cold
from embcache.errors import ConfigError, Conflict, StorageCorrupt
from embcache.owner import audit, kept_ids, lineage
from embcache.owner.applier import CURSOR, Cursor
from embcache.owner.catalogue import KEY, Catalogue
from embcache.owner.claim import Claim, FolderTaken
from embcache.owner.errands import Tell
from embcache.owner.lineage import Lineage
from embcache.owner.opening import engine_options
from embcache_storage import rocks_checkpoint
from embcache_storage.rocks import RocksStore

ABOUT: Final = "snapshot.json"
MARK: Final = "restoring"
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOBODYS: Final = Lineage("a snapshot", "", False)
_AT_FDCWD: Final = -100
_EXCHANGE: Final = 2


def take(cold: Cold, order: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """{"target": path} -> {"path", "position", "history", "bytes", "files", "taken"}.

    Everything up to `position` is in it. Conflict where there is something at the path already; ConfigError for a path
    or a data folder that cannot be used; StorageCorrupt where files of the data folder are damaged or gone.
    """
    source, target = cold.path / "rocksdb", Path(order["target"])
    _check_target(source, target)
    hidden = target.with_name(f".{target.name}.part")
    staged = rocks_checkpoint.staging(source, "snapshot")
    try:
        tell("link", 0, 0)
        _copied(source, staged, tell)
        tell("complete", 0, 0)
        about = _complete(staged, cold)
        shutil.rmtree(hidden, ignore_errors=True)  # of one that was cut off
        hidden.mkdir()
        tell("move", 0, 0)
        rocks_checkpoint.move(staged, hidden / "rocksdb", tell)
        kept_ids.copy(cold.path, hidden)
        files, nbytes = rocks_checkpoint.size_of(hidden)
        about |= {"bytes": nbytes, "files": files}
        (hidden / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
        tell("sync", 0, 0)
        rocks_checkpoint.make_durable(hidden)
        tell("name", 0, 0)
        _check_target(source, target)
        hidden.rename(target)
        rocks_checkpoint.sync(target.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        shutil.rmtree(hidden, ignore_errors=True)
    return {"path": str(target), **about}


def restore(cold: Cold, order: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """{"source": a snapshot or a copy of a data folder, "force": also a damaged one} -> {"position", "rows",
    "findings": how many, "kept": the old rows' path, or null}.

    ConfigError while somebody has the data folder open, or where there is no data at the source; StorageCorrupt, with
    all findings, for a source that is damaged. Nothing has changed then.
    """
    source, place = Path(order["source"]) / "rocksdb", cold.path
    if not (source / "CURRENT").exists():
        raise ConfigError(f"{source.parent}: is no snapshot and no data folder: it has no rocksdb/CURRENT")
    place.mkdir(parents=True, exist_ok=True)
    if (place / "rocksdb").exists() and source.samefile(place / "rocksdb"):
        raise ConfigError(f"{place}: is the data folder itself")
    with _to_ourselves(place):
        _tidy(place)
        staged = place / f".restoring-{secrets.token_hex(4)}"
        try:
            tell("link", 0, 0)
            staged.mkdir()  # with its mark before anything else
            (staged / MARK).touch()
            copy = staged / "new"
            _copied(source, copy, tell)
            for path in copy.iterdir():
                path.rename(staged / path.name)
            copy.rmdir()
            tell("check", 0, 0)
            found = audit.audited(staged, source, cold, tell)
            if found["findings"] and not order.get("force"):
                raise StorageCorrupt(_told(source.parent, found["findings"]), {"findings": len(found["findings"])})
            tell("complete", 0, 0)
            position = _complete(staged, cold)["position"]
            tell("sync", 0, 0)
            rocks_checkpoint.make_durable(staged)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        tell("exchange", 0, 0)
        kept = _exchange(place, staged, tell)
        with contextlib.suppress(OSError):  # without lists it begins cold, and the rows are in their place by now
            kept_ids.copy(source.parent, place)
    told = {"position": position, "rows": found["rows"], "findings": len(found["findings"])}
    return {**told, "kept": None if kept is None else str(kept)}


def _check_target(source: Path, target: Path) -> None:
    if not (source / "CURRENT").exists():
        raise ConfigError(f"cold.path {source.parent}: there is no data yet")
    if not target.is_absolute():
        raise ConfigError(f"{target}: should be an absolute path")
    if not target.parent.is_dir():
        raise ConfigError(f"{target.parent}: is no folder; make it first")
    if target.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{target}: is within the database that it should be a snapshot of")
    if os.path.lexists(target):
        raise Conflict(f"{target}: is there already; a snapshot overwrites nothing")


def _copied(source: Path, target: Path, tell: Tell) -> None:
    if lost := rocks_checkpoint.take(source, target, tell):
        raise StorageCorrupt(f"{source} has lost {', '.join(lost[:5])}: restore a snapshot, or import the tables again")


def _complete(folder: Path, cold: Cold) -> dict[str, Any]:
    """Open a copy, so that nothing is left to be replayed, and mark it as nobody's -> what it is."""
    store = RocksStore(folder, engine_options(cold, merge=False))
    try:
        data = store.get_meta(KEY)
        if data is None:
            raise ConfigError(f"{folder.parent}: no owner has ever finished a start with this data: there is none yet")
        cursor = Cursor.from_bytes(store.get_meta(CURSOR))
        store.put_meta(lineage.KEY, _NOBODYS.to_bytes())
        return {
            "format": 1,
            "position": max(store.log.last, cursor.position),
            "history": Catalogue.parse(data).history,
            "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
    finally:
        store.close()


@contextmanager
def _to_ourselves(place: Path) -> Iterator[None]:
    """Within the block no owner opens the data, and nobody else puts anything back. ConfigError where one has it."""
    with ExitStack() as stack:
        try:
            stack.callback(Claim(place).release)
            if (place / "rocksdb").is_dir():  # RocksDB's own lock, which it takes in the same way
                locked = os.open(place / "rocksdb" / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                stack.callback(os.close, locked)
                fcntl.lockf(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (FolderTaken, BlockingIOError) as error:
            holder = error.holder if isinstance(error, FolderTaken) else "another process"
            raise ConfigError(
                f"cold.path {place}: {holder} has it open: stop the service first; nothing is put in the place of data "
                "in use"
            ) from error
        yield


def _tidy(place: Path) -> None:
    """Make good what was cut off."""
    (place / "rocksdb" / MARK).unlink(missing_ok=True)  # first: what is there is the data
    for folder in place.glob(".restoring-*"):
        if (folder / MARK).exists() or not (folder / "CURRENT").exists():
            shutil.rmtree(folder)
        else:
            folder.rename(_kept_name(place))


def _exchange(place: Path, staged: Path, tell: Tell) -> Path | None:
    """Steps 3 and 4 -> where the old rows are."""
    old = place / "rocksdb"
    if old.exists():
        _exchange_names(staged, old)
    else:
        staged.rename(old)
    rocks_checkpoint.sync(place)
    tell("tidy", 0, 0)
    (old / MARK).unlink()
    tell("keep", 0, 0)
    if not staged.exists():
        return None
    kept = _kept_name(place)
    staged.rename(kept)
    rocks_checkpoint.sync(place)
    return kept


def _kept_name(place: Path) -> Path:
    name = f"rocksdb-before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    names = (place / (name if not n else f"{name}-{n}") for n in range(1000))
    return next(path for path in names if not path.exists())


def _exchange_names(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE):
        code = ctypes.get_errno()
        shutil.rmtree(one, ignore_errors=True)
        raise ConfigError(
            f"{other}: cannot be exchanged in one step on this file system ({os.strerror(code)}): move it to another "
            "name yourself, and do this again"
        )


def _told(source: Path, findings: list[dict[str, Any]]) -> str:
    more = "" if len(findings) <= 5 else f"\nand {len(findings) - 5} more"
    shown = "\n".join(f"{each['where']}: {each['what']}" for each in findings[:5])
    return f"{source} is damaged, and nothing was changed (--force puts it back all the same):\n{shown}{more}"
