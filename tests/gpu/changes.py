"""A table's rows change while lookups are under way, and each row that a lookup finds is judged.

The device runs nothing but inside a wait, so a lookup that was begun runs among the steps of a change, as the seed
says.
    begun before a change        it may find a changed row as it was or as it is then, whole
    begun once it is invalidated it never finds it as it was
    in any case                  it finds all rows that do not change
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embcache.gpu.device import Stream
from embcache.gpu.emulated.device import EmulatedDevice
from embcache.gpu.launcher import Launcher
from embcache.gpu.layout import SET_BYTES, WAYS, stride_of
from embcache.gpu.table import Change, GpuTable
from tests.gpu.asker import Asked, Asker
from tests.gpu.digits import bags_of, summed
from tests.gpu.forms import Bytes, Form, Ids

VERSION = 7
SETS = 2
IDS = np.arange(1, 49, dtype=np.uint64)
OTHERS = np.arange(1000, 1040, dtype=np.uint64)
OLD, NEW = 1, 2
TORN = -1
CHANGES = ("update", "insert", "delete", "promote")

Writings = NDArray[np.int64]  # of each id: which writing of its row, 0 for none, TORN for none of its own


class Wrong(AssertionError):
    """A lookup, or the table, says what it never may."""


def drive(form: Form, seed: int, changes: Sequence[str] = CHANGES, **options: Any) -> Counter[str]:
    """Make these changes, one after the other, in a scene with these options; -> what lookups beside them came to."""
    scene = Scene(form, seed, **options)
    try:
        for name in changes:
            scene.apply(scene.changes[name])
        return scene.tally
    finally:
        scene.close()


class Scene:
    """A table of two sets with old rows of some ids, on a device of its own; `others` push them out."""

    def __init__(
        self,
        form: Form,
        seed: int,
        *,
        bags: str = "",
        waits: bool = True,
        ids: Ids = IDS,
        others: Ids = OTHERS,
        make: Callable[..., EmulatedDevice] = EmulatedDevice,
    ) -> None:
        """bags: "sum" or "weighted", of Digits rows. waits: whether the writer waits for lookups, as it must."""
        self.device = make(threaded=False, seed=seed, stale_l1=True)
        self._launcher = Launcher(self.device)
        self._waits = waits
        capacity = SETS * (SET_BYTES + WAYS * stride_of(form.row_bytes)) + 512
        self._table = GpuTable(self.device, capacity, self._wait_for_readers)
        self._table.divide({form.row_bytes: SETS * WAYS})
        self._launcher.start(self._table.pools_address)
        self._form = form
        self._asker = Asker(self.device, self._launcher, self._table, form)
        self._choose = np.random.default_rng(seed)
        every = np.concatenate([ids, others])
        self._bags = bags_of(ids.size, bags == "weighted") if bags else None
        self.ids: Ids = self._choose.permutation(ids if bags else every)
        self._now = dict.fromkeys(self.ids.tolist(), 0)
        self._begun: list[Asked] = []  # by the change that is under way
        self.tally = Counter({"rows": 0, "pooled": 0, "handed over": 0})
        self.changes = {
            "update": self._change(ids, NEW, insert=False),
            "insert": self._change(others, NEW, insert=True),
            "delete": Change(VERSION, form.row_bytes, ids[::2], None),
            "promote": self._change(every, NEW, insert=True)._replace(keep=True),
        }
        self.apply(self._change(ids, OLD, insert=True), OLD)

    def close(self) -> None:
        """Let the device go at once, with its thousands of stacks: who waits and the table refer to each other."""
        del self._table, self._asker

    def apply(self, change: Change, writing: int = NEW) -> None:
        """Make a change with lookups around it; Wrong if one of them finds what it may not."""
        early = [self._begin() for _ in range(self._choose.integers(3))]  # two leave no launch to those that come then
        self._begun = []
        gone = self._table.apply([change], lambda: self._begun.append(self._begin()))
        self.device.release()
        before = self._held()
        self._take(change, gone.ids, writing)
        after = self._held()
        stays = (before == after) & (after != 0) & ~np.isin(self.ids, change.ids)
        for asked in early:
            self._judge(asked, [before, after], stays)
        for asked in self._begun:
            self._judge(asked, [after], stays)
        self._expect(after)

    def _change(self, ids: Ids, writing: int, *, insert: bool) -> Change:
        return Change(VERSION, self._form.row_bytes, ids, self._form.encoded(ids, writing), insert=insert)

    def _wait_for_readers(self, stream: Stream) -> None:
        if self._waits:
            self._launcher.hold_back(stream)
        if not self._begun:
            return  # a part of the change, and not the last: not all is invalidated yet
        self._launcher.poll()  # a launch that has ended leaves its place to another
        if self._choose.random() < 0.5:
            for kernel in ("look_up", "look_up_stored"):
                self.device.hang(kernel)  # until all is published: then nothing but the digests orders it behind that
        self._begun.append(self._begin())  # else it runs beside the last steps

    def _begin(self) -> Asked:
        return self._asker.begin(VERSION, self.ids, self._bags)

    def _held(self) -> Writings:
        return np.array([self._now[feature] for feature in self.ids.tolist()])

    def _take(self, change: Change, gone: Ids, writing: int) -> None:
        """What is in the table now."""
        for feature in change.ids.tolist():
            held = self._now.get(feature, 0)
            if change.rows is None:
                self._now[feature] = 0
            elif (change.insert and not change.keep) or (change.insert != bool(held)):
                self._now[feature] = writing
        for feature in gone.tolist():
            self._now[feature] = 0

    def _judge(self, asked: Asked, allowed: Sequence[Writings], stays: NDArray[np.bool_]) -> None:
        seen = self._seen(asked)
        if (seen == TORN).any():
            raise Wrong(f"rows that are torn or another id's: {asked.ids[seen == TORN]}")
        over = (seen != 0) & np.all([seen != writings for writings in allowed], axis=0)
        if over.any():
            raise Wrong(f"rows of a writing that is over: {asked.ids[over]}")
        if (seen[stays] == 0).any():
            raise Wrong(f"rows that did not change are not found: {asked.ids[stays & (seen == 0)]}")

    def _expect(self, after: Writings) -> None:
        """With nothing under way exactly these rows are found."""
        seen = self._seen(self._begin())
        if (seen != after).any():
            raise Wrong(f"not what the table holds: {self.ids[seen != after]}")
        try:
            held = self._table.check()
        except AssertionError as problem:
            raise Wrong(f"the audit: {problem}") from None
        if self._bags is None and held != (after != 0).sum():
            raise Wrong(f"{held} rows are held, not {(after != 0).sum()}")

    def _seen(self, asked: Asked) -> Writings:
        answer = self._asker.finish(asked)
        self.tally["rows"] += int(answer.found.sum())
        if asked.bags is None:
            return matching(self._form.answer, answer.rows, asked.ids, answer.found)
        handed_over = answer.found & ~np.repeat(answer.done, asked.bags.lengths)
        self.tally["handed over"] += int(handed_over.sum())
        self.tally["pooled"] += int(answer.done.sum())
        seen = matching(self._form.encoded, answer.encoded, asked.ids, handed_over)
        for bag in np.flatnonzero(answer.done):
            begin = int(asked.bags.lengths[:bag].sum())
            here = slice(begin, begin + int(asked.bags.lengths[bag]))
            if begin == here.stop and answer.rows[bag].any():
                raise Wrong("an empty bag has a row that is not zeros")
            weights = np.ones(asked.ids.size) if asked.bags.weights is None else asked.bags.weights
            seen[here] = summed(answer.rows[bag].view(np.float32), asked.ids[here], weights[here], (OLD, NEW), TORN)
        return seen


def matching(expected: Callable[[Ids, int], Bytes], rows: Bytes, ids: Ids, there: NDArray[np.bool_]) -> Writings:
    """Which writing of its id each row that is there is."""
    seen = np.where(there, TORN, 0)
    for writing in (OLD, NEW):
        seen[there & (rows == expected(ids, writing)).all(axis=1)] = writing
    return seen
