"""Copying a database while another process writes it: the files as a crash at one instant would leave them.

RocksDB's own checkpoints are not used: rocksdict holds the GIL for all of one, 0.1 s after a flush and longer without,
and every thread of the owner would stand still. Here nobody waits for anything, since it is done from outside:

    table files (.sst)   never change once written: linked, or copied where a link cannot be
    write-ahead logs     only grow, and only the newest does: copied, all that were there at the beginning
    MANIFEST             only grows: its length is noted at the beginning, and so much of it is copied

Files go only after the MANIFEST says that they are not needed. So where it is the same at the end as at the beginning,
all that it names was there in between, and what was copied is what a kill would have left when the newest log had the
length that was read. Where it is another, all is done again; table files that are there already are kept.

Invariant: only table files that the MANIFEST names are linked when the copy is opened for writing. RocksDB might give
the number of any other one to a new file, and write through the link.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from rocksdict import AccessType, Options, Rdict

from embcache_storage.rocks_check import SEAL, check_folder
from embcache_storage.rocks_errors import engine_errors
from embcache_storage.store import StoreCorrupt, StoreError

_TRIES: Final = 1000
_PAUSE_S: Final = 0.01
_CONFIG: Final = "rocksdict-config.json"
_LOGS: Final = "logs"
_NO_LINK: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EACCES})

Tell = Callable[[str, int, int], None]
"""What is being done, and how much of how much is done: bytes, or rows."""


def take(source: Path, target: Path, tell: Tell) -> list[str]:
    """Make the new folder `target` a copy of the database in `source`, which may be in use; it can be opened then.

    Returns the names of table files that the database has lost. Table files are shared by hard links where both are on
    one file system. StoreCorrupt where the head of the database is damaged; StoreError where it is none, or changes too
    fast; OSError such as for a full disk.
    """
    if not (source / "CURRENT").exists():
        raise StoreError(f"{source} holds no rows: it is not the folder rocksdb of a data folder")
    target.mkdir()
    (target / _LOGS).mkdir()
    for _ in range(_TRIES):
        if _try(source, target, tell):
            break
        time.sleep(_PAUSE_S)
    else:
        raise StoreError(f"the files in {source} change faster than they can be copied: try again when it is calmer")
    shutil.copyfile(source / _CONFIG, target / _CONFIG)
    check_folder(target)
    lost = _drop_others(target)
    for log in (target / _LOGS).iterdir():
        log.rename(target / log.name)
    (target / _LOGS).rmdir()
    check_folder(target)
    return lost


def staging(database: Path, name: str) -> Path:
    """A path for a copy of a database, in a folder that the database empties when it is opened."""
    (database / "staging").mkdir(exist_ok=True)
    return database / "staging" / f"{name}-{secrets.token_hex(4)}"


def make_durable(folder: Path) -> None:
    """Have all files below a folder, and their names, survive power loss."""
    for parent, _, names in os.walk(folder):
        for path in (*(Path(parent, name) for name in names), Path(parent)):
            sync(path)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, survive power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: Path, target: Path, tell: Tell) -> None:
    """Move a folder that nobody uses to a name that is free, on whatever file system."""
    try:
        source.rename(target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    target.mkdir()
    files = [path for path in source.iterdir() if path.is_file()]
    for path in _told(files, "copy", tell):
        shutil.copyfile(path, target / path.name)


def size_of(folder: Path) -> tuple[int, int]:
    """(files, bytes) below a folder."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def _try(source: Path, target: Path, tell: Tell) -> bool:
    """One attempt; -> whether it is whole."""
    head = _head(source)
    if head is None:
        return False
    names = sorted(path.name for path in source.iterdir())
    logs = [name for name in names if name.endswith(".log")]
    for old in (*(target / _LOGS).iterdir(), *target.glob(SEAL)):
        old.unlink()
    if SEAL in names:
        shutil.copyfile(source / SEAL, target / SEAL)
    tables = [source / name for name in names if name.endswith(".sst") and not (target / name).exists()]
    try:
        for path in _told(tables, "link or copy", tell):
            _share(path, target / path.name)
        for name in logs:
            shutil.copyfile(source / name, target / _LOGS / name)
        _copy_head(source, target, *head)
    except FileNotFoundError:  # not needed any more, so the MANIFEST is another by now
        return False
    return _head(source) == head


def _head(source: Path) -> tuple[str, int] | None:
    """The name and the length of the MANIFEST; None while it changes."""
    try:
        name = (source / "CURRENT").read_text(errors="replace").strip()
    except FileNotFoundError:
        raise StoreCorrupt(f"the store in {source} has lost its file CURRENT") from None
    if not name.startswith("MANIFEST-"):
        raise StoreCorrupt(f"{source / 'CURRENT'} names {name!r}, which is no MANIFEST")
    try:
        return name, (source / name).stat().st_size
    except FileNotFoundError:
        if (source / "CURRENT").read_text(errors="replace").strip() == name:
            raise StoreCorrupt(f"{source / 'CURRENT'} names {name!r}, which is not there") from None
        return None


def _copy_head(source: Path, target: Path, name: str, length: int) -> None:
    for old in target.glob("MANIFEST-*"):
        old.unlink()
    with (source / name).open("rb") as file:
        (target / name).write_bytes(file.read(length))
    (target / "CURRENT").write_text(f"{name}\n")


def _share(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        part = target.with_suffix(".part")  # a copy that broke off must not be taken for one
        shutil.copyfile(source, part)
        part.rename(target)


def _drop_others(target: Path) -> list[str]:
    """Remove table files that the MANIFEST does not name -> those that it names and that are not there.

    Nothing is written meanwhile, and no log is there to be replayed.
    """
    with engine_errors(f"cannot list the files of {target}"):
        options = Options(raw_mode=True)
        options.set_paranoid_checks(False)  # a file that is lost is told of, and is no end
        families = {name: Options(raw_mode=True) for name in Rdict.list_cf(str(target), options)}
        database = Rdict(str(target), options, families, AccessType.read_only())
        try:
            named = {Path(str(file["name"])).name for file in database.live_files()}
        finally:
            database.close()
    for path in target.glob("*.sst"):
        if path.name not in named:
            path.unlink()
    return sorted(name for name in named if not (target / name).exists())


def _told(files: list[Path], what: str, tell: Tell) -> Iterable[Path]:
    """The files, one after the other, and how far we are."""
    sizes = []
    for path in files:
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            sizes.append(0)
    done, total = 0, sum(sizes)
    for path, size in zip(files, sizes, strict=True):
        yield path
        done += size
        tell(what, done, total)
