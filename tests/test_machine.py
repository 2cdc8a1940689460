"""A random player of lookups, imports, drops, evictions and reopenings, against the oracle."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from embcache import EmbeddingCache
from embcache.config import Settings
from embcache_client.results import COLD, MISSING, WARM
from tests.naive import Naive, NaiveTable

NAMES = ["a", "b", "c"]
DTYPES = ["f32", "f16", "bf16", "q8"]
DEFAULTS: list[Any] = ["zeros", {"uniform": 0.5}]
WORLD = np.unique(np.random.default_rng(7).integers(0, 2**64, 900, dtype=np.uint64))  # far more than are kept warm
seeds = st.integers(0, 2**32 - 1)


class Hierarchy(RuleBasedStateMachine):
    """The cache under test has a warm tier that holds a fraction of the rows, so that eviction is always at work."""

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        config = self.folder / "config.toml"
        config.write_text('[warm]\ncapacity = "128KiB"\n[cold]\npath = "data"\n')
        self.settings = Settings.load(config)
        self.cache = EmbeddingCache.open(self.settings)
        self.naive = Naive()
        self.reopenings = 0  # bounded, since each takes a second or two

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.cache.close()
            shutil.rmtree(self.folder)

    @rule(name=st.sampled_from(NAMES), dim=st.integers(1, 33), dtype=st.sampled_from(DTYPES), seed=seeds)
    def fill(self, name: str, dim: int, dtype: str, seed: int) -> None:
        random = np.random.default_rng(seed)
        spec = {"name": name, "dim": dim, "dtype": dtype, "default": DEFAULTS[seed % 2]}
        table = self.naive.tables.get(name)
        if table is not None:  # a new version of the same table
            dim, spec = table.dim, None  # type: ignore[assignment]
        ids = WORLD[random.random(WORLD.size) < random.random()]
        rows = random.standard_normal((ids.size, dim), dtype=np.float32)
        with self.cache.importing(name, spec) as filling:
            for begin in range(0, ids.size, 250):
                filling.write(ids[begin : begin + 250], rows[begin : begin + 250])
        if table is None:
            self.naive.tables[name] = NaiveTable(dim, dtype, DEFAULTS[seed % 2])
        self.naive.tables[name].load(ids.tolist(), rows)

    @precondition(lambda self: self.naive.tables)
    @rule(wire=st.sampled_from(DTYPES), count=st.integers(0, 300), seed=seeds, data=st.data())
    def look_up(self, wire: str, count: int, seed: int, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.naive.tables)))
        hot = WORLD[: 1 + seed % WORLD.size]  # often the same ids again
        ids = np.random.default_rng(seed).choice(hot, count)
        answer = self.cache.lookup({name: ids}, dtype=wire)[name]
        wanted, found = self.naive.lookup(name, ids.tolist(), wire)
        np.testing.assert_array_equal(answer.rows, wanted)
        tiers = np.where(np.isin(answer.status, [WARM, COLD]), 1, answer.status)
        assert tiers.tolist() == [1 if there else MISSING for there in found]

    @precondition(lambda self: self.naive.tables)
    @rule(pooling=st.sampled_from(["sum", "mean"]), seed=seeds, data=st.data())
    def look_up_bags(self, pooling: str, seed: int, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.naive.tables)))
        random = np.random.default_rng(seed)
        lengths = random.integers(0, 9, 12)
        ids = random.choice(WORLD, int(lengths.sum()))
        answer = self.cache.lookup_bags({name: (ids, lengths)}, pooling=pooling)[name]
        bags = np.split(ids, np.cumsum(lengths)[:-1])
        np.testing.assert_array_equal(answer.rows, self.naive.lookup_bags(name, bags, {"pooling": pooling}))

    @precondition(lambda self: self.naive.tables)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.naive.tables)))
        self.cache.drop_table(name)
        del self.naive.tables[name]

    @precondition(lambda self: self.reopenings < 2)
    @rule()
    def reopen(self) -> None:
        self.reopenings += 1
        self.cache.close()
        self.cache = EmbeddingCache.open(self.settings)
        assert sorted(self.cache.tables()) == sorted(self.naive.tables)

    @precondition(lambda self: self.naive.tables)
    @rule(data=st.data())
    def scan(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.naive.tables)))
        start: int | None = 0
        ids: list[int] = []
        while start is not None:
            page = self.cache.scan_rows(name, start, 199)
            ids += page.ids.tolist()
            start = page.next
        assert ids == sorted(self.naive.tables[name].rows)


TestHierarchy = Hierarchy.TestCase
TestHierarchy.settings = settings(
    max_examples=5,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
