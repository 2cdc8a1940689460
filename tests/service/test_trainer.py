"""Trainer against a real service: all of it, once each, in order, whatever dies on the way."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache_client import Client, Trainer, TrainerFull
from embcache_client.errors import ClientError, Fenced, Timeout, UnknownTable
from tests.service.running import Running, running

IDS = np.arange(1, 101, dtype=np.uint64)
ONES = np.ones((100, 4), np.float32)
MANY = np.arange(1000, dtype=np.uint64)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that may be killed."""
    with running(tmp_path_factory.mktemp("trained"), "") as service:
        yield service


@pytest.fixture
def client(serving: Running) -> Iterator[Client]:
    """A client of a service that is ready and has the empty table `item`."""
    with serving.client() as client:
        while not client.ready():
            time.sleep(0.05)
        client.create_table({"name": "item", "dim": 4})
        yield client
        while not client.ready():
            time.sleep(0.05)
        client.drop_table("item")


@contextmanager
def frozen(serving: Running) -> Iterator[None]:
    """The service takes connections and answers nothing."""
    front = serving.child("front")
    os.kill(front, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(front, signal.SIGCONT)


def add_until_full(trainer: Trainer) -> None:
    for start in range(0, 10**7, 1000):
        trainer.add("item", MANY + np.uint64(start), np.ones((1000, 4), np.float32))


def rows(client: Client, position: int = 0, ids: Any = IDS) -> Any:
    return client.lookup({"item": ids}, min_position=position, deadline_ms=20_000)["item"].rows


def test_what_is_flushed_is_durable_and_read_back(serving: Running, client: Client) -> None:
    with Trainer(serving.url, producer="plain") as trainer:
        for _ in range(50):
            trainer.add("item", IDS, ONES)
        trainer.assign("item", IDS[:10], 7 * ONES[:10])
        trainer.add("item", IDS[:5], ONES[:5])
        trainer.delete("item", IDS[99:])
        expected = np.concatenate([8 * ONES[:5], 7 * ONES[5:10], 50 * ONES[10:99], 0 * ONES[99:]])
        np.testing.assert_array_equal(rows(client, trainer.flush()), expected)
        trainer.add("item", IDS, ONES)  # goes by itself, when it is old enough
        while not (rows(client)[50] == 51).all():
            time.sleep(0.01)


@contextmanager
def dying(serving: Running) -> Iterator[None]:
    """The owner is killed each second."""
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(1.0):
            if owner := serving.child("owner"):
                os.kill(owner, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        yield
    finally:
        stop.set()
        killing.join()


def push_ones(trainer: Trainer, seconds: float) -> int:
    """Add ones to the rows of IDS for so long; -> how often."""
    pushed = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        trainer.add("item", IDS, ONES)
        pushed += 1
        time.sleep(0.002)
    return pushed


def test_an_owner_that_dies_again_and_again_costs_nothing(serving: Running, client: Client) -> None:
    with Trainer(serving.url, producer="through-deaths", max_age_s=0.005) as trainer:
        with dying(serving):
            pushed = push_ones(trainer, 6)
        position = trainer.flush(timeout=60)
    while not client.ready():
        time.sleep(0.05)
    np.testing.assert_array_equal(rows(client, position), pushed * ONES)


def test_an_owner_that_answers_before_it_syncs_dies_again_and_again(tmp_path: Path) -> None:
    settings = '[updates]\ndurability = "interval"\nsync_interval_s = 0.3\n'
    with running(tmp_path, settings) as serving, serving.client() as client:
        client.create_table({"name": "item", "dim": 4})
        with Trainer(serving.url, producer="p", max_age_s=0.005) as trainer:
            with dying(serving):
                pushed = push_ones(trainer, 4)
            position = trainer.flush(timeout=60)
        while not client.ready():
            time.sleep(0.05)
        found = client.lookup({"item": IDS}, min_position=position, history=trainer.history, deadline_ms=20_000)
        np.testing.assert_array_equal(found["item"].rows, pushed * ONES)


def test_a_later_process_of_the_same_name_shuts_the_older_one_out(serving: Running, client: Client) -> None:
    older = Trainer(serving.url, producer="same")
    older.add("item", IDS, ONES)
    older.flush()
    with Trainer(serving.url, producer="same") as newer:
        older.add("item", IDS, ONES)
        for call in (older.flush, lambda: older.add("item", IDS, ONES), older.close):
            with pytest.raises(Fenced):
                call()
        newer.add("item", IDS, ONES)
        np.testing.assert_array_equal(rows(client, newer.flush()), 2 * ONES)


MARKING = """
import sys
import time
import numpy as np
from embcache_client import Trainer
ids = np.arange(1, 101, dtype=np.uint64)
ones = np.ones((100, 4), np.float32)
trainer = Trainer(sys.argv[1], producer="marking", max_age_s=0.001, marks=True)
step = int(trainer.resumed_mark or b"0")
print(step, flush=True)
while step < 400:
    trainer.add("item", ids, ones)
    time.sleep(0.002)
    trainer.add("item", ids[:50], ones[:50])
    step += 1
    trainer.mark(b"%d" % step)
    time.sleep(0.002)
trainer.close()
print("done", flush=True)
"""


def test_a_trainer_that_is_killed_goes_on_at_its_mark(serving: Running, client: Client) -> None:
    begun = []
    for delay in (0.5, 0.6, 0.55, None):
        command = [sys.executable, "-c", MARKING, serving.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
            assert child.stdout is not None
            begun.append(int(child.stdout.readline()))
            if delay is None:
                assert child.stdout.readline() == "done\n"
            else:
                time.sleep(delay)
                child.kill()
    assert begun[0] == 0 < begun[3]
    assert begun == sorted(begun)
    with Trainer(serving.url, producer="marking") as trainer:
        assert trainer.resumed_mark == b"400"
        position = trainer.flush()
    np.testing.assert_array_equal(rows(client, position), np.concatenate([800 * ONES[:50], 400 * ONES[50:]]))


def test_changes_since_the_last_mark_are_not_flushed_without_one(serving: Running, client: Client) -> None:
    with (
        Trainer(serving.url, producer="unmarked") as trainer,
        pytest.raises(ValueError, match=r"mark\(\) needs Trainer\(marks=True\)"),
    ):
        trainer.mark(b"0")
    with Trainer(serving.url, producer="unmarked", max_batch_bytes=100_000, marks=True) as trainer:
        trainer.add("item", IDS, ONES)
        with pytest.raises(ValueError, match="call mark"):
            trainer.flush()
        with pytest.raises(TrainerFull, match="mark more often"):
            add_until_full(trainer)
        trainer.mark(b"1")


def test_what_memory_cannot_hold_waits_in_the_spool_and_survives_the_trainer(
    serving: Running, client: Client, tmp_path: Path
) -> None:
    deltas = np.ones((1000, 4), np.float32)
    options: dict[str, Any] = {"producer": "spooling", "spool": tmp_path / "spool", "memory_bytes": 200_000}
    trainer = Trainer(serving.url, **options, timeout=1.0, max_batch_rows=500, max_age_s=0.0)
    with frozen(serving):
        for _ in range(40):
            trainer.add("item", MANY, deltas)
            time.sleep(0.005)
        with pytest.raises(Timeout, match="they are kept in the spool"):
            trainer.close(timeout=0.5)
    assert any((tmp_path / "spool").glob("*.spool"))
    with Trainer(serving.url, **options) as again:
        position = again.flush(timeout=30)
        assert not any((tmp_path / "spool").glob("*.spool"))
    np.testing.assert_array_equal(rows(client, position, MANY), 40 * deltas)


def test_a_trainer_goes_on_behind_what_its_spool_holds(serving: Running, client: Client, tmp_path: Path) -> None:
    options: dict[str, Any] = {"producer": "spooled-mark", "spool": tmp_path / "spool", "marks": True}
    trainer = Trainer(serving.url, **options, timeout=1.0)
    trainer.add("item", IDS, ONES)
    trainer.mark(b"1")
    trainer.flush()
    with frozen(serving):
        for mark in (b"2", b"3"):
            trainer.add("item", IDS, ONES)
            trainer.mark(mark)
        with pytest.raises(Timeout):
            trainer.close(timeout=0.3)
    with Trainer(serving.url, **options) as again:
        assert again.resumed_mark == b"3"
        position = again.flush(timeout=30)
    np.testing.assert_array_equal(rows(client, position), 3 * ONES)


def test_a_spool_is_not_dropped_for_what_others_of_the_name_pushed(
    serving: Running, client: Client, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"producer": "twice", "spool": tmp_path / "spool", "marks": True}
    trainer = Trainer(serving.url, **options, timeout=1.0)
    with frozen(serving):
        for mark in (b"1", b"2", b"3"):  # the first one, which is under way, may be accepted yet
            trainer.add("item", IDS, ONES)
            trainer.mark(mark)
        with pytest.raises(Timeout, match="they are kept in the spool"):
            trainer.close(timeout=0.3)
    with Trainer(serving.url, producer="twice") as other:
        for _ in range(8):
            other.assign("item", IDS, 5 * ONES)
            other.flush()
    with pytest.raises(ClientError, match=r"others have pushed as producer 'twice' since.*batches 1 to 3"):
        Trainer(serving.url, **options)
    assert any((tmp_path / "spool").glob("*.spool"))
    shutil.rmtree(tmp_path / "spool")
    with Trainer(serving.url, **options) as again:
        again.add("item", IDS, ONES)
        again.mark(b"4")
        np.testing.assert_array_equal(rows(client, again.flush()), 6 * ONES)


def test_without_a_spool_full_memory_is_an_error_and_nothing_is_lost(serving: Running, client: Client) -> None:
    with Trainer(serving.url, producer="full", memory_bytes=200_000, timeout=2.0) as trainer:
        with frozen(serving), pytest.raises(TrainerFull, match="memory_bytes"):
            add_until_full(trainer)
        position = trainer.flush(timeout=30)
    found = client.lookup({"item": np.arange(10**6, dtype=np.uint64)[:50_000]}, min_position=position)["item"]
    assert found.found[:1000].all()
    assert (found.rows[found.found] == 1).all()


@pytest.mark.parametrize("marks", [False, True])
@pytest.mark.parametrize(("dtype", "tiny"), [("f16", 1e-8), ("bf16", 1.001), ("q8", 3e-5)])
def test_what_narrow_rows_leave_out_is_sent_later(
    serving: Running, client: Client, dtype: str, tiny: float, marks: bool
) -> None:
    """Beside 0.25, each of these deltas is rounded the same way each time."""
    delta = np.array([tiny, 0.25, -0.25, 0], np.float32) * ONES
    with Trainer(serving.url, producer=f"{dtype}-{marks}", dtype=dtype, marks=marks) as trainer:
        for step in range(100):
            trainer.add("item", IDS, delta)
            if marks:
                trainer.mark(b"%d" % step)
            position = trainer.flush()
        np.testing.assert_allclose(rows(client, position), 100 * delta, atol=max(0.01 * tiny, 1e-3))
    with Trainer(serving.url, producer=f"{dtype}-{marks}") as again:
        np.testing.assert_allclose(rows(client, again.flush()), 100 * delta, rtol=1e-6)


def test_what_narrow_rows_leave_out_is_sent_as_f32_when_there_is_no_room_for_it(
    serving: Running, client: Client
) -> None:
    with Trainer(serving.url, producer="little-room", dtype="f16", memory_bytes=1 << 20) as trainer:
        ids = np.arange(10_000, dtype=np.uint64)
        trainer.add("item", ids, np.full((10_000, 4), 1 / 3))
        found = rows(client, trainer.flush(), ids)
        np.testing.assert_allclose(found, np.full((10_000, 4), 1 / 3), rtol=1e-6)


def test_what_is_not_durable_in_time_is_kept_or_said_to_be_lost(serving: Running, client: Client) -> None:
    trainer = Trainer(serving.url, producer="late", timeout=1.0)
    with frozen(serving):
        trainer.add("item", IDS, ONES)
        with pytest.raises(Timeout, match=r"within 0\.1 s: they are kept"):
            trainer.flush(timeout=0.1)
        with pytest.raises(Timeout, match="is lost"):
            trainer.close(timeout=0.1)


def test_what_the_service_refuses_for_good_is_told_to_every_later_call(serving: Running, client: Client) -> None:
    trainer = Trainer(serving.url, producer="wrong")
    trainer.add("nowhere", IDS, ONES)
    for call in (trainer.flush, lambda: trainer.add("item", IDS, ONES), trainer.close):
        with pytest.raises(UnknownTable):
            call()
    with Trainer(serving.url, producer="wrong") as other:
        with pytest.raises(ValueError, match="NaN"):
            other.add("item", IDS[:1], [[np.nan] * 4])
        other.add("item", IDS, ONES)
        np.testing.assert_array_equal(rows(client, other.flush()), ONES)


def test_the_example_of_the_clients_page_runs(
    serving: Running, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "clients" / "README.md").read_text(encoding="utf-8")
    [example] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "Trainer" in block]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"ids": IDS, "deltas": ONES}
    exec(example.replace("http://127.0.0.1:7070", serving.url), names)
    assert names["start"] == b""
    np.testing.assert_array_equal(rows(client, names["position"]), ONES)
