"""The order of a change of the hot tier's rows, with lookups under way: no torn row, no other id's, none of the old.

In every form that rows are asked for, and in bags; and each step that the host makes of the order, left out once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from tests.gpu.sanitized import no_compiler

if no_compiler():
    pytest.skip(str(no_compiler()), allow_module_level=True)

from embcache.gpu import table
from embcache.gpu.device import Event, Stream
from embcache.gpu.emulated.device import EmulatedDevice
from embcache.host.rows import F16, F32
from tests.gpu.changes import Wrong, drive
from tests.gpu.digits import Digits
from tests.gpu.forms import AS_STORED, EXPRESSED, Form

SEEDS = range(12)
BOUND = 150  # schedules in which what is left out must show; the most hidden one does in one of 20
BAGS = [(Digits(F32, F32, 64), "sum"), (Digits(F16, F32, 60), "weighted")]
ASKED = pytest.mark.parametrize(("form", "bags"), [*((form, "") for form in (*AS_STORED, *EXPRESSED)), *BAGS], ids=str)


def found_out(form: Form, seeds: Sequence[int] = range(BOUND), **options: Any) -> str:
    """What is wrong in the first of the schedules in which something is; empty where nothing is in any."""
    for seed in seeds:
        try:
            drive(form, seed, **options)
        except Wrong as problem:
            return str(problem)
    return ""


@ASKED
def test_lookups_beside_changes_find_whole_rows_none_that_is_over_and_all_that_stay(form: Form, bags: str) -> None:
    tally: Counter[str] = Counter()
    for seed in SEEDS:
        tally += drive(form, seed, bags=bags)
    assert tally["rows"]
    assert not bags or (tally["pooled"] and tally["handed over"])


@pytest.mark.parametrize(("limit", "most"), [("STAGE_IDS", 10), ("STAGE_BYTES", 8192)])
def test_changes_in_parts_are_in_order_all_the_same(monkeypatch: pytest.MonkeyPatch, limit: str, most: int) -> None:
    """Where more changes at once than the stage has room for."""
    monkeypatch.setattr(table, limit, most)
    for seed in SEEDS:
        assert drive(AS_STORED[0], seed)["rows"]


@ASKED
def test_a_writer_that_waits_for_nobody_is_found_out(form: Form, bags: str) -> None:
    assert "torn" in found_out(form, bags=bags, waits=False)


class Careless(EmulatedDevice):
    """A host that does not do all it should; it knows which kernel it launched last."""

    last = ""

    def launch(self, kernel: str, stream: Stream, blocks: int, threads: int, args: Sequence[int]) -> None:
        self.last = kernel
        super().launch(kernel, stream, blocks, threads, args)


class Hasty(Careless):
    """It does not wait until rows are taken from the readers."""

    def wait(self, event: Event, limit_s: float) -> bool:
        return self.last in ("invalidate", "claim", "remove_rows") or super().wait(event, limit_s)


class RecordsNoLookup(Careless):
    """It puts no event behind a lookup, so that nobody can wait for it."""

    def record(self, event: Event, stream: Stream) -> None:
        if self.last not in ("look_up", "look_up_stored"):
            super().record(event, stream)


class PublishesFirst(Careless):
    """It has rows published before it has them written."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._late: list[tuple[Stream, int, int, Sequence[int]]] = []

    def launch(self, kernel: str, stream: Stream, blocks: int, threads: int, args: Sequence[int]) -> None:
        if kernel == "write_rows":
            self._late.append((stream, blocks, threads, args))
            return
        super().launch(kernel, stream, blocks, threads, args)
        if kernel == "publish":
            super().launch("write_rows", *self._late.pop())


@pytest.mark.parametrize(
    ("make", "what"),
    [(Hasty, "a writing that is over"), (RecordsNoLookup, "torn"), (PublishesFirst, "torn|a writing that is over")],
)
def test_a_host_that_leaves_the_order_is_found_out(make: type[EmulatedDevice], what: str) -> None:
    assert re.search(what, found_out(AS_STORED[0], make=make))
