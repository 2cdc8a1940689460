"""HotTier: one process's rows in GPU memory, as its lookups see them. Safe for many threads.

A lookup may ask it only after it has read the applied position, and only if `serves` says so then: a position is
published once every feed has acknowledged that what it overtakes is invalidated, or was revoked (feed.py). So whoever
read a position and finds the feed valid finds no row here that is older.

Whatever fails here costs the tier and no lookup: it says why, switches itself off, and the tiers below answer.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache.errors import ConfigError, NotReady, Overloaded
from embcache.gpu.device import Device, DeviceError
from embcache.gpu.launcher import Launcher
from embcache.gpu.table import GpuTable
from embcache.host.memory import address_of
from embcache.hot.admission import Admission, enough
from embcache.hot.crossover import Crossover, measure
from embcache.hot.output import Deliveries, Output, room_for_moves
from embcache.hot.question import LeftQuestion, Question, Room, Wish, room_for
from embcache.hot.writer import Writer
from embcache_client.buffers import BufferPool

if TYPE_CHECKING:
    from embcache.attachment import Attachment
    from embcache.config import Hot
    from embcache.places import Part, Place
    from embcache.views import TableView, Views

log = logging.getLogger("embcache.hot")

_LARGEST = 256 << 20  # of pinned memory that is kept for its next use
_IDLE_BYTES = 256 << 20  # of each size
_COUNT_S = 1.0
_FOR_EVER_S = 1e9
_OFFER_EVERY = 8  # lookups that the warm tier answered, of which one tells what it asked for
_AGAIN = 2  # times that such lookups have to tell of an id


class HotState(NamedTuple):
    """What is told of the tier: whether it answers, on which device, and why not."""

    on: bool
    device: str
    why: str


class HotTier:
    """Made once in a process; `attach` it to each owner in turn."""

    def __init__(self, device: Device, settings: Hot, capacity: int) -> None:
        """Takes `capacity` bytes of the device's memory, compiles, measures. DeviceError where that cannot be."""
        self.device = device
        self._launcher = Launcher(device, settings.batch_window_us / 1e6)
        self._table = GpuTable(device, capacity, self._launcher.hold_back)
        self._launcher.start(self._table.pools_address)
        self.pinned = BufferPool(lambda nbytes: device.pinned(nbytes).data, _LARGEST, _IDLE_BYTES)
        self.crossover = Crossover.at(settings.crossover_ids) or measure(device, self._table, self._launcher)
        self._admission = Admission()
        self._deliveries = Deliveries(device)
        self._writer = Writer(self._table, self._launcher, settings, self._lost)
        self._offers = 0
        self._held: dict[int, int] = {}
        self._why = ""

    @property
    def state(self) -> HotState:
        if self._why:
            return HotState(False, self.device.name, self._why)
        if not self._writer.attached:
            return HotState(False, self.device.name, "it is being filled anew")
        return HotState(True, self.device.name, "")

    def counts(self) -> dict[str, int]:
        """Numbers for metrics, see docs/operations.md."""
        table = self._table.counts
        return {
            "on": int(self.state.on),
            "capacity_bytes": self._table.capacity,
            "launches": self._launcher.launches,
            "lookups": self._launcher.lookups,
            "inserted_rows": table.inserted,
            "evicted_rows": table.evicted,
            "refused_rows": table.refused,
            "updated_rows": self._writer.rows_updated,
        }

    def rows_held(self, versions: Iterable[int]) -> dict[int, int]:
        """How many rows are here of each of some table versions: now, or as last counted while the writer is busy."""
        asked = np.unique(np.fromiter(versions, np.uint32))
        if not self.state.on:
            return {}
        with contextlib.suppress(TimeoutError):
            counts = self._writer.census(asked).result(_COUNT_S)
            self._held = dict(zip(asked.tolist(), counts.tolist(), strict=True))
        return self._held

    # --- the owner -----------------------------------------------------------------------------------------------

    def attach(self, attachment: Attachment) -> None:
        """From now on hold rows of this owner, and none of another one's."""
        self._writer.attach(attachment)

    def catalogue_changed(self, views: Views) -> None:
        """Tables came or went."""
        self._writer.catalogue_changed(views)

    def serves(self, attachment: Attachment) -> bool:
        """Whether it may answer a lookup of this owner whose position was read before this call."""
        return not self._why and self._writer.serves(attachment)

    def close(self) -> None:
        """Answer nothing more, let go of the owner, and give the device's memory back."""
        self._why = self._why or "it is closed"
        self._writer.close()
        try:
            self._launcher.close()  # nothing runs any more
        except DeviceError:
            return  # what never ended may still write: its memory is not given back
        self._launcher.release()
        self._table.release()

    # --- lookups -------------------------------------------------------------------------------------------------

    def room(self, nbytes: int) -> NDArray[np.uint8]:
        """Pinned memory, lent until nobody looks into it. DeviceError where there is none."""
        try:
            return self.pinned.take(nbytes)
        except DeviceError as error:
            self._lost(error)
            raise

    def ask(self, wishes: Sequence[Wish], keep: object) -> Question | None:
        """Begin to look all ids of some wishes up; None where nothing can be asked.

        Rows that may expire are left to the arena: the device writes results, and knows no time.
        keep: what holds the memory of the results. Wait for the question's ticket before anything else happens to it.
        """
        division = self._writer.division
        specs = [wish.view.spec for wish in wishes]
        pools = [None if spec.expires else division.pools.get(spec.row_bytes) for spec in specs]
        if not any(pools):
            return None
        question = Question(wishes, pools, self.room(room_for(wishes)), keep)
        submitted = question.ticket.tiles.size and self._launcher.submit(question.ticket, division.number)
        return question if submitted else None

    def ask_left(self, left: Sequence[tuple[int, TableView, NDArray[np.uint64]]]) -> LeftQuestion | None:
        """Begin to look for ids that the warm tier lacks, see LeftQuestion; None where nothing can be asked."""
        division = self._writer.division
        here = [each for each in left if division.pools.get(each[1].spec.row_bytes)]
        pools = [division.pools[view.spec.row_bytes] for _, view, _ in here]
        if not here:
            return None
        question = LeftQuestion(here, pools, Room(self.room(LeftQuestion.room_for(here))))
        return question if self._launcher.submit(question.ticket, division.number) else None

    def wait(self, question: Question | LeftQuestion, deadline: float | None = None) -> bool:
        """Until the device has answered, or time.monotonic() is `deadline`; -> whether it has.

        Where it has not, the question's memory is the device's for as long as it takes. DeviceError: it has failed, and
        that memory is lost with it.
        """
        try:
            return self._launcher.wait(question.ticket, deadline)
        except DeviceError as error:
            self._lost(error)
            raise

    def look(self, question: Question | LeftQuestion) -> bool:
        """Whether the device has answered, without waiting. DeviceError as `wait`."""
        self._launcher.poll()
        if question.ticket.error is not None:
            self._lost(question.ticket.error)
            raise question.ticket.error
        return question.ticket.done

    # --- results that stay on the device --------------------------------------------------------------------------

    def output(self, parts: Sequence[Part], dtype: str, given: Mapping[str, Any]) -> Output:
        """Arrays on the device for a lookup's results, see Output. Overloaded where there is no room for them.

        NotReady where the device was lost before, DeviceError where that is noticed now.
        """
        if self._why:
            raise NotReady(f'device: "cuda" is not to be had any more: {self._why}')
        try:
            return Output(self.device, parts, dtype, given)
        except DeviceError as full:
            try:
                self.device.check()
            except DeviceError as error:
                self._lost(error)
                raise
            raise Overloaded(f"the results do not fit into the device's memory: {full}") from None

    def caller_is_through(self, deadline: float | None) -> bool:
        """Wait for what the calling thread gave its own stream; False where it is not through by the deadline.

        It may still read the arrays that results are to be written to. deadline: by time.monotonic().
        """
        try:
            event = self.device.event()
            self.device.record(event, self.device.caller_stream())
            return self.device.wait(event, _FOR_EVER_S if deadline is None else max(0.0, deadline - time.monotonic()))
        except DeviceError as error:
            self._lost(error)
            raise

    def deliver(
        self,
        output: Output,
        rows: Sequence[NDArray[np.int32]],
        buffer: NDArray[np.uint8],
        places: Sequence[Place],
    ) -> None:
        """Bring rows of each result over from the buffer, before what the caller does next. DeviceError as `wait`."""
        moves = output.moves(rows, address_of(buffer), places)
        if not moves:
            return
        try:
            self._deliveries.deliver(moves, self.room(room_for_moves(moves)), (output, buffer))
        except DeviceError as error:
            self._lost(error)
            raise

    # --- what may move up ----------------------------------------------------------------------------------------

    def offer(self, view: TableView, ids: NDArray[np.uint64], *, missed: bool) -> None:
        """Tell of ids that a tier below answered: they may move up. missed: whether this one was asked first.

        Where it was not, as by small lookups, an id has to be asked for again: those would find it below all the same.
        """
        times = enough(self._writer.waiting_ids)
        if not missed or view.spec.expires:  # see `ask`
            times = max(times, _AGAIN)
        picked = self._admission.pick(view.number, ids, times)
        if picked.size:
            self._writer.promote(view, picked)

    def bring(self, view: TableView, ids: NDArray[np.uint64]) -> None:
        """Have rows of ids that the arena has move up, whether or not they were asked for before."""
        self._writer.promote(view, ids)

    def may_offer(self) -> bool:
        """Whether a lookup that did not ask here first should offer its ids: one in a few."""
        self._offers += 1
        return self._offers % _OFFER_EVERY == 0

    def _lost(self, error: DeviceError) -> None:
        """The device failed. Nothing of it is asked any more."""
        if not self._why:
            self._why = str(error)
            log.error("the hot tier is off from now on, and the tiers below answer: %s", error)
        self._launcher.lose(error)


def open_tier(settings: Hot, front: int = 0, fronts: int = 1) -> HotTier | HotState:
    """The hot tier that the settings ask for, or why there is none.

    ConfigError where they name a device, and it is not there or has not the memory.
    front, fronts: which of how many processes of a service this is.
    """
    from embcache.hot.opening import fronts_a_device, open_device

    if settings.device == "off":
        return HotState(False, "", 'hot.device is "off"')
    device = open_device(settings.device, front)
    if isinstance(device, str):
        log.info("no hot tier: %s", device)
        return HotState(False, "", device)
    capacity = settings.capacity // fronts_a_device(settings.device, fronts)
    try:
        tier = HotTier(device, settings, capacity)
    except DeviceError as error:
        why = f"hot.capacity: {capacity} bytes for this process do not make a hot tier: {error}"
        if settings.device != "auto":
            raise ConfigError(why) from None
        log.error("the hot tier is off, and the tiers below answer: %s", why)
        return HotState(False, device.name, why)
    except Exception as error:  # lookups go on without it
        log.exception("the hot tier is off, and the tiers below answer")
        return HotState(False, device.name, f"it could not be made: {error!r}")
    log.info("hot tier on %s; lookups ask it first: %s", device.name, tier.crossover)
    return tier
