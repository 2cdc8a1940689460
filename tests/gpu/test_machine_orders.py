"""What comes before what: streams, events, acquire and release, fences, barriers; and that a missing one is noticed.

ThreadSanitizer judges by what was ordered, whatever the schedule; a stale L1 and an unlucky schedule show wrong values.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.gpu.samples import Bench
from tests.gpu.sanitized import assert_clean, no_compiler, run_sanitized

if no_compiler():
    pytest.skip(str(no_compiler()), allow_module_level=True)

RIGHT, RELAXED_LOAD, RELAXED_STORE, NO_SYNCWARP, FENCES, NO_FENCE = range(6)
WARM = 8
SEEDS = range(40)
COUNT = 1000


def count_behind(seed: int, follow: bool, mode: str = "plain", threads: int = 128) -> int:
    """How many words of those that one stream fills another one finds filled."""
    bench = Bench(mode, seed=seed)
    device, other = bench.device, bench.device.stream()
    words, equal = bench.array(np.zeros(COUNT)), bench.array([0])
    bench.launch("fill", 8, threads, words, COUNT, 5)
    device.record(bench.event, bench.stream)
    if follow:
        device.follow(other, bench.event)
    bench.launch("count_equal", 8, threads, words, COUNT, 5, equal, stream=other)
    device.run()
    return int(equal[0])


def test_an_event_orders_two_streams_and_nothing_else_does() -> None:
    assert {count_behind(seed, follow=True) for seed in SEEDS} == {COUNT}
    seen = {count_behind(seed, follow=False) for seed in SEEDS}
    assert 0 in seen  # the later launch first
    assert COUNT in seen
    assert any(0 < count < COUNT for count in seen)  # both at once


def test_one_stream_runs_in_order() -> None:
    for seed in SEEDS:
        bench = Bench(seed=seed)
        words, equal = bench.array(np.zeros(COUNT)), bench.array([0, 0, 0])
        copied = bench.array(np.zeros(COUNT))
        device = bench.device
        bench.launch("fill", 8, 128, words, COUNT, 5)
        device.copy(device.address(copied), device.address(words), words.nbytes, bench.stream)
        bench.launch("count_equal", 8, 128, copied, COUNT, 5, equal)
        device.clear(device.address(words) + 4, words.nbytes - 8, bench.stream)
        bench.launch("count_equal", 8, 128, words, COUNT, 5, equal[1:])
        device.run()
        assert equal.tolist() == [COUNT, 2, 0]


def test_following_is_about_the_record_that_was_made_before_it() -> None:
    for seed in SEEDS:
        bench = Bench(seed=seed)
        device, other = bench.device, bench.device.stream()
        word, equal = bench.array([0, 0]), bench.array([0])
        bench.launch("fill", 1, 1, word, 1, 5)
        device.record(bench.event, bench.stream)
        device.follow(other, bench.event)
        device.hang("until_word")
        bench.launch("until_word", 1, 1, word[1:], 0)
        device.record(bench.event, bench.stream)  # another point: `other` does not wait for it
        bench.launch("count_equal", 1, 1, word, 1, 5, equal, stream=other)
        device.run()
        assert equal[0] == 1
        assert not device.done(bench.event)
        device.release()
        device.run()
        assert device.done(bench.event)


def test_an_event_behind_a_follow_stands_for_what_was_followed() -> None:
    bench = Bench()
    device, other = bench.device, bench.device.stream()
    word = bench.array([0])
    device.hang("fill")
    bench.launch("fill", 1, 1, word, 1, 5)
    device.record(bench.event, bench.stream)
    device.follow(other, bench.event)
    behind = device.event()
    assert device.done(behind)
    device.record(behind, other)
    device.run()
    assert not device.done(behind)
    assert not device.wait(behind, 1)
    device.release()
    assert device.wait(behind, 1)
    assert word[0] == 5


def test_a_wait_runs_no_more_than_it_has_to() -> None:
    halfway = set()
    for seed in SEEDS:
        bench = Bench(seed=seed)
        other = bench.device.stream()
        words, word = bench.array(np.zeros(COUNT)), bench.device.pinned(4)
        bench.launch("fill", 8, 128, words, COUNT, 5, stream=other)
        bench.launch("say", 1, 1, word.ctypes.data, 9)
        assert not words.any()
        assert bench.device.wait_word(word.ctypes.data, 9, 1)
        halfway.add(int((words == 5).sum()))
        assert not bench.device.wait_word(word.ctypes.data, 10, 1)
        assert (words == 5).all()
    assert any(0 < count < COUNT for count in halfway)


def messages(mode: str, how: int, seed: int, stale_l1: bool = False) -> int:
    """How many of 32 lanes saw what was published before the flag that they saw."""
    bench = Bench(mode, seed=seed, stale_l1=stale_l1)
    data, flag, seen = bench.array(np.zeros(8)), bench.array([0]), bench.array([0])
    bench.launch("publish", 1, 1, data, flag, how)
    bench.launch("subscribe", 1, 32, data, flag, seen, how, stream=bench.device.stream())
    bench.device.run()
    return int(seen[0])


def stale_reads(relaxed: int, stale_l1: bool) -> int:
    """In how many schedules a tag that was read before is read again, and is not what was written before the flag."""
    stale = 0
    for seed in SEEDS:
        bench = Bench(seed=seed, stale_l1=stale_l1)
        words = bench.array(np.zeros(32))
        tag, flag, seen = words[:1], words[8:9], words[16:17]  # sectors of their own
        bench.launch("read_twice", 1, 32, tag, flag, seen, relaxed)
        bench.launch("publish", 1, 1, tag, flag, RELAXED_STORE, stream=bench.device.stream())
        bench.device.run()
        stale += int(seen[0]) != 32
    return stale


def test_a_tag_out_of_a_stale_l1() -> None:
    assert stale_reads(relaxed=0, stale_l1=True) > 0
    assert stale_reads(relaxed=1, stale_l1=True) == 0
    assert stale_reads(relaxed=0, stale_l1=False) == 0


def test_what_a_thread_stores_it_reads_back_from_a_stale_l1() -> None:
    for seed in SEEDS:
        bench = Bench(seed=seed, stale_l1=True)
        wrong = bench.array([0])
        bench.run("read_back", 4, 64, bench.array(np.zeros(256)), wrong)
        assert wrong[0] == 0


def test_a_stale_l1_shows_what_was_not_ordered() -> None:
    def least_seen(how: int) -> int:
        return min(messages("plain", how | WARM, seed, stale_l1=True) for seed in SEEDS)

    assert least_seen(RIGHT) == 32
    assert least_seen(FENCES) == 32
    assert least_seen(RELAXED_LOAD) < 32
    assert least_seen(NO_SYNCWARP) < 32
    assert least_seen(NO_FENCE) < 32


def one_word(seed: int, late: bool) -> None:
    """A grid of one thread writes a word, and has long ended when one of another stream reads it: still a race.

    late: the reader was launched before the host learned that the writer had ended.
    """
    bench = Bench("tsan", seed=seed)
    device, other = bench.device, bench.device.stream()
    word, equal = bench.array([0]), bench.array([0])
    bench.launch("fill", 1, 1, word, 1, 5)
    if late:
        device.hang("count_equal")
        bench.launch("count_equal", 1, 1, word, 1, 5, equal, stream=other)
        device.record(bench.event, bench.stream)
        assert device.wait(bench.event, 30)
        device.release()
    else:
        device.run()
        bench.launch("count_equal", 1, 1, word, 1, 5, equal, stream=other)
    device.run()


def judge(case: str, how: str) -> None:
    """In a process of its own, under ThreadSanitizer: one case, with many seeds."""
    for seed in range(3):
        if case == "streams":
            count_behind(seed, bool(int(how)), "tsan", threads=32)
        elif case == "one word":
            one_word(seed, late=bool(int(how)))
        elif case == "messages":
            messages("tsan", int(how), seed)
        elif case == "lock":
            bench = Bench("tsan", seed=seed)
            count = bench.array([0])
            bench.run("count_locked", 4, 8, bench.array([0]), count, int(how))
        else:
            bench = Bench("tsan", seed=seed)
            bench.run("hand_round", 1, 64, bench.array(np.zeros(64)), bench.array(np.zeros(64)), int(how))
    print("clean")


@pytest.mark.parametrize(
    ("case", "how"),
    [("streams", 1), ("messages", RIGHT), ("messages", FENCES), ("lock", RIGHT), ("barrier", RIGHT)],
)
def test_what_is_ordered_is_no_race(case: str, how: int) -> None:
    assert assert_clean("tsan", "tests.gpu.test_machine_orders:judge", case, str(how)) == "clean\n"


@pytest.mark.parametrize(
    ("case", "how", "kernel"),
    [
        ("streams", 0, "count_equal"),
        ("one word", 0, "count_equal"),
        ("one word", 1, "count_equal"),
        ("messages", RELAXED_LOAD, "subscribe"),
        ("messages", RELAXED_STORE, "subscribe"),
        ("messages", NO_SYNCWARP, "subscribe"),
        ("messages", NO_FENCE, "subscribe"),
        ("lock", NO_FENCE, "count_locked"),
        ("barrier", NO_FENCE, "hand_round"),
    ],
)
def test_what_is_not_ordered_is_a_race(case: str, how: int, kernel: str) -> None:
    done = run_sanitized("tsan", "tests.gpu.test_machine_orders:judge", case, str(how))
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stdout
    assert kernel in done.stdout
