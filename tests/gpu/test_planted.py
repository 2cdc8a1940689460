"""Every order and every check of the kernels that rows depend on, taken out once, is missed: by what lookups find, by
AddressSanitizer or by ThreadSanitizer. The kernels as they are pass the same drives.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from tests.gpu.sanitized import assert_clean, no_compiler, run_sanitized

if no_compiler():
    pytest.skip(str(no_compiler()), allow_module_level=True)

from embcache.gpu import launcher as launching
from embcache.gpu.device import DeviceError
from embcache.gpu.emulated import build
from embcache.gpu.emulated.device import EmulatedDevice
from tests.gpu.changes import VERSION, drive
from tests.gpu.forms import AS_STORED, Ids
from tests.gpu.planted import MISTAKES, planted
from tests.gpu.queues import play
from tests.gpu.rest import POOLED, look_up_all, look_up_near_ids

BOUND = 150  # schedules in which a mistake must show; most do in the first, the most hidden one in one of ten
Drive = Callable[..., object]  # of a seed and of what makes the device


def of_one_digest(count: int) -> Ids:
    """Ids of changes.VERSION that have the same digest, as kernels/table.cu mixes them: readers look at all slots."""
    ids: Ids = np.arange(1, 300 * count, dtype=np.uint64)
    hashes: Ids = ids ^ np.uint64(VERSION * 0x9E3779B97F4A7C15 % 2**64)
    for _ in range(2):
        hashes = (hashes ^ hashes >> np.uint64(32)) * np.uint64(0xD6E8FEB86659FD93)
    hashes ^= hashes >> np.uint64(32)
    alike: Ids = ids[hashes % np.uint64(256) == 77][:count]
    return alike


ALIKE = of_one_digest(88)
DRIVES: dict[str, Drive] = {
    "changes": partial(drive, AS_STORED[0]),
    "lookups": look_up_all,
    "near ids": look_up_near_ids,
    "queues": play,
    "ids of one digest": partial(drive, AS_STORED[0], changes=("insert",), ids=ALIKE[:48], others=ALIKE[48:]),
    # For ThreadSanitizer, which is slow, and sees the host learn of the end of that lookup alone that it waits for.
    "an update": partial(drive, AS_STORED[0], changes=("update",)),
    "an update of odd rows": partial(drive, AS_STORED[1], changes=("update",)),
    "lookups in turn": partial(look_up_all, forms=(AS_STORED[0], POOLED[0]), at_once=1),
}
FOUND = [
    ("a digest is not looked at", "changes", "a writing that is over"),
    ("a way in flux is looked into", "changes", "a writing that is over"),
    ("the low word stands for the id", "near ids", "rows of other ids"),
    ("the id stands for its version", "near ids", "another version"),
    ("the digest stands for the id", "changes", "another id's"),
    ("slots come out of an L1 that is not kept true", "ids of one digest", "another id's"),
    ("rows are written over without invalidation", "changes", "a writing that is over"),
    ("deleted rows stay", "changes", "a writing that is over"),
    ("digests are published by a load and a store", "changes", "not what the table holds"),
    ("a way is taken without asking whether it is free", "changes", "not what the table holds"),
    ("a way that another id is taking is chosen", "changes", "not what the table holds|another id's"),
    ("a pinned row is pushed out", "near ids", "pinned rows are pushed out"),
    ("the newest row goes", "queues", "other rows"),
    ("rows are not spared", "queues", "other rows"),
    ("rows of the small queue never stay", "queues", "other rows"),
    ("the small queue has no end", "queues", "other rows"),
    ("ids that come back are new", "queues", "other rows"),
    ("what is spared is not the newest", "queues", "other rows"),
    ("hits are not counted", "queues", "other rows"),
    ("a row is written a piece too far", "changes", "torn"),
    ("misses are listed without those before", "lookups", "not equal"),
    ("tiles share their scratch", "lookups", "sums|UNWRITTEN|not handed over"),
    ("rows of a bag that lacks some are kept back", "lookups", "not handed over"),
    ("the first block says that all is done", "lookups", "not equal"),
    ("blocks are not counted anew", "changes", "did not end"),
    ("a block counts itself before it is through", "lookups", "not equal|torn|are not found"),
]
SANITIZED = [
    ("asan", "a row is copied to the next whole piece", "lookups", "heap-buffer-overflow"),
    ("asan", "pieces of a row are counted up", "lookups", "heap-buffer-overflow"),
    ("asan", "elements beyond the last are expressed", "lookups", "heap-buffer-overflow"),
    ("asan", "a bag that lacks some is pooled", "lookups", "AddressSanitizer"),
    ("tsan", "digests are loaded without acquire", "an update", "data race"),
    ("tsan", "digests are loaded as plain memory", "an update", "data race"),
    ("tsan", "a way is chosen by plain loads", "an update", "data race"),
    ("tsan", "queues are read by plain loads", "an update", "data race"),
    ("tsan", "lanes copy rows before they have met", "an update of odd rows", "data race"),
    ("tsan", "rows are published without release", "an update", "data race"),
    ("tsan", "a block counts itself without a fence", "lookups in turn", "data race"),
]
CLEAN_SEEDS = 2  # in which the kernels as they are must be clean under a sanitizer


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that nothing will ever end need not be waited for."""
    monkeypatch.setattr(launching, "LIMIT_S", 0.5)


def make(mistake: str, mode: str = "plain") -> Callable[..., EmulatedDevice]:
    source = planted(mistake)
    build.library(source, mode)  # a DeviceError from here says that it does not compile
    return partial(EmulatedDevice, source=source, mode=mode)


@pytest.mark.parametrize("name", dict.fromkeys(drive for _, drive, _ in FOUND))
def test_the_kernels_as_they_are_pass(name: str) -> None:
    for seed in range(8):
        DRIVES[name](seed, make=make(""))


@pytest.mark.parametrize(("mistake", "name", "what"), FOUND, ids=lambda each: each)
def test_a_mistake_shows_in_what_lookups_find(mistake: str, name: str, what: str) -> None:
    broken = make(mistake)
    for seed in range(BOUND):
        try:
            DRIVES[name](seed, make=broken)
        except (AssertionError, DeviceError) as problem:
            said = f"{problem} {traceback.extract_tb(problem.__traceback__)[-1].line}"
            break
    else:
        said = f"nothing, in {BOUND} schedules"
    assert re.search(what, said)


def judge(mode: str, mistake: str, *names: str) -> None:
    """In a process of its own, under a sanitizer."""
    launching._BLOCKS = (2, 2, 2, 2)  # of a launch: threads are slow to make here
    device = make(mistake, mode)
    for name in names:
        for seed in range(BOUND if mistake else CLEAN_SEEDS):
            DRIVES[name](seed, make=device)
    print("clean")


@pytest.mark.parametrize("mode", ["asan", "tsan"])
def test_the_kernels_as_they_are_are_clean(mode: str) -> None:
    names = dict.fromkeys(name for tool, _, name, _ in SANITIZED if tool == mode)
    assert assert_clean(mode, "tests.gpu.test_planted:judge", mode, "", *names) == "clean\n"


@pytest.mark.parametrize(("mode", "mistake", "name", "what"), SANITIZED, ids=lambda each: each)
def test_a_mistake_is_seen_by_a_sanitizer(mode: str, mistake: str, name: str, what: str) -> None:
    done = run_sanitized(mode, "tests.gpu.test_planted:judge", mode, mistake, name)
    assert done.returncode != 0, done.stdout
    assert what in done.stdout
    assert re.search(r"\w+\.cu:\d+", done.stdout)


def test_every_mistake_has_been_tried() -> None:
    assert sorted(MISTAKES) == sorted(
        [mistake for mistake, _, _ in FOUND] + [mistake for _, mistake, _, _ in SANITIZED]
    )
