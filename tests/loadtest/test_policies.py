"""Policies on traces: ours by its own kernels, the others against plain ones, and what the command writes."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from typer.testing import CliRunner

from loadtest.cli import app
from loadtest.datasets import DataError
from loadtest.peers.cache_policies import POLICIES, cache_policies
from loadtest.policies.accesses import made, read
from loadtest.policies.hot import places_within, rows_missed
from loadtest.policies.own import rows_near, rows_read
from loadtest.policies.run import ALL, BUSY, HOT, HOT_BUSY, JUDGED, OURS, Wanted, against_best, run
from loadtest.workloads import even_lookups
from tests.loadtest.load.test_page import Strict


def zipf_ids(count: int, seed: int = 1) -> NDArray[np.uint64]:
    return (np.random.default_rng(seed).zipf(1.2, count) % 2000).astype(np.uint64)


def lru_misses(ids: NDArray[np.uint64], entries: int) -> int:
    cache: OrderedDict[int, None] = OrderedDict()
    misses = 0
    for each in ids.tolist():
        if each in cache:
            cache.move_to_end(each)
            continue
        misses += 1
        cache[each] = None
        if len(cache) > entries:
            cache.popitem(last=False)
    return misses


def farthest_misses(ids: NDArray[np.uint64], entries: int) -> int:
    """Of the policy that pushes out what is asked for last (Belady, 1966)."""
    asked = ids.tolist()
    following, seen = [len(asked)] * len(asked), dict[int, int]()
    for place in range(len(asked) - 1, -1, -1):
        following[place] = seen.get(asked[place], len(asked) + place)
        seen[asked[place]] = place
    cache = dict[int, int]()
    misses = 0
    for place, each in enumerate(asked):
        if each not in cache:
            misses += 1
            if len(cache) == entries:
                del cache[max(cache, key=cache.__getitem__)]
        cache[each] = following[place]
    return misses


def test_a_table_that_holds_all_reads_each_row_once() -> None:
    ids = zipf_ids(5000)
    distinct = len(np.unique(ids))
    for size in (1, 16, 500):
        assert rows_read(even_lookups(ids, size), rows_near(2 * distinct)) == distinct
        assert rows_missed(even_lookups(ids, size), places_within(2 * distinct)) == distinct


def test_a_smaller_table_reads_more_and_hears_of_hits() -> None:
    lookups = even_lookups(zipf_ids(30_000), 16)
    small, large = (rows_read(lookups, rows_near(entries)) for entries in (50, 400))
    assert large < small < 30_000
    assert large < lru_misses(lookups.ids, rows_near(400)) < rows_read(lookups, rows_near(400), busy=True) * 1.2


def test_so_does_a_smaller_table_of_the_hot_tier() -> None:
    lookups = even_lookups(zipf_ids(30_000), 16)
    small, large = (rows_missed(lookups, places_within(entries)) for entries in (64, 400))
    assert large < small < 30_000
    assert large < lru_misses(lookups.ids, places_within(400))
    assert large < rows_missed(lookups, places_within(400), busy=True)


def test_our_policy_is_near_the_best_on_the_real_trace(real_data: Path) -> None:
    pytest.importorskip("libcachesim")
    lookups = read(real_data / "scarab_recs_trace.npz", 16).lookups
    ids = lookups.ids[:300_000]
    with cache_policies(ids) as peers:
        for entries in (1001, 10_003):
            best = min(peers.miss_ratio(policy, entries) for policy in JUDGED)
            assert rows_read(even_lookups(ids, 16), entries) / len(ids) <= 1.02 * best
            assert rows_missed(even_lookups(ids, 16), places_within(entries)) / len(ids) <= 1.02 * best


def test_the_others_do_what_their_names_say() -> None:
    pytest.importorskip("libcachesim")
    ids = zipf_ids(20_000)
    with cache_policies(ids) as peers:
        for entries in (21, 210):
            assert peers.miss_ratio("LRU", entries) == pytest.approx(lru_misses(ids, entries) / len(ids))
            best = farthest_misses(ids, entries) / len(ids)
            assert peers.miss_ratio("Belady", entries) == pytest.approx(best, rel=0.01)
            assert all(peers.miss_ratio(policy, entries) >= 0.99 * best for policy in POLICIES)


def hottest(ids: NDArray[np.uint64]) -> set[int]:
    distinct, counts = np.unique(ids, return_counts=True)
    return set(distinct[np.argsort(-counts)[:50]].tolist())


def test_made_accesses_move_and_are_the_same_for_a_seed() -> None:
    first, again, other = made(16, 1, 50_000, 2000), made(16, 1, 50_000, 2000), made(16, 2, 50_000, 2000)
    np.testing.assert_array_equal(first.lookups.ids, again.lookups.ids)
    assert (first.lookups.ids != other.lookups.ids).any()
    assert len(first.lookups.ids) == 50_000
    hot = [hottest(part) for part in (first.lookups.ids[:10_000], first.lookups.ids[-10_000:])]
    assert 5 < len(hot[0] & hot[1]) < 45
    assert "MADE UP" in first.origin


def test_accesses_of_a_file_come_in_its_lookups(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ids=np.arange(10, dtype=np.uint64), lengths=np.array([3, 7]))
    np.save(tmp_path / "b.npy", np.arange(10, dtype=np.uint64))
    assert read(tmp_path / "a.npz", 4).lookups.starts.tolist() == [0, 3, 10]
    assert read(tmp_path / "b.npy", 4).lookups.starts.tolist() == [0, 4, 8, 10]
    with pytest.raises(DataError, match=r"c\.npy: no such file"):
        read(tmp_path / "c.npy", 4)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    np.save(tmp_path / "trace.npy", zipf_ids(8000))
    return tmp_path / "trace.npy"


def test_without_the_library_only_ours_is_tried(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libcachesim", None)
    report = run(Wanted(trace), Console(file=StringIO()))
    assert list(report["miss_ratios"]) == [OURS, BUSY, HOT, HOT_BUSY]
    assert against_best(report) == []
    assert "bench-policies" in report["absent"]
    done = CliRunner().invoke(app, ["policies", "--trace", str(trace)])
    assert done.exit_code == 0
    assert "Policies to compare with are absent" in done.output
    assert "pip install -e '.[bench-policies]'" in done.output


def test_the_command_prints_a_table_and_writes_report_and_page(trace: Path, tmp_path: Path) -> None:
    written = ["--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "p.html")]
    done = CliRunner().invoke(app, ["policies", "--trace", str(trace), "--lookup-ids", "8", *written])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["data"]["accesses"] == 8000
    assert report["entries"] == sorted(set(report["entries"]))
    assert all(0 < ratio <= 1 for of in report["miss_ratios"].values() for ratio in of)
    assert report["hot_entries"] == [max(1, entries // 32) * 32 for entries in report["entries"]]
    assert [f"miss ratios with {entries:,} entries ..." for entries in report["entries"]] == done.stderr.splitlines()
    expected = ALL if not report["absent"] else (OURS, BUSY, HOT, HOT_BUSY)
    assert tuple(report["miss_ratios"]) == tuple(expected)
    page = (tmp_path / "p.html").read_text()
    assert Strict(page).fetched == []
    for policy in expected:
        assert policy in done.output
        assert policy in page


def test_what_is_no_trace_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"nothing")
    done = CliRunner().invoke(app, ["policies", "--trace", str(tmp_path / "x.npz")])
    assert done.exit_code == 1
    assert "x.npz" in done.output
    assert "not a NumPy file" in done.output
