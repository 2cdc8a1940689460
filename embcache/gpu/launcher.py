"""Launches of lookups: who asks while the device is busy goes with the next launch, together with all the others.

There is no thread here. Whoever waits for an answer drives: it notices the end of a launch, tells all who were in it,
and launches what came meanwhile. A launch makes two calls to the driver, itself and the event behind it; its end is
seen in pinned memory.

Invariant: a launch and the recording of its event are one step under the lock, and so is `hold_back`. So a writer that
calls it waits for all lookups that were launched before, whoever launched them.
Memory that a launch writes is kept by its tickets until the launch has ended; if it never does, for ever.
A slot is busy from before its launch until that is settled, and a ticket stands in the queue until it is launched. So
an exception that comes out of nowhere, such as a KeyboardInterrupt, leaves no slot behind that nobody waits for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from embcache.gpu.device import Device, DeviceError, Replay, Stream
from embcache.gpu.layout import CONTROL, TILE
from embcache.gpu.tiles import MOST_TILES
from embcache.host.memory import address_of
from embcache.host.waiting import wait_word

MAX_TILES = 2 * MOST_TILES  # of a launch
MAX_BAG_IDS = 1 << 20  # of a launch, in bags
LIMIT_S = 5.0  # a launch that takes longer never ends
SLOTS = 2  # launches at once, so that one is at the device while the last one ends
_WARPS = 4  # of a block
_ANY, _STORED = "look_up", "look_up_stored"  # kernels
_BLOCKS = (16, 64, 256, 1024)  # of a launch: the least that gives each tile a warp of its own, or the most
_TILE_WORDS = TILE.itemsize // 8
_CONTROL_PLACES = tuple(CONTROL.fields[name][1] // 4 for name in ("tile_count", "tick", "number"))  # type: ignore[index]
_LOOK_S = 0.01  # how long one look for the end of a launch takes at most


class Ticket:
    """A lookup's tiles, on their way through a launch. `keep` is what they point into, until the device is through."""

    __slots__ = ("bag_ids", "done", "error", "keep", "missed", "place", "stored", "tiles", "words")

    def __init__(self, tiles: NDArray[np.void], bag_ids: int, keep: object, *, stored: bool = False) -> None:
        """tiles: TILE [t], t at most MAX_TILES; bag_ids: how many ids of them are in bags, at most MAX_BAG_IDS.

        stored: whether all are for rows as they are stored, COPY or BYTES.
        """
        self.tiles = tiles
        self.words = tiles.view(np.uint64)  # the same, which NumPy copies at once
        self.bag_ids = bag_ids
        self.stored = stored
        self.keep = keep
        self.missed = np.empty(tiles.size, np.uint32)
        self.done = False
        self.error: DeviceError | None = None
        self.place: _Slot | None = None


class _Slot:
    """What one launch needs: a stream, its control block and tiles in pinned memory, captured launches."""

    def __init__(self, device: Device, pools: int) -> None:
        self.stream = device.stream()
        self.event = device.event()
        memory = device.pinned(CONTROL.itemsize + MAX_TILES * (TILE.itemsize + 4))
        self.control = memory[: CONTROL.itemsize].view(CONTROL)
        self.tiles = memory[CONTROL.itemsize : CONTROL.itemsize + MAX_TILES * TILE.itemsize].view(TILE)
        self._words = self.tiles.view(np.uint64)
        self._control_words = self.control.view(np.uint32).data  # to set one by one at the least cost
        self.missed = memory[CONTROL.itemsize + MAX_TILES * TILE.itemsize :].view(np.uint32)
        self.done_at = address_of(memory) + int(CONTROL.fields["done"][1])  # type: ignore[index]
        self.number = 0
        self.tickets: list[Ticket] = []
        self.busy = False
        self.began = 0.0
        self._device_memory = device.allocate(256 + 4 * MAX_BAG_IDS)
        finished = self._device_memory.address
        addresses = (address_of(self.tiles), address_of(self.missed), pools, finished, finished + 256)
        for name, value in zip(("tiles", "missed", "pools", "finished", "scratch"), addresses, strict=True):
            self.control[name] = value
        arguments = (address_of(memory),)
        self._replays: dict[tuple[str, int], Replay] = {
            (kernel, blocks): device.capture(kernel, blocks, 32 * _WARPS, arguments)
            for kernel in (_ANY, _STORED)
            for blocks in _BLOCKS
        }

    def fill(self, tickets: Iterable[Ticket], tick: int) -> Replay:
        """Put the tickets' tiles in; -> the launch."""
        self.number = (self.number + 1) & 0xFFFFFFFF  # first of all: from here on `ended` is about this launch
        at, scratch, kernel = 0, 0, _STORED
        for ticket in tickets:
            kernel = kernel if ticket.stored else _ANY
            self._words[_TILE_WORDS * at : _TILE_WORDS * at + ticket.words.size] = ticket.words
            if ticket.bag_ids:
                self.tiles["scratch"][at : at + ticket.tiles.size] += np.uint32(scratch)
                scratch += ticket.bag_ids
            self.tickets.append(ticket)
            ticket.place = self
            at += ticket.tiles.size
        for place, value in zip(_CONTROL_PLACES, (at, tick & 0xFFFFFFFF, self.number), strict=True):
            self._control_words[place] = value
        self.began = time.monotonic()
        return self._replays[kernel, next((blocks for blocks in _BLOCKS if blocks * _WARPS >= at), _BLOCKS[-1])]

    @property
    def ended(self) -> bool:
        """Whether the launch has; what it wrote is seen by whoever reads it after this, on any processor."""
        return bool(wait_word(self.done_at, self.number, 1))

    def settle(self) -> None:
        """The launch has ended: tell its tickets what their tiles missed."""
        at = 0
        for ticket in self.tickets:
            ticket.missed[:] = self.missed[at : at + ticket.tiles.size]
            ticket.place = ticket.keep = None
            ticket.done = True
            at += ticket.tiles.size
        self.tickets.clear()


class Launcher:
    """Safe for many threads. After an error of the device everything fails with it, for ever."""

    def __init__(self, device: Device, window_s: float = 0.0) -> None:
        """window_s: how long the first of a launch waits for others where the device is idle."""
        self._device = device
        self._window_s = window_s
        self._lock = threading.Lock()  # over all that follows
        self._slots: list[_Slot] = []
        self._queue: deque[Ticket] = deque()
        self._held_since = 0.0
        self._tick = 0
        self._open = False
        self.division = 0  # which division of the table's memory tiles must be made for
        self._error: DeviceError | None = None
        self._stranded: list[Ticket] = []  # their memory may still be written
        self._stranded_slots: list[_Slot] = []
        self.launches = 0
        self.lookups = 0

    def start(self, pools: int) -> None:
        """Make ready to launch, on the pools at an address."""
        with self._lock:
            self._slots = [_Slot(self._device, pools) for _ in range(SLOTS)]
            self._open = True

    @property
    def error(self) -> DeviceError | None:
        """What ended it."""
        return self._error

    def submit(self, ticket: Ticket, division: int = 0) -> bool:
        """Have a lookup's tiles run, now or with the next launch; False where it is closed, or the device lost.

        division: for which the tiles were made; False where that is not the table's any more.
        """
        with self._lock:
            if not self._open or self._error is not None or division != self.division:
                return False
            if not self._queue:
                self._held_since = time.monotonic()
            self._queue.append(ticket)
            self.lookups += 1
            self._go_on()
        return True

    def poll(self) -> None:
        """Notice launches that have ended, and launch what waits."""
        with self._lock:
            self._look()

    def wait(self, ticket: Ticket, end: float | None = None) -> bool:
        """Until a ticket that was submitted is done; False where it is not when time.monotonic() comes to `end`.

        DeviceError where its launch fails, or never ends.
        """
        while not ticket.done:
            look_s = _LOOK_S if end is None else min(_LOOK_S, end - time.monotonic())
            if look_s <= 0:
                return False
            slot = ticket.place or next(iter(self._running), None)
            if slot is not None:
                self._device.wait_word(slot.done_at, slot.number, look_s)
            self.poll()
        if ticket.error is not None:
            raise ticket.error
        return True

    def hold_back(self, stream: Stream) -> None:
        """Have a stream's further work run after all lookups that were launched until now."""
        with self._lock:
            for slot in self._running:
                self._device.follow(stream, slot.event)

    def close(self, limit_s: float = LIMIT_S) -> None:
        """Launch nothing more, and wait until nothing runs. `reopen` takes it back. DeviceError as `wait`."""
        with self._lock:
            self._open = False
        end = time.monotonic() + limit_s
        while self._running or self._queue:
            for slot in self._running:
                self._device.wait_word(slot.done_at, slot.number, _LOOK_S)
            self.poll()
            if time.monotonic() > end:
                self.lose(DeviceError(f"{self._device.name}: lookups did not end within {limit_s:g} s"))
        if self._error is not None:
            raise self._error

    def reopen(self, division: int) -> None:
        """Launch again after `close`, for tiles made for this division of the table's memory."""
        with self._lock:
            self._open, self.division = True, division

    def release(self) -> None:
        """After `close`: give the device's memory back."""
        with self._lock:
            self._slots.clear()

    def lose(self, error: DeviceError) -> None:
        """The device is gone: everything under way fails, and what it writes to is never used again."""
        with self._lock:
            self._lose(error)

    def _lose(self, error: DeviceError) -> None:
        self._error = self._error or error
        under_way = [ticket for slot in self._running for ticket in slot.tickets]
        self._stranded += under_way
        for ticket in [*under_way, *self._queue]:
            ticket.error = self._error
            ticket.done = True
        self._stranded_slots += [slot for slot in self._slots if slot.busy]
        self._slots.clear()
        self._queue.clear()

    def _look(self) -> None:
        for slot in self._running:
            if slot.ended:
                slot.settle()
                slot.busy = False
            elif time.monotonic() - slot.began > LIMIT_S:
                self._lose(DeviceError(f"{self._device.name}: a lookup did not end within {LIMIT_S:g} s"))
                return
        self._go_on()

    def _go_on(self) -> None:
        """Launch what waits if a slot is free: where nothing runs, once the window of its first is over."""
        free = next((slot for slot in self._slots if not slot.busy), None)
        if not self._queue or free is None or self._error is not None:
            return
        if not self._running and time.monotonic() - self._held_since < self._window_s:
            return
        self._launch(free)

    def _launch(self, slot: _Slot) -> None:
        slot.busy = True
        try:
            launch = slot.fill(self._next(), self._tick)
            launch(slot.stream)
            self._device.record(slot.event, slot.stream)
            self._let_go(slot)
        except DeviceError as error:
            self._lose(error)
            return
        except BaseException:
            self._mend(slot)
            raise
        self._tick += 1
        self.launches += 1

    def _mend(self, slot: _Slot) -> None:
        """Its launch was interrupted, in front of the device or behind it: find out, once the stream is through."""
        try:
            self._device.record(slot.event, slot.stream)
            through = self._device.wait(slot.event, LIMIT_S)
        except DeviceError as error:
            self._lose(error)
            return
        if not through:
            self._lose(DeviceError(f"{self._device.name}: a lookup did not end within {LIMIT_S:g} s"))
        elif slot.ended:
            self._let_go(slot)
        else:  # nothing was launched: its tickets stand in the queue
            for ticket in slot.tickets:
                ticket.place = None
            slot.tickets.clear()
            slot.busy = False

    def _let_go(self, slot: _Slot) -> None:
        """Take what a slot has launched out of the queue."""
        while self._queue and self._queue[0].place is slot:
            self._queue.popleft()

    @property
    def _running(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.busy]

    def _next(self) -> list[Ticket]:
        """The first of the queue, as many as a launch takes."""
        tickets: list[Ticket] = []
        tiles = bag_ids = 0
        for ticket in self._queue:
            tiles, bag_ids = tiles + ticket.tiles.size, bag_ids + ticket.bag_ids
            if tickets and (tiles > MAX_TILES or bag_ids > MAX_BAG_IDS):
                break
            tickets.append(ticket)
        return tickets
