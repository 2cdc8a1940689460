"""What is wrong with a data folder: its rows, its catalogue, its log, and whether they fit each other. Changes nothing.

The files are copied first, by links where these can be (rocks_checkpoint.py), and it is the copy that is opened: so
nothing is replayed or written in the folder itself, and a service that runs on it does not notice.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from embcache.config import Cold
from embcache.errors import ConfigError, StorageCorrupt
from embcache.host.convert import decode_rows, first_nonfinite
from embcache.owner.applier import CURSOR, Cursor
from embcache.owner.catalogue import KEY, Catalogue
from embcache.owner.entries import from_payload
from embcache.owner.errands import Tell
from embcache.owner.marks import bits_of, groups_of
from embcache.owner.opening import engine_options
from embcache.owner.producers import META, Producer
from embcache.owner.quarantine import HEAD, SCANNED, Quarantine, Record, marks_key
from embcache.owner.updates import Batch
from embcache.spec import TableSpec
from embcache_storage import rocks_checkpoint
from embcache_storage.rocks import RocksStore
from embcache_storage.rocks_audit import Damage
from embcache_storage.store import StoreCorrupt, StoreError, StoreTimeout, U8Array, U64Array

RESTORE: Final = "restore a snapshot"
_SHOWN: Final = 100  # findings of one kind, at most


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, where, and how to mend it."""

    what: str
    where: str
    mend: str


class _Version(NamedTuple):
    table: str
    label: str
    number: int
    spec: TableSpec

    @property
    def where(self) -> str:
        return f"table {self.table}, version {self.label}"


def check(cold: Cold, order: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """{} -> {"findings": [{"what", "where", "mend"}, ...], "tables", "rows", "entries", "position", "history"}."""
    source = cold.path / "rocksdb"
    if not source.is_dir():
        raise ConfigError(f"{cold.path}: there is no data: it has no folder rocksdb")
    staged = rocks_checkpoint.staging(source, "check")
    try:
        lost = rocks_checkpoint.take(source, staged, tell)
        told = audited(staged, source, cold, tell)
        told["findings"] = [
            asdict(Finding(f"the file {name} is gone", str(source), "import the tables concerned again, or " + RESTORE))
            for name in lost
        ] + told["findings"]
        return told
    except (StoreCorrupt, StoreTimeout) as error:
        return _nothing([Finding(str(error).replace(str(staged), str(source)), str(source), RESTORE)])
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def audited(folder: Path, source: Path, cold: Cold, tell: Tell) -> dict[str, Any]:
    """As `check`, of a copy that nobody has open. Files are named as those of the source, which they are."""
    try:
        store = RocksStore(folder, engine_options(cold, merge=False))
    except (StoreCorrupt, StoreTimeout) as error:
        told = _nothing([Finding(str(error), str(source), RESTORE)])
    else:
        try:
            told = _Audit(store, tell).run()
        finally:
            store.close()
    for finding in told["findings"]:
        finding["what"] = finding["what"].replace(str(folder), str(source))
    return told


def _nothing(findings: list[Finding]) -> dict[str, Any]:
    """What is told where nothing could be looked at."""
    told = {"tables": 0, "rows": 0, "entries": 0, "position": 0, "history": ""}
    return {"findings": [asdict(finding) for finding in findings], **told}


class _Audit:
    """One audit of an open store."""

    def __init__(self, store: RocksStore, tell: Tell) -> None:
        self._store = store
        self._tell = tell
        self._findings: list[Finding] = []
        self._rows = 0

    def run(self) -> dict[str, Any]:
        catalogue = self._catalogue()
        versions = [] if catalogue is None else list(_versions(catalogue))
        self._check_versions(catalogue, versions)
        total, before = sum(self._store.count(each.number) for each in versions if each.number in self._there), 0
        for version in versions:
            if version.number in self._there:
                self._check_rows(version, total)
        before = self._check_log()
        self._check_quarantine()
        return {
            "findings": [asdict(finding) for finding in self._findings],
            "tables": 0 if catalogue is None else len(catalogue.tables),
            "rows": self._rows,
            "entries": before,
            "position": self._store.log.last,
            "history": "" if catalogue is None else catalogue.history,
        }

    def _found(self, what: str, where: str, mend: str) -> None:
        self._findings.append(Finding(what, where, mend))

    def _catalogue(self) -> Catalogue | None:
        try:
            data = self._store.get_meta(KEY)
            if data is not None:
                return Catalogue.parse(data)
            self._found("there is none", "catalogue", f"start the service on it if it is new, else {RESTORE}")
        except (StorageCorrupt, StoreError) as error:
            self._found(str(error), "catalogue", RESTORE)
        return None

    def _check_versions(self, catalogue: Catalogue | None, versions: list[_Version]) -> None:
        self._there = set(self._store.versions())
        named = [each.number for each in versions]
        for each in versions:
            if each.number not in self._there:
                self._found("its rows are gone", each.where, f"drop it, or {RESTORE}")
            if named.count(each.number) > 1:
                self._found(f"shares its rows, number {each.number}, with another one", each.where, RESTORE)
        if catalogue is None:
            return
        for number in sorted(self._there - set(named)):
            if number > catalogue.numbers:
                self._found(
                    f"there are rows of version {number}, and numbers were given up to {catalogue.numbers} only",
                    "catalogue",
                    RESTORE,
                )

    def _check_rows(self, version: _Version, total: int) -> None:
        counted = self._store.is_counted(version.number)
        mend = f"import the table again, assign these rows anew where single ones are wrong, or {RESTORE}"
        rows, damages = 0, 0
        look = partial(self._look, version)
        try:
            for count, found in self._store.audit(version.number, version.spec.cold_row_bytes, look):
                for damage in found[: max(0, _SHOWN - damages)]:
                    self._found(_told(damage), version.where, mend)
                damages += len(found)
                rows += count
                self._rows += count
                self._tell("read rows", self._rows, max(total, self._rows))
        except StoreError as error:
            self._found(str(error), version.where, mend)
        if damages > _SHOWN:
            self._found(f"{damages - _SHOWN:,} more damages like these", version.where, mend)
        if counted and not damages and rows != self._store.count(version.number):
            expected = self._store.count(version.number)
            self._found(f"has {rows:,} rows, and had {expected:,} when it was imported", version.where, mend)

    def _look(self, version: _Version, ids: U64Array, rows: U8Array) -> None:
        spec = version.spec
        bad = first_nonfinite(decode_rows(rows, spec.cold_code, spec.dim))
        if bad >= 0:
            self._found(f"the row of id {ids[bad]} holds NaN or infinity", version.where, "assign it anew")

    def _check_log(self) -> int:
        """The update log, the cursor and the producers -> how many entries there are."""
        log, where = self._store.log, "update log"
        cursor = Cursor.from_bytes(self._store.get_meta(CURSOR))
        if not log.first - 1 <= cursor.position <= log.last:
            self._found(
                f"rows stand at position {cursor.position}, and the log holds {log.first} to {log.last}", where, RESTORE
            )
        newest: dict[str, tuple[int, Batch]] = {}
        unread = 0
        for position in range(log.first, log.last + 1):
            self._tell("read the update log", position - log.first, log.last - log.first + 1)
            try:
                [entry] = log.read(position - 1, 1)
                held = from_payload(entry.payload)
            except Exception as error:  # whatever bytes make of those who take them for an entry
                unread += 1
                mend = (
                    RESTORE
                    if position > cursor.position
                    else "nothing is lost but what reads old entries; or " + RESTORE
                )
                if unread <= _SHOWN:
                    self._found(f"the entry at position {position} cannot be read: {error}", where, mend)
                continue
            if isinstance(held, Batch) and not held.released and position <= cursor.position:
                newest[held.producer] = (position, held)
        if not unread:
            self._check_producers(cursor, newest)
        return log.last + 1 - log.first

    def _check_quarantine(self) -> None:
        """Each batch that is listed is whole, and of a position that is applied; nothing that it needs is trimmed."""
        mend = f"drop it (embcache quarantine drop), or {RESTORE}"
        quarantine, log = Quarantine(self._store, 0), self._store.log
        cursor = Cursor.from_bytes(self._store.get_meta(CURSOR))
        for key, data in self._store.metas(HEAD).items():
            where = f"batch that is set aside, position {int(key[len(HEAD) :])}"
            try:
                if not data:
                    continue
                record = Record.from_bytes(data)
                groups = groups_of(quarantine.read(record), None)
                bits = self._store.get_meta(marks_key(record.position))
            except Exception as error:  # whatever is made of damaged bytes
                self._found(f"cannot be read: {error}", where, mend)
                continue
            if bits is not None and len(bits) != len(bits_of(groups.values())):
                self._found("its marks, of which of its rows were changed since, are not of its rows", where, mend)
            if record.position > cursor.position:
                self._found(f"rows stand at position {cursor.position}, before it", where, RESTORE)
            read = max(record.position, int(self._store.get_meta(SCANNED) or 0))
            if read < log.first - 1:
                self._found(f"the log begins at {log.first}, and it was marked up to {read} only", where, mend)

    def _check_producers(self, cursor: Cursor, newest: Mapping[str, tuple[int, Batch]]) -> None:
        """What is kept of each producer is what its newest entry among those that are applied says."""
        for key, data in self._store.metas(META).items():
            name = key[len(META) :]
            try:
                state = Producer.from_bytes(data)
            except Exception as error:
                self._found(f"what is kept of it cannot be read: {error!r}", f"producer {name}", RESTORE)
                continue
            if state.position > cursor.position:
                self._found(
                    f"it stands at position {state.position}, and rows at {cursor.position}",
                    f"producer {name}",
                    RESTORE,
                )
            position, batch = newest.get(name, (state.position, None))
            said = None if batch is None else (batch.epoch, batch.seq, batch.digest, batch.mark)
            if position != state.position or (said or _kept(state)) != _kept(state):
                self._found(
                    f"its newest batch stands at position {position}, and is not the one that is kept of it",
                    f"producer {name}",
                    RESTORE,
                )


def _kept(state: Producer) -> tuple[int, int, bytes, bytes]:
    return state.epoch, state.last_seq, state.digest, state.mark


def _told(damage: Damage) -> str:
    if damage.first == damage.last:
        return f"the row of id {damage.first} {damage.what}"
    return f"rows of ids {damage.first} to {damage.last} {damage.what}"


def _versions(catalogue: Catalogue) -> Iterator[_Version]:
    """Every version by the catalogue's form on disk."""
    for table in json.loads(catalogue.to_bytes())["tables"]:
        for version in table["versions"]:
            spec = TableSpec.parse(version.get("spec", table["spec"]))
            yield _Version(table["spec"]["name"], version["label"], version["number"], spec)
