"""What a stage is given: the device with the check's kernels, a clock for what runs on it, and the sizes to use."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embcache.gpu import kernels
from embcache.gpu.device import Device, DeviceError, Memory, Stream
from embcache.host.memory import address_of

Line = dict[str, Any]
Lines = Iterator[Line]

GIB = 1 << 30
THREADS = 128
VERSION = 7
_WARM_S = 0.2
LIMIT_S = 60.0  # what runs on the device for longer hangs
_EMULATED_BYTES = 1 << 29


class Skipped(Exception):
    """A stage cannot run on this machine; the message says what is missing."""


def source(defines: Mapping[str, int] = {}, blocks_an_sm: int = 0) -> str:
    """The hot tier's kernels, compiled with `defines`, and the check's.

    blocks_an_sm: of lookups, that the compiler is to leave registers for; 0 for as many as it likes.
    """
    text = kernels.source(defines)
    if blocks_an_sm:
        bound = "__launch_bounds__(128) look_up_stored("
        assert bound in text
        text = text.replace(bound, f"__launch_bounds__(128, {blocks_an_sm}) look_up_stored(")
    return text + f'#line 1 "check.cu"\n{(Path(__file__).parent / "check.cu").read_text()}'


@dataclass
class Check:
    """device: a CUDA device's number, or "emulated". small: sizes for the emulated device. out: for files."""

    device_name: str
    small: bool
    out: Path

    @property
    def emulated(self) -> bool:
        return self.device_name == "emulated"

    @cached_property
    def device(self) -> Device:
        return self.open()

    @property
    def known_name(self) -> str:
        """The device's name; what it was asked for by, as long as nothing has opened it."""
        return self.device.name if "device" in vars(self) else self.device_name

    def open(self, defines: Mapping[str, int] = {}, blocks_an_sm: int = 0) -> Device:
        """The device with kernels of `source`; it shares its memory with all others of its number."""
        text = source(defines, blocks_an_sm)
        if self.emulated:
            from embcache.gpu.emulated.device import EmulatedDevice

            return EmulatedDevice(source=text, memory_bytes=_EMULATED_BYTES)
        import cupy

        from embcache.gpu.cuda import CudaDevice

        device = CudaDevice(int(self.device_name), source=text)
        cupy.cuda.Device(int(self.device_name)).use()  # for the clock's events
        return device

    def of(self, full: int, small: int) -> int:
        """A size: on a GPU, and on the emulated device."""
        return small if self.small else full

    # --- the clock -----------------------------------------------------------------------------------------------

    def seconds(self, stream: Stream, turn: Callable[[int], None], turns: int, samples: int) -> list[float]:
        """What one turn takes on the device, in seconds, `samples` times: each is of `turns` turns, one behind another.

        turn(k) puts its work on the stream; k counts on from sample to sample. The first samples are not counted, until
        the device has worked long enough for its clocks to have risen.
        """
        times: list[float] = []
        warm = time.perf_counter() + (0.0 if self.small else _WARM_S)
        counted, k = False, 0
        while len(times) < samples:
            with self.timing(stream) as took:
                for _ in range(turns):
                    turn(k)
                    k += 1
            if counted:
                times.append(took() / turns)
            counted = time.perf_counter() >= warm
        return times

    def timing(self, stream: Stream) -> _Timing:
        """`with check.timing(stream) as took: ...`, then took(): seconds that what the body put on the stream ran."""
        return _HostTiming(self.device, stream) if self.emulated else _EventTiming(self.device, stream)

    def finish(self, stream: Stream) -> None:
        """Wait for all that the stream was given."""
        wait(self.device, stream)

    # --- memory ----------------------------------------------------------------------------------------------------

    def put(self, array: NDArray[Any], stream: Stream) -> Memory:
        """A copy of an array in device memory."""
        memory, pinned = self.device.allocate(array.nbytes), self.device.pinned(array.nbytes)
        pinned[:] = np.ascontiguousarray(array).view(np.uint8).ravel()
        self.device.copy(memory.address, address_of(pinned), array.nbytes, stream)
        self.finish(stream)
        return memory

    def get(self, address: int, count: int, dtype: Any, stream: Stream) -> NDArray[Any]:
        """[count] of device memory, as an array of its own."""
        nbytes = count * np.dtype(dtype).itemsize
        pinned = self.device.pinned(nbytes)
        self.device.copy(address_of(pinned), address, nbytes, stream)
        self.finish(stream)
        array: NDArray[Any] = pinned.view(dtype).copy()
        return array

    def threads(self, kernel: str, stream: Stream, threads: int, arguments: tuple[int, ...]) -> None:
        """Launch a kernel with so many threads in all, in blocks."""
        self.device.launch(kernel, stream, -(-threads // THREADS), THREADS, arguments)


class _Timing(ABC):
    """See Check.timing."""

    def __init__(self, device: Device, stream: Stream) -> None:
        self._device, self._stream = device, stream
        self._seconds = 0.0

    def __enter__(self) -> Callable[[], float]:
        self._begin()
        return lambda: self._seconds

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self._seconds = self._end()

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _end(self) -> float:
        """Seconds since `_begin`."""


class _HostTiming(_Timing):
    """By the host's clock."""

    def _begin(self) -> None:
        self._began = time.perf_counter()

    def _end(self) -> float:
        wait(self._device, self._stream)
        return time.perf_counter() - self._began


class _EventTiming(_Timing):
    """By CUDA events, so that the way to the device and back does not count."""

    def _begin(self) -> None:
        import cupy

        self._first, self._last = cupy.cuda.Event(), cupy.cuda.Event()
        self._first.record(self._stream)

    def _end(self) -> float:
        import cupy

        self._last.record(self._stream)
        wait(self._device, self._stream)
        return float(cupy.cuda.get_elapsed_time(self._first, self._last)) / 1e3


def wait(device: Device, stream: Stream) -> None:
    """Until all that the stream was given has run."""
    event = device.event()
    device.record(event, stream)
    if not device.wait(event, LIMIT_S):
        raise DeviceError(f"{device.name}: work did not end within {LIMIT_S:g} s")


def rate(count: float, seconds: list[float]) -> float:
    """So many a second, by the median of what each took."""
    return count / float(np.median(seconds))


def spread(seconds: list[float]) -> Line:
    """How far apart the times of a figure are: the middle half of them, of their median."""
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return {"samples": len(seconds), "spread": round(float((high - low) / median), 4)}


def distinct(choose: np.random.Generator, below: int, count: int) -> NDArray[np.uint32]:
    """[count] random numbers below a bound, no two the same, in random order."""
    if count > below:
        raise ValueError(f"there are no {count} distinct numbers below {below}")
    if 4 * count > below:
        return choose.permutation(below)[:count].astype(np.uint32)
    drawn = np.unique(choose.integers(0, below, count + count // 2 + 64, dtype=np.uint32))
    return choose.permutation(drawn)[:count]


def proving(ids: NDArray[np.uint64], writing: int, row_bytes: int) -> NDArray[np.uint8]:
    """The rows u8 [n, row_bytes] that `make_rows` of check.cu makes, row_bytes a multiple of 16."""
    words = np.arange(row_bytes // 8, dtype=np.uint64) + (ids * np.uint64(0x9E3779B97F4A7C15))[:, None]
    words += np.uint64(writing)
    words[:, 0] = writing
    return words.view(np.uint8)
