"""What is looked at in a database folder before RocksDB opens it, since RocksDB would answer some damage with harm.

- A flipped record type in the MANIFEST or a write-ahead log can make it spin for ever, holding the GIL.
- A MANIFEST that was cut short it takes for an older state, opens, and removes the files that state does not know.
- Without CURRENT it makes a new database in the old one's place.
- A record near the end of a log whose length was raised by a flipped bit it takes for one that a crash cut off, and
  opens without that record and all that follow.
The seal notes which MANIFEST there is and how long it is, after each change that must not be lost.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from embcache_storage.store import StoreCorrupt

log = logging.getLogger(__name__)

SEAL: Final = "sealed.json"
_BLOCK: Final = 32 << 10
_HEADER: Final = 7
"""Of a record: checksum u32, length of the payload u16, type u8. The payload follows; no record crosses a block."""
_PADDING: Final = 0
_KNOWN_TYPES: Final = (1, 2, 3, 4)
"""Whole, first, middle and last piece. Higher types come with options that are not set here."""
_POLYNOMIAL: Final = 0x82F63B78
"""Of CRC-32C, reflected."""


def check_folder(path: Path) -> None:
    """StoreCorrupt where RocksDB must not be let at the database in `path`, if there is one."""
    manifest = _manifest(path)
    sealed = _read_seal(path)
    if manifest is None:
        if sealed is not None:
            raise StoreCorrupt(f"the store in {path} has lost its file CURRENT; restore a backup")
        return
    _check_log(manifest, sealed[1] if sealed is not None and sealed[0] == manifest.name else 0)
    for write_ahead_log in sorted(path.glob("*.log")):
        _check_log(write_ahead_log, 0)


def seal(path: Path) -> None:
    """Note the MANIFEST's length as it is now: a shorter one will be refused. Not for two threads at once."""
    manifest = _manifest(path)
    temporary = path / f"{SEAL}.part"
    try:
        if manifest is not None:
            temporary.write_text(json.dumps({"manifest": manifest.name, "bytes": manifest.stat().st_size}))
            temporary.replace(path / SEAL)
    except OSError as error:  # the older seal still holds, for less
        log.warning("cannot seal the store in %s: %s", path, error)


def has_log(path: Path) -> bool:
    """Whether a write-ahead log waits to be replayed."""
    return any(log.stat().st_size for log in path.glob("*.log"))


def _manifest(path: Path) -> Path | None:
    """The MANIFEST that CURRENT names; None where there is no database."""
    try:
        name = (path / "CURRENT").read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    if not name.startswith("MANIFEST-") or not (path / name).is_file():
        raise StoreCorrupt(f"{path / 'CURRENT'} names {name!r}, which is no MANIFEST there; restore a backup")
    return path / name


def _read_seal(path: Path) -> tuple[str, int] | None:
    try:
        sealed = json.loads((path / SEAL).read_text())
        return str(sealed["manifest"]), int(sealed["bytes"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # a seal that is damaged itself seals nothing
        return None


def _check_log(path: Path, sealed: int) -> None:
    """Look at the types and lengths of a log's records; what they hold, RocksDB checks itself.

    A crash may have left half a record at the end, but none that begins before the `sealed` length.
    """
    whole = 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for start, end, kind in _records(file):
            if kind not in _KNOWN_TYPES:
                raise StoreCorrupt(f"{path} is damaged: at byte {start} is a record of type {kind}; restore a backup")
            if end > size:
                _check_end(file, path, start, size)
                break
            whole = end
    if whole < sealed:
        raise StoreCorrupt(f"{path} breaks off at byte {whole}, and had {sealed} bytes at least; restore a backup")


def _check_end(file: IO[bytes], path: Path, start: int, size: int) -> None:
    """StoreCorrupt where the last record is not cut off, but says with a flipped bit that it is longer than it is."""
    file.seek(start)
    header = file.read(_HEADER)
    length = int.from_bytes(header[4:6], "little")
    lengths = [length ^ (1 << bit) for bit in range(16)]
    whole = [other for other in lengths if start + _HEADER + other <= size]
    payload = file.read(max(whole, default=0))
    if int.from_bytes(header[:4], "little") in _checksums(header[6:] + payload, {1 + other for other in whole}):
        raise StoreCorrupt(
            f"{path} is damaged: the record at byte {start} is not {length} bytes long as it says; restore a backup"
        )


def _checksums(data: bytes, lengths: set[int]) -> Iterator[int]:
    """The checksums, as they stand in a log, of the beginnings of `data` of so many bytes."""
    table = [_shifted(byte, 8) for byte in range(256)]
    state = 0xFFFFFFFF
    for length, byte in enumerate(data, 1):
        state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
        if length in lengths:
            crc = state ^ 0xFFFFFFFF
            yield ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF  # the mask of LevelDB's logs


def _shifted(value: int, bits: int) -> int:
    for _ in range(bits):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


def _records(file: IO[bytes]) -> Iterator[tuple[int, int, int]]:
    """(start, end, type) of each record that has a header; the last end may lie outside of the file."""
    at = 0
    while True:
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
        file.seek(at)
        header = file.read(_HEADER)
        if len(header) < _HEADER:
            return
        length, kind = int.from_bytes(header[4:6], "little"), header[6]
        if kind == _PADDING and not length:
            at += _BLOCK - at % _BLOCK
        else:
            yield at, at + _HEADER + length, kind
            at += _HEADER + length
