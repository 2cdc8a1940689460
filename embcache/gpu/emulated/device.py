"""EmulatedDevice: `embcache.gpu.device.Device` without a GPU.

    device = EmulatedDevice()                              the hot tier's kernels; runs in a thread of its own
    device = EmulatedDevice(threaded=False, seed=7)        runs inside wait, wait_word and run(), the same way each time
    device = EmulatedDevice(source=text, on_fault="raise") other kernels, whose faults are KernelFault here

A fault of a kernel (a misaligned access, a vote that not all lanes come to, a hang) ends the process, with a report on
stderr: whatever catches DeviceError must not take a broken kernel for a lost device. With on_fault="raise" every call
from then on raises KernelFault instead.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from embcache.gpu import kernels
from embcache.gpu.device import Bytes, DeviceError, Replay
from embcache.gpu.device import Event as DeviceEvent
from embcache.gpu.device import Stream as DeviceStream
from embcache.gpu.emulated import build
from embcache.gpu.emulated.faults import Faults
from embcache.gpu.emulated.library import Library, MachineOptions, load
from embcache.gpu.emulated.memory import PINNED_ALIGNMENT, Block, Budget, EmulatedMemory

COPY_THREADS = 128
COPY_BLOCKS = 8
PIECE = 16
_Thing = TypeVar("_Thing", "Stream", "Event")


class KernelFault(BaseException):
    """A kernel did what no kernel may. Not an Exception, so that nothing takes it for a device that was lost."""


class _Machine:
    """A machine of a library; freed when neither the device nor a stream or event of it is left."""

    def __init__(self, library: Library, options: MachineOptions, threaded: bool) -> None:
        self.library = library
        self.handle = library.machine_new(ctypes.byref(options))
        thread = None
        if threaded:
            serve = library.machine_serve
            thread = threading.Thread(target=serve, args=(self.handle,), name="emulated device", daemon=True)
            thread.start()
        self.close = weakref.finalize(self, _close, library, self.handle, thread)


def _close(library: Library, handle: int, thread: threading.Thread | None) -> None:
    if thread is not None:
        library.machine_stop(handle)
        thread.join()
    library.machine_free(handle)


class Stream:
    """Work in order, on an emulated device."""

    def __init__(self, machine: _Machine) -> None:
        self.machine = machine
        self.number: int = machine.library.machine_stream(machine.handle)


class Event:
    """A point in a stream's work, on an emulated device."""

    def __init__(self, machine: _Machine) -> None:
        self.machine = machine
        self.handle: int = machine.library.event_new()

    def __del__(self) -> None:
        self.machine.library.event_free(self.handle)


class EmulatedDevice:
    """A device that g++ and this machine's CPU play. Safe for many threads.

    source         kernels, CUDA C++; None: the hot tier's
    threaded       run in a thread of its own, as a GPU does; else nothing runs but inside `wait`, `wait_word` and
                   `run`, on the caller's thread, and only until what is waited for is there: one seed, one schedule
    seed           of the schedule: which grids begin, which blocks are resident, which thread goes on, what noise is
    yield_in_8     how often, in eighths, an access to memory lets another thread go on: at least 1
    max_resident   most blocks of a grid at a time
    stale_l1       plain loads may be answered by what an SM read before, in the same grid
    step_limit     most turns of one thread before it counts as hanging
    noise          `allocate` gives noise instead of zeros
    memory_bytes   device memory there is
    mode           "plain", "asan" or "tsan", see build.py
    on_fault       what a kernel's fault does: "abort" the process, or "raise" KernelFault
    """

    def __init__(
        self,
        *,
        source: str | None = None,
        threaded: bool = True,
        seed: int = 0,
        yield_in_8: int = 2,
        max_resident: int = 4,
        stale_l1: bool = False,
        step_limit: int = 1_000_000,
        noise: bool = False,
        memory_bytes: int = 1 << 28,
        mode: str = "plain",
        on_fault: str = "abort",
    ) -> None:
        if not 1 <= yield_in_8 <= 8 or max_resident < 1 or step_limit < 1:
            raise ValueError("yield_in_8 is 1 to 8, max_resident and step_limit are at least 1")
        if on_fault not in ("abort", "raise"):
            raise ValueError(f'on_fault is "abort" or "raise", not {on_fault!r}')
        library = load(build.library(kernels.source() if source is None else source, mode))
        options = MachineOptions(seed, step_limit, yield_in_8, max_resident, stale_l1, on_fault == "abort")
        self._library = library
        self._machine = _Machine(library, options, threaded)
        self._drive = not threaded
        self._mode = mode
        self._budget = Budget(memory_bytes)
        self._noise = np.random.default_rng(seed) if noise else None
        self._noise_lock = threading.Lock()
        self._faults = Faults()
        self._caller_stream = Stream(self._machine)

    @property
    def name(self) -> str:
        return f"emulated on the CPU ({self._mode})"

    @property
    def free_bytes(self) -> int:
        self._faults.check()
        return self._budget.free

    def allocate(self, nbytes: int) -> EmulatedMemory:
        self._faults.check()
        memory = EmulatedMemory(nbytes, self._budget)
        if self._noise is not None:
            with self._noise_lock:
                memory.array()[:] = self._noise.integers(0, 256, nbytes, np.uint8)
        return memory

    def pinned(self, nbytes: int) -> Bytes:
        self._faults.check()
        return Block(nbytes, PINNED_ALIGNMENT).array()

    def stream(self) -> Stream:
        self._faults.check()
        return Stream(self._machine)

    def event(self) -> Event:
        self._faults.check()
        return Event(self._machine)

    def launch(self, kernel: str, stream: DeviceStream, blocks: int, threads: int, args: Sequence[int]) -> None:
        entry = self._library.kernels.get(kernel)
        if entry is None:
            raise DeviceError(f"no kernel {kernel!r}; there are {', '.join(sorted(self._library.kernels))}")
        if len(args) != entry.parameters:
            raise DeviceError(f"kernel {kernel} takes {entry.parameters} arguments, not {len(args)}")
        if blocks < 1 or not 1 <= threads <= entry.most_threads:
            raise DeviceError(
                f"kernel {kernel} cannot run as {blocks} blocks of {threads} threads: "
                f"at least one block, of 1 to {entry.most_threads} threads"
            )
        held = self._faults.of_launch(kernel)
        self._check_machine()
        words = (ctypes.c_uint64 * len(args))(*(int(arg) & 0xFFFFFFFFFFFFFFFF for arg in args))
        self._library.machine_launch(
            self._machine.handle, self._number(stream), entry.address, blocks, threads, words, held
        )

    def capture(self, kernel: str, blocks: int, threads: int, args: Sequence[int]) -> Replay:
        kept = tuple(args)

        def replay(stream: DeviceStream) -> None:
            self.launch(kernel, stream, blocks, threads, kept)

        return replay

    def record(self, event: DeviceEvent, stream: DeviceStream) -> None:
        self._faults.check()
        self._library.machine_record(self._machine.handle, self._handle(event), self._number(stream))

    def follow(self, stream: DeviceStream, event: DeviceEvent) -> None:
        self._faults.check()
        self._library.machine_follow(self._machine.handle, self._number(stream), self._handle(event))

    def done(self, event: DeviceEvent) -> bool:
        self.check()
        return bool(self._library.event_done(self._handle(event)))

    def wait(self, event: DeviceEvent, limit_s: float) -> bool:
        """Not threaded: run until `done`; False when nothing is left to run, whatever the limit."""
        self._faults.check()
        return self._came(self._library.machine_wait(self._machine.handle, self._handle(event), limit_s, self._drive))

    def wait_word(self, address: int, value: int, limit_s: float) -> bool:
        """Not threaded: run until the word is there; False when nothing is left to run, whatever the limit."""
        self._faults.check()
        return self._came(self._library.machine_wait_word(self._machine.handle, address, value, limit_s, self._drive))

    def clear(self, address: int, nbytes: int, stream: DeviceStream) -> None:
        if nbytes:
            self.launch("clear_bytes", stream, _blocks_for(nbytes), COPY_THREADS, (address, nbytes))

    def copy(self, target: int, source: int, nbytes: int, stream: DeviceStream) -> None:
        if nbytes:
            self.launch("copy_bytes", stream, _blocks_for(nbytes), COPY_THREADS, (target, source, nbytes))

    def caller_stream(self) -> Stream:
        """One for all threads: what they do with NumPy is done at once."""
        self._faults.check()
        return self._caller_stream

    def empty(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        wanted = np.dtype(dtype)
        return self.array(self.allocate(math.prod(shape) * wanted.itemsize), shape, dtype)

    def address(self, array: Any) -> int:
        owner = array
        while isinstance(owner, np.ndarray):
            owner = owner.base
        if not isinstance(owner, EmulatedMemory) or owner.budget is not self._budget:
            raise TypeError(f"an array on the {self.name} is needed, not {type(array).__name__} in other memory")
        if not array.flags.c_contiguous:
            raise TypeError("the array is not C-contiguous")
        return int(array.ctypes.data)

    def check(self) -> None:
        self._faults.check()
        self._check_machine()

    # Beyond the seam: for tests.

    def array(self, owner: EmulatedMemory, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """An array over the beginning of an allocation, which it keeps."""
        wanted = np.dtype(dtype)
        nbytes = math.prod(shape) * wanted.itemsize
        if nbytes > owner.nbytes:
            raise ValueError(f"an array {shape} of {dtype} needs {nbytes} bytes, and its memory has {owner.nbytes}")
        return owner.array()[:nbytes].view(wanted).reshape(shape)

    def run(self) -> None:
        """Run all there is to run. Not for a threaded device."""
        if not self._drive:
            raise ValueError("a threaded device runs by itself")
        self._faults.check()
        self._came(self._library.machine_run(self._machine.handle))

    @property
    def schedule(self) -> int:
        """A digest of every choice that the machine has made."""
        return int(self._library.machine_schedule(self._machine.handle))

    @property
    def switches(self) -> int:
        """How often a thread went on, so far."""
        return int(self._library.machine_switches(self._machine.handle))

    def fail_next(self, kernel: str, error: str) -> None:
        """The next launch of this kernel raises DeviceError(error), and is not launched."""
        self._faults.fail_next(kernel, error)

    def hang(self, kernel: str) -> None:
        """Launches of this kernel from now on do not begin, nor what stands behind them, until `release`."""
        self._faults.hang(kernel)

    def release(self) -> None:
        """Let everything that hangs begin: what it writes, it writes now."""
        self._faults.release()
        self._library.machine_release(self._machine.handle)

    def lose(self, reason: str = "the device has fallen off the bus") -> None:
        """From now on every call raises DeviceError(reason)."""
        self._faults.lose(reason)

    def _number(self, stream: DeviceStream) -> int:
        return self._own(cast(Stream, stream)).number

    def _handle(self, event: DeviceEvent) -> int:
        return self._own(cast(Event, event)).handle

    def _own(self, thing: _Thing) -> _Thing:
        if thing.machine is not self._machine:
            raise ValueError(f"this {type(thing).__name__.lower()} is another device's")
        return thing

    def _came(self, answer: int) -> bool:
        self._faults.check()
        if answer < 0:
            self._raise_fault()
        return answer == 1

    def _check_machine(self) -> None:
        if self._library.machine_failure(self._machine.handle, None, 0):
            self._raise_fault()

    def _raise_fault(self) -> NoReturn:
        text = ctypes.create_string_buffer(8192)
        self._library.machine_failure(self._machine.handle, text, len(text))
        raise KernelFault(text.value.decode(errors="replace"))


def _blocks_for(nbytes: int) -> int:
    return min(COPY_BLOCKS, -(-nbytes // (PIECE * COPY_THREADS)))
