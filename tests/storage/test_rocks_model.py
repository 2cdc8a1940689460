"""RocksStore against a plain dict, through any order of changes, bulk loads and reopenings."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from embcache_storage.rocks import RocksOptions, RocksStore
from embcache_storage.store import FOUND, Change
from tests.storage.support import EDGE_IDS

ROW_BYTES = 12
# Few ids, so that operations meet; the edges among them, and runs longer than a scan's step.
IDS = st.sampled_from([*EDGE_IDS.tolist(), *range(10, 40)])
CONTENT = st.dictionaries(IDS, st.binary(min_size=ROW_BYTES, max_size=ROW_BYTES), max_size=30)


class Model(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="embcache-"))
        self.store = RocksStore(self.path, RocksOptions(sst_bytes=256, threads=3))
        self.held: dict[int, dict[int, bytes]] = {}
        self.meta: dict[str, bytes] = {}
        self.next_version = 0

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.path)

    @rule()
    def create(self) -> None:
        self.store.create(self.next_version, ROW_BYTES)
        self.held[self.next_version] = {}
        self.next_version += 1

    @rule(content=CONTENT, commit=st.booleans(), pieces=st.integers(1, 4))
    def bulk(self, content: dict[int, bytes], commit: bool, pieces: int) -> None:
        ids = np.array(sorted(content), np.uint64)
        with self.store.bulk(self.next_version, ROW_BYTES) as load:
            for piece in np.array_split(ids, pieces):
                load.add(piece, _rows(piece, content))
            if commit:
                assert load.commit() == len(content)
                assert self.store.count(self.next_version) == len(content)
                self.held[self.next_version] = dict(content)
        self.next_version += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data(), content=CONTENT)
    def write(self, data: st.DataObject, content: dict[int, bytes]) -> None:
        version = data.draw(st.sampled_from(sorted(self.held)))
        ids = np.array(list(content), np.uint64)
        self.store.commit([Change(version, ids, _rows(ids, content))])
        self.held[version] |= content

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.held)))
        self.store.drop(version)
        del self.held[version]

    @rule(key=st.sampled_from("ab"), value=st.binary(max_size=20))
    def put_meta(self, key: str, value: bytes) -> None:
        self.store.put_meta(key, value)
        self.meta[key] = value

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = RocksStore(self.path, RocksOptions(sst_bytes=256, threads=3))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), asked=st.lists(IDS))
    def read(self, data: st.DataObject, asked: list[int]) -> None:
        version = data.draw(st.sampled_from(sorted(self.held)))
        rows, state = self.store.read(version, ROW_BYTES, np.array(asked, np.uint64))
        held = self.held[version]
        assert state.tolist() == [FOUND if id_ in held else 0 for id_ in asked]
        assert [bytes(row) for row in rows] == [held.get(id_, bytes(ROW_BYTES)) for id_ in asked]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), start=IDS, limit=st.integers(0, 40))
    def scan(self, data: st.DataObject, start: int, limit: int) -> None:
        version = data.draw(st.sampled_from(sorted(self.held)))
        ids, rows = self.store.scan(version, ROW_BYTES, start, limit)
        expected = sorted((id_, row) for id_, row in self.held[version].items() if id_ >= start)[:limit]
        assert list(zip(ids.tolist(), map(bytes, rows), strict=True)) == expected

    @invariant()
    def knows_its_versions_and_meta_values(self) -> None:
        assert self.store.versions() == sorted(self.held)
        assert {key: self.store.get_meta(key) for key in "ab"} == {key: self.meta.get(key) for key in "ab"}


def _rows(ids: np.typing.NDArray[np.uint64], content: dict[int, bytes]) -> np.typing.NDArray[np.uint8]:
    joined = b"".join(content[int(id_)] for id_ in ids)
    return np.frombuffer(joined, np.uint8).reshape(len(ids), ROW_BYTES)


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
