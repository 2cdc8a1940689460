"""The seam between the hot tier and what runs its kernels: a CUDA device through CuPy, or this machine's CPU.

    cuda.py      the real thing, and the only module that imports CuPy
    emulated/    the same kernels compiled by g++, every thread of a block a fiber: for tests, thousands of times slower

Addresses are integers. Pinned memory has one address for host and device. Work on one stream runs in order, work on
different streams in any order or at once, but for events: what is launched on a stream after `follow(stream, event)`
runs after all that the event was recorded behind. Nothing here waits but the calls named so, and those have a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class DeviceError(Exception):
    """The device cannot be had, or does not do its work any more. The message says what is missing or what failed."""


class Memory(Protocol):
    """Device memory; it is given back when the object dies."""

    @property
    def address(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


class _NoMemory(NamedTuple):
    address: int = 0
    nbytes: int = 0


NO_MEMORY: Memory = _NoMemory()  # where memory was and is given back


class Stream(Protocol):
    """Work in order. Made by `Device.stream`."""


class Event(Protocol):
    """A point in a stream's work. Made by `Device.event`."""


# Launches one captured kernel, with the arguments it was captured with, on a stream.
Replay = Callable[[Stream], None]


class Device(Protocol):
    """What the hot tier asks of a device. Safe for many threads. Any call raises DeviceError when the device fails."""

    @property
    def name(self) -> str:
        """For people: "NVIDIA H200 (device 0)"."""

    @property
    def free_bytes(self) -> int:
        """Device memory that could be allocated now."""

    def allocate(self, nbytes: int) -> Memory:
        """Zeroed device memory, at a multiple of 256. DeviceError says how much was asked for and how much is free."""

    def pinned(self, nbytes: int) -> Bytes:
        """Zeroed host memory, at a multiple of 64, that kernels read and write at its own address."""

    def stream(self) -> Stream:
        """A new stream."""

    def event(self) -> Event:
        """A new event, not recorded: it counts as done."""

    def launch(self, kernel: str, stream: Stream, blocks: int, threads: int, args: Sequence[int]) -> None:
        """Run a kernel of kernels/*.cu: `blocks` blocks of `threads` threads; each argument is a u64 or narrower."""

    def capture(self, kernel: str, blocks: int, threads: int, args: Sequence[int]) -> Replay:
        """The same launch, made ready to be repeated at less cost; the arguments stay as they are."""

    def record(self, event: Event, stream: Stream) -> None:
        """Put an event behind all that the stream was given so far; it stands for that point alone from now on."""

    def follow(self, stream: Stream, event: Event) -> None:
        """Have what the stream is given from now on run after the event."""

    def done(self, event: Event) -> bool:
        """Whether all that stood before the event has run."""

    def wait(self, event: Event, limit_s: float) -> bool:
        """Wait until `done`; False after `limit_s` seconds."""

    def wait_word(self, address: int, value: int, limit_s: float) -> bool:
        """Wait until the u32 at a pinned address has this value; False after `limit_s` seconds.

        Cheaper than an event: no call to the driver, and other Python threads run meanwhile.
        """

    def clear(self, address: int, nbytes: int, stream: Stream) -> None:
        """Set device memory to zeros, in the stream's order."""

    def copy(self, target: int, source: int, nbytes: int, stream: Stream) -> None:
        """Copy between device memory, pinned memory and each other, in the stream's order."""

    def caller_stream(self) -> Stream:
        """The stream on which the calling thread's own work with the device runs: CuPy's current one."""

    def order_caller(self, event: Event, limit_s: float) -> bool:
        """Have the calling thread's own work with the device from now on run after the event.

        Where the device is emulated that work is NumPy's, which waits for nobody: so this waits, as `wait` does.
        """

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A new array on the device, for the caller's stream: cupy.ndarray, or NumPy's where the device is emulated."""

    def address(self, array: Any) -> int:
        """Where an array on this device begins. TypeError where it is none, or is not C-contiguous."""

    def check(self) -> None:
        """Raise DeviceError if some earlier work has failed."""
