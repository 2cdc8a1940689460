"""EmbeddingCache over a real owner and a real RocksDB, against the oracle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache import EmbeddingCache
from embcache.config import Settings
from embcache.errors import (
    Conflict,
    DimensionMismatch,
    EmbcacheError,
    InvalidRows,
    MissingRows,
    NotReady,
    UnknownTable,
    UnsupportedDtype,
)
from embcache.features import hash_values
from embcache_client.lookup import Values
from embcache_client.results import COLD, MISSING, WARM
from tests.naive import Naive, NaiveTable

EDGES = [0, 1, 2**63, 2**64 - 1]
DEFAULTS: list[Any] = ["zeros", {"uniform": 0.25}, {"constant": [0.5] * 12}]


def settings_in(folder: Path, capacity: str = "64MiB") -> Settings:
    config = folder / "config.toml"
    config.write_text(f'[warm]\ncapacity = "{capacity}"\n[cold]\npath = "data"\n')
    return Settings.load(config)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingCache]:
    with EmbeddingCache.open(settings_in(tmp_path_factory.mktemp("cache"))) as opened:
        yield opened


def filled(cache: EmbeddingCache, name: str, dtype: str = "f32", default: Any = "zeros", count: int = 300) -> Naive:
    """A table of `count` random rows of dim 12 in the cache and in the oracle."""
    random = np.random.default_rng(len(name))
    ids = np.unique(np.concatenate([np.array(EDGES, np.uint64), random.integers(0, 2**64, count, dtype=np.uint64)]))
    rows = random.standard_normal((ids.size, 12), dtype=np.float32)
    with cache.importing(name, {"name": name, "dim": 12, "dtype": dtype, "default": default}) as filling:
        filling.write(ids, rows)
    naive = Naive()
    naive.tables[name] = NaiveTable(12, dtype, default)
    naive.tables[name].load(ids.tolist(), rows)
    return naive


def some_ids(naive: Naive, name: str) -> list[int]:
    """Known ids, repeated ones and unknown ones, in no order."""
    known = list(naive.tables[name].rows)
    mixed = known[:40] + known[:7] + EDGES + [5, 6, 2**64 - 2, 5]
    return [mixed[i] for i in np.random.default_rng(3).permutation(len(mixed))]


@pytest.mark.parametrize("wire", ["f32", "f16", "bf16", "q8"])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8"])
def test_every_dtype_comes_back_as_the_oracle_says_cold_and_warm(cache: EmbeddingCache, dtype: str, wire: str) -> None:
    name = f"dtype_{dtype}_{wire}"
    naive = filled(cache, name, dtype, DEFAULTS[len(name) % 3])
    ids = some_ids(naive, name)
    wanted, found = naive.lookup(name, ids, wire)
    for tier in (COLD, WARM):
        answer = cache.lookup({name: np.array(ids, np.uint64)}, dtype=wire)[name]
        np.testing.assert_array_equal(answer.rows, wanted)
        assert answer.status.tolist() == [tier if there else MISSING for there in found]


@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("dtype", ["f32", "q8"])
def test_unknown_ids_get_the_default_row_whoever_answers(cache: EmbeddingCache, dtype: str, default: Any) -> None:
    name = f"default_{dtype}_{DEFAULTS.index(default)}"
    naive = filled(cache, name, dtype, default)
    unknown = [3, 4, 2**64 - 3]
    wanted, _ = naive.lookup(name, unknown)
    for _ in range(2):  # from the store, then from an absent mark
        answer = cache.lookup({name: unknown})[name]
        np.testing.assert_array_equal(answer.rows, wanted)
        assert answer.status.tolist() == [MISSING] * 3


@pytest.mark.parametrize("options", [{"pooling": "sum"}, {"pooling": "mean"}, {"pooling": "sum", "weights": True}])
@pytest.mark.parametrize("wire", ["f32", "f16", "q8"])
def test_bags_are_pooled_as_the_oracle_says(cache: EmbeddingCache, options: dict[str, Any], wire: str) -> None:
    name = f"bags_{options['pooling']}_{len(options)}_{wire}"
    naive = filled(cache, name, default={"uniform": 1.0})
    ids = some_ids(naive, name)
    lengths = [0, 3, 1, 0, len(ids) - 9, 5, 0]
    weights = np.random.default_rng(1).standard_normal(len(ids)).astype(np.float32) if "weights" in options else None
    bags = np.split(np.array(ids, np.uint64), np.cumsum(lengths)[:-1])
    oracle_options = {**options, "weights": None if weights is None else weights.tolist()}
    wanted = naive.lookup_bags(name, bags, oracle_options, wire)
    for _ in range(2):
        answer = cache.lookup_bags({name: (ids, lengths, weights)}, pooling=options["pooling"], dtype=wire)[name]
        np.testing.assert_array_equal(answer.rows, wanted)
        assert answer.status.size == len(ids)


def test_several_tables_in_one_lookup(cache: EmbeddingCache) -> None:
    first, second = filled(cache, "several_a"), filled(cache, "several_bc", "q8")
    asked = {"several_a": some_ids(first, "several_a"), "several_bc": some_ids(second, "several_bc")}
    answer = cache.lookup(asked)
    np.testing.assert_array_equal(answer["several_a"].rows, first.lookup("several_a", asked["several_a"])[0])
    np.testing.assert_array_equal(answer["several_bc"].rows, second.lookup("several_bc", asked["several_bc"])[0])


def test_raw_values_are_hashed_as_the_tables_feature(cache: EmbeddingCache) -> None:
    values = ["a", "b", "ключ"]
    ids = np.sort(hash_values("colour", values))
    with cache.importing("valued", {"name": "valued", "dim": 2, "feature": "colour"}) as filling:
        filling.write(ids, np.arange(6, dtype=np.float32).reshape(3, 2))
    by_value = cache.lookup({"valued": values})["valued"]
    by_id = cache.lookup({"valued": hash_values("colour", values)})["valued"]
    np.testing.assert_array_equal(by_value.rows, by_id.rows)
    assert by_value.found.all()
    assert not cache.lookup({"valued": Values([1, 2])})["valued"].found.any()


def test_an_empty_lookup_has_empty_rows(cache: EmbeddingCache) -> None:
    filled(cache, "empty")
    assert cache.lookup({"empty": []})["empty"].rows.shape == (0, 12)
    assert cache.lookup_bags({"empty": ([], [])})["empty"].rows.shape == (0, 12)


def test_results_stay_as_they_are_while_later_lookups_are_made(cache: EmbeddingCache) -> None:
    naive = filled(cache, "kept")
    known = list(naive.tables["kept"].rows)
    kept = [cache.lookup({"kept": known[i : i + 9]})["kept"].rows[1:3] for i in range(50)]
    for i, rows in enumerate(kept):
        np.testing.assert_array_equal(rows, naive.lookup("kept", known[i + 1 : i + 3])[0])


def test_strict_names_ids_without_a_row(cache: EmbeddingCache) -> None:
    filled(cache, "strict")
    with pytest.raises(MissingRows, match="2 ids without a row, the first is 77") as raised:
        cache.lookup({"strict": [0, 77, 1, 78]}, strict=True)
    assert raised.value.detail["ids"] == ["77", "78"]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda cache: cache.lookup({"nowhere": [1]}), UnknownTable, "nowhere"),
        (lambda cache: cache.lookup({"faulty": [1]}, version="9"), UnknownTable, "no version '9'"),
        (lambda cache: cache.lookup({"faulty": [1]}, dtype="f64"), UnsupportedDtype, "f64"),
        (lambda cache: cache.lookup({"faulty": [-1]}), ValueError, "negative"),
        (lambda cache: cache.lookup(["faulty"]), TypeError, "tables are list, not a dict"),
        (lambda cache: cache.create_table({"name": "faulty", "dim": 13}), Conflict, "faulty"),
        (lambda cache: cache.create_table({"name": "Not OK", "dim": 13}), EmbcacheError, "name"),
        (lambda cache: cache.drop_table("nowhere"), UnknownTable, "nowhere"),
        (lambda cache: cache.importing("nowhere"), UnknownTable, "nowhere"),
    ],
)
def test_what_cannot_be_is_said_clearly(cache: EmbeddingCache, call: Any, error: type[Exception], words: str) -> None:
    filled(cache, "faulty")
    with pytest.raises(error, match=words):
        call(cache)


def test_an_import_that_goes_wrong_leaves_the_table_as_it_was(cache: EmbeddingCache) -> None:
    naive = filled(cache, "reimport")
    ids = some_ids(naive, "reimport")
    for bad_ids, bad_rows, error in (
        ([1, 2], np.zeros((2, 11)), DimensionMismatch),
        ([1, 2], np.full((2, 12), np.nan), InvalidRows),
        ([2, 2], np.zeros((2, 12)), EmbcacheError),
    ):
        filling = cache.importing("reimport")
        filling.write([0], np.ones((1, 12)))
        with pytest.raises(error), filling:
            filling.write(bad_ids, bad_rows)
    answer = cache.lookup({"reimport": np.array(ids, np.uint64)})["reimport"]
    np.testing.assert_array_equal(answer.rows, naive.lookup("reimport", ids)[0])


def test_many_rows_are_written_in_pieces(cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embcache.tablecalls.PIECE_BYTES", 1000)
    naive = filled(cache, "pieces")
    ids = some_ids(naive, "pieces")
    answer = cache.lookup({"pieces": np.array(ids, np.uint64)})["pieces"]
    np.testing.assert_array_equal(answer.rows, naive.lookup("pieces", ids)[0])
    filling = cache.importing("pieces")
    with pytest.raises(DimensionMismatch), filling:
        filling.write(np.arange(30), np.zeros((31, 12)))


def test_an_import_replaces_all_rows_at_once(cache: EmbeddingCache) -> None:
    naive = filled(cache, "replaced")
    ids = some_ids(naive, "replaced")
    cache.lookup({"replaced": np.array(ids, np.uint64)})  # warm, absent marks and all
    with cache.importing("replaced") as filling:
        filling.write([5, 6], np.ones((2, 12)))
    naive.tables["replaced"].load([5, 6], np.ones((2, 12), np.float32))
    answer = cache.lookup({"replaced": np.array(ids, np.uint64)})["replaced"]
    np.testing.assert_array_equal(answer.rows, naive.lookup("replaced", ids)[0])
    assert answer.version != "1"


def test_a_dropped_table_is_unknown_and_its_name_free(cache: EmbeddingCache) -> None:
    filled(cache, "dropped")
    cache.lookup({"dropped": [0, 1]})
    cache.drop_table("dropped")
    with pytest.raises(UnknownTable):
        cache.lookup({"dropped": [0, 1]})
    assert cache.create_table({"name": "dropped", "dim": 3})
    answer = cache.lookup({"dropped": [0, 1]})["dropped"]
    assert answer.rows.shape == (2, 3)
    assert not answer.found.any()


def test_pages_of_a_scan_make_up_the_table(cache: EmbeddingCache) -> None:
    naive = filled(cache, "scanned", "f16")
    ids: list[int] = []
    rows = []
    start: int | None = 0
    while start is not None:
        page = cache.scan_rows("scanned", start, 37)
        ids += page.ids.tolist()
        rows.append(page.rows)
        start = page.next
    assert ids == sorted(naive.tables["scanned"].rows)
    np.testing.assert_array_equal(np.concatenate(rows), naive.lookup("scanned", ids)[0])


def test_threads_look_up_while_versions_change(cache: EmbeddingCache) -> None:
    """Every answer is one version's rows as a whole: all ones, or all twos, and so on."""
    ids = np.arange(500, dtype=np.uint64)

    def fill(value: int) -> None:
        with cache.importing("racing", {"name": "racing", "dim": 4}) as filling:
            filling.write(ids, np.full((ids.size, 4), value))

    fill(1)
    stop = threading.Event()
    seen: list[set[float]] = []

    def look() -> None:
        while not stop.is_set():
            rows = cache.lookup({"racing": ids}, strict=True)["racing"].rows
            seen.append(set(np.unique(rows).tolist()))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for value in range(2, 12):
        fill(value)
    stop.set()
    for thread in threads:
        thread.join()
    assert all(len(values) == 1 for values in seen)
    assert {11.0} == set(np.unique(cache.lookup({"racing": ids})["racing"].rows).tolist())


def test_an_owner_that_dies_is_started_again_with_all_its_rows(tmp_path: Path) -> None:
    with EmbeddingCache.open(settings_in(tmp_path)) as cache:
        naive = filled(cache, "survives")
        ids = some_ids(naive, "survives")
        os.kill(cache.stats()["owner"]["pid"], signal.SIGKILL)
        for _ in range(100):
            try:
                answer = cache.lookup({"survives": np.array(ids, np.uint64)})["survives"]
                break
            except NotReady:
                continue
        np.testing.assert_array_equal(answer.rows, naive.lookup("survives", ids)[0])


def test_a_forked_child_leaves_its_parents_cache_alone_and_attaches_one(tmp_path: Path) -> None:
    script = f"""
import os, sys, time
from embcache import EmbeddingCache
from embcache.config import Settings
from embcache.errors import NotReady
import numpy as np
ids = np.arange(100, dtype=np.uint64)
cache = EmbeddingCache.open(Settings.load({str(settings_in(tmp_path).cold.path.parent / "config.toml")!r}))
with cache.importing("item", {{"name": "item", "dim": 2}}) as load:
    load.write(ids, np.ones((100, 2), np.float32))
child = os.fork()
if child == 0:
    try:
        cache.lookup({{"item": ids}})
    except NotReady as error:
        assert "before a fork" in str(error)
        cache.close()
        with EmbeddingCache.attach({str(tmp_path / "data")!r}) as own:
            assert (own.lookup({{"item": ids}})["item"].rows == 1).all()
            os._exit(7)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert (cache.lookup({{"item": ids}})["item"].rows == 1).all()
if os.fork() == 0:
    time.sleep(60)
print(cache._owner.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        line = parent.stdout.readline()
        assert line, parent.stderr.read().decode()
        owner = Path(f"/proc/{int(line)}")
        end = time.monotonic() + 20
        while owner.exists() and time.monotonic() < end:
            time.sleep(0.05)
        lived = owner.exists()
        os.killpg(parent.pid, signal.SIGKILL)
    assert not lived, "the owner lives on for the sake of a forked child"


def test_a_second_reader_attaches_beside_the_first(cache: EmbeddingCache) -> None:
    naive = filled(cache, "attached")
    ids = some_ids(naive, "attached")
    with EmbeddingCache.attach(cache._folder) as other:
        answer = other.lookup({"attached": np.array(ids, np.uint64)})["attached"]
        np.testing.assert_array_equal(answer.rows, naive.lookup("attached", ids)[0])
        other.create_table({"name": "made_by_the_other", "dim": 1})
    assert "made_by_the_other" in cache.tables()


def test_nobody_to_attach_to_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="no owner answers"):
        EmbeddingCache.attach(tmp_path)
