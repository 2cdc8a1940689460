"""What generators ask: the same for the same seed, each lookup of a trace once, sizes and shares as they are said."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from loadtest.load.asked import DLRM_HOT, DLRM_ROWS, AskedTable, Workload, parse_mix
from loadtest.load.requests import Request, Requests
from loadtest.load.traces import read_trace


class Alone:
    """The newest id, of one process."""

    def __init__(self, rows: int) -> None:
        self.count = self.reserved = rows

    def known(self) -> int:
        return self.count

    def reserve(self, count: int) -> int:
        self.reserved += count
        return self.reserved - count

    def inserted(self, known: int) -> None:
        self.count = max(self.count, known)


ITEM = AskedTable("item", 8, 1000)
ZIPF = Workload("zipf", (ITEM,), seed=1, ids=50)


def stream(workload: Workload, generator: int = 0, generators: int = 1, newest: Alone | None = None) -> Requests:
    return Requests(workload, generator, generators, newest or Alone(workload.tables[0].rows))


def take(requests: Requests, count: int) -> list[Request]:
    return [requests.of(requests.next_op()) for _ in range(count)]


def ids_of(requests: list[Request]) -> np.ndarray:
    return np.concatenate([ids for request in requests for ids in request.ids.values()])


def test_seed_and_number_say_all_that_is_asked() -> None:
    first, again = (ids_of(take(stream(ZIPF), 200)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, ids_of(take(stream(ZIPF, 1, 2), 200)))
    assert not np.array_equal(first, ids_of(take(stream(replace(ZIPF, seed=2)), 200)))


def test_zipf_asks_the_same_few_ids_most_of_the_time() -> None:
    asked = ids_of(take(stream(ZIPF), 400))
    assert len(asked) == 20_000
    assert int(asked.max()) < 1000
    weights = np.arange(1, 1001) ** -0.99
    _, counts = np.unique(asked, return_counts=True)
    assert counts.max() / 20_000 == pytest.approx(weights[0] / weights.sum(), rel=0.1)


def test_hot_ids_lie_apart_or_side_by_side() -> None:
    def hottest(workload: Workload) -> list[int]:
        ids, counts = np.unique(ids_of(take(stream(workload), 400)), return_counts=True)
        return [int(feature_id) for feature_id in ids[np.argsort(counts)[::-1][:3]]]

    assert hottest(replace(ZIPF, scattered=False)) == [0, 1, 2]
    assert np.abs(np.diff(hottest(ZIPF))).min() > 10
    # All generators have the same hot ids.
    other = ids_of(take(stream(ZIPF, 1, 2), 400))
    assert np.bincount(other.astype(int)).argmax() == hottest(ZIPF)[0]


def test_ids_that_are_known_are_asked_and_no_others(tmp_path: Path) -> None:
    known = np.array([7, 2**64 - 1, 2**40, 11], np.uint64)
    np.save(tmp_path / "ids.npy", known)
    table = AskedTable("item", 8, 4, ids=tmp_path / "ids.npy")
    asked = ids_of(take(stream(replace(ZIPF, tables=(table,))), 20))
    assert sorted(set(asked.tolist())) == sorted(known.tolist())


def test_each_table_is_asked_in_each_lookup() -> None:
    tables = (ITEM, AskedTable("user", 8, 10))
    request = take(stream(replace(ZIPF, tables=tables)), 1)[0]
    assert {name: len(ids) for name, ids in request.ids.items()} == {"item": 50, "user": 50}
    assert int(request.ids["user"].max()) < 10


@pytest.mark.parametrize("generators", [1, 2, 3, 9])
def test_generators_share_a_trace_and_begin_again_at_its_end(tmp_path: Path, generators: int) -> None:
    trace_ids = np.random.default_rng(1).integers(0, 2**64, 57, dtype=np.uint64)
    np.save(tmp_path / "t.npy", trace_ids)
    folder = tmp_path / "read"
    folder.mkdir()
    workload = Workload("trace", (ITEM,), seed=1, ids=5, trace=read_trace(tmp_path / "t.npy", folder))
    pieces = [trace_ids[start : start + 5].tolist() for start in range(0, 57, 5)]  # 12 lookups, the last of 2 ids
    asked: Counter[tuple[int, ...]] = Counter()
    for number in range(generators):
        requests = stream(workload, number, generators)
        of_this = len(pieces[number::generators])
        once = [request.ids["item"].tolist() for request in take(requests, of_this)]
        assert once == pieces[number::generators]
        asked.update(map(tuple, once))
        assert requests.rounds == 0
        assert take(requests, 1)[0].ids["item"].tolist() == pieces[number]
        assert requests.rounds == 1
    assert asked == Counter(map(tuple, pieces))


def test_more_generators_than_lookups_still_ask(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", ids=np.arange(4), lengths=np.array([3, 1]))
    folder = tmp_path / "read"
    folder.mkdir()
    workload = Workload("trace", (ITEM,), seed=1, trace=read_trace(tmp_path / "t.npz", folder))
    assert take(stream(workload, 2, 3), 1)[0].ids["item"].tolist() == [0, 1, 2]


def test_dlrm_has_the_published_shape() -> None:
    assert (len(DLRM_HOT), sum(DLRM_HOT), len(DLRM_ROWS)) == (26, 214, 26)
    shapes = enumerate(zip(DLRM_HOT, DLRM_ROWS, strict=True))
    tables = tuple(AskedTable(f"t{number}", 8, min(rows, 100), hot) for number, (hot, rows) in shapes)
    requests = take(stream(Workload("dlrm", tables, seed=1, pooling="sum")), 60)
    samples = []
    for request in requests:
        assert request.lengths is not None
        samples.append(len(request.lengths["t0"]))
        assert sum(map(len, request.ids.values())) == 214 * samples[-1]
        for table in tables:
            assert request.lengths[table.name].tolist() == [table.hot] * samples[-1]
            assert len(request.ids[table.name]) == table.hot * samples[-1]
            assert int(request.ids[table.name].max()) < table.rows
    assert 100 <= min(samples) <= max(samples) <= 700
    assert np.mean(samples) == pytest.approx(270, rel=0.25)
    assert take(stream(Workload("dlrm", tables, seed=1)), 1)[0].lengths is None


def test_latest_asks_back_from_the_newest_and_inserts_what_nobody_else_does() -> None:
    mix = parse_mix("lookup=0.8,assign=0.2")
    workload = Workload("latest", (ITEM,), seed=1, ids=20, mix=mix, update_rows=10)
    newest = Alone(1000)
    streams = [stream(workload, number, 2, newest) for number in range(2)]
    inserted: list[int] = []
    for requests in streams * 100:
        request = take(requests, 1)[0]
        if request.op == "assign":
            ids = request.ids["item"].tolist()
            assert ids == list(range(ids[0], ids[0] + 10))
            assert request.inserts == ids[-1] + 1
            inserted += ids
            newest.inserted(request.inserts)
        else:
            assert int(request.ids["item"].max()) < newest.known()
    assert sorted(inserted) == list(range(1000, newest.known()))
    last = ids_of([request for request in take(streams[0], 300) if request.op == "lookup"])
    assert np.bincount(last.astype(int)).argmax() >= 1000


def test_mixes_have_their_shares() -> None:
    workload = replace(ZIPF, mix=parse_mix("lookup=0.7,add=0.2,delete=0.1"), update_rows=5)
    ops = Counter(request.op for request in take(stream(workload), 4000))
    assert ops["lookup"] / 4000 == pytest.approx(0.7, abs=0.04)
    assert ops["add"] / 4000 == pytest.approx(0.2, abs=0.04)
    assert ops["delete"] / 4000 == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("lookup", "'lookup' is not OP=SHARE"),
        ("read=1", "'read=1' is not OP=SHARE with one of lookup, assign, add, delete"),
        ("lookup=0.5,add=0.2", "the shares sum to 0.7, not to 1"),
        ("lookup=0.5,lookup=0.5", "lookup stands there twice"),
        ("lookup=much", "'much' is no share of lookup"),
        ("lookup=2,add=-1", "lookup has a share of 2"),
    ],
)
def test_mixes_that_are_none_are_said(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_mix(text)


def test_like_questions_have_like_hashes(tmp_path: Path) -> None:
    for number in range(2):
        np.save(tmp_path / f"{number}.npy", np.arange(number, 1000 + number, dtype=np.uint64))
    tables = [AskedTable("item", 8, 1000, ids=tmp_path / f"{number}.npy") for number in range(2)]
    workloads = [ZIPF, replace(ZIPF, seed=2), replace(ZIPF, alpha=0.9), *(replace(ZIPF, tables=(t,)) for t in tables)]
    hashes = [workload.sha256() for workload in workloads]
    assert len(set(hashes)) == len(hashes)
    assert hashes == [workload.sha256() for workload in workloads]
    assert list(islice(hashes, 1)) == [Workload("zipf", (AskedTable("item", 8, 1000),), seed=1, ids=50).sha256()]
