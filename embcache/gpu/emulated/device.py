"""EmulatedDevice: `embcache.gpu.device.Device` without a GPU.

    device = EmulatedDevice()                              the hot tier's kernels; runs in a thread of its own
    device = EmulatedDevice(threaded=False, seed=7)        runs inside wait, wait_word and run(), the same way each time
    device = EmulatedDevice(source=text, on_fault="raise") other kernels, whose faults are KernelFault here

A fault of a kernel (a misaligned access, a vote that not all lanes come to, a hang) ends the process, with a report on
stderr: whatever catches DeviceError must not take a broken kernel for a lost device. With on_fault="raise" every call
from then on raises KernelFault instead.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embcache.gpu import kernels
from embcache.gpu.device import Bytes, DeviceError, Replay
from embcache.gpu.device import Event as DeviceEvent
from embcache.gpu.device import Stream as DeviceStream
from embcache.gpu.emulated import build
from embcache.gpu.emulated.faults import Faults
from embcache.gpu.emulated.library import MachineOptions, load
from embcache.gpu.emulated.memory import PINNED_ALIGNMENT, Block, Budget, EmulatedMemory
from embcache.gpu.emulated.streams import Event, KernelFault, Machine, Stream

__all__ = ["EmulatedDevice", "KernelFault"]

COPY_THREADS = 128
COPY_BLOCKS = 8
PIECE = 16

REPORT_TO = 2  # the file descriptor for what is said of a fault before the process ends


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
        options = MachineOptions(seed, step_limit, yield_in_8, max_resident, stale_l1, on_fault == "abort", REPORT_TO)
        self._kernels = library.kernels
        self._machine = Machine(library, options, threaded)
        self._mode = mode
        self._budget = Budget(memory_bytes)
        self._noise = np.random.default_rng(seed) if noise else None
        self._noise_lock = threading.Lock()
        self._faults = Faults()
        self._caller_stream = self._machine.stream()

    @property
    def name(self) -> str:
        return f"emulated on the CPU ({self._mode})"

    @property
    def free_bytes(self) -> int:
        self._faults.check()
        return self._budget.free

    def allocate(self, nbytes: int) -> EmulatedMemory:
        self._faults.check()
        memory = EmulatedMemory(nbytes, self._machine, self._budget)
        if self._noise is not None:
            with self._noise_lock:
                memory.array()[:] = self._noise.integers(0, 256, nbytes, np.uint8)
        return memory

    def pinned(self, nbytes: int) -> Bytes:
        self._faults.check()
        return Block(nbytes, PINNED_ALIGNMENT, self._machine).array()

    def stream(self) -> Stream:
        self._faults.check()
        return self._machine.stream()

    def event(self) -> Event:
        self._faults.check()
        return self._machine.event()

    def launch(self, kernel: str, stream: DeviceStream, blocks: int, threads: int, args: Sequence[int]) -> None:
        entry = self._kernels.get(kernel)
        if entry is None:
            raise DeviceError(f"no kernel {kernel!r}; there are {', '.join(sorted(self._kernels))}")
        if len(args) != entry.parameters:
            raise DeviceError(f"kernel {kernel} takes {entry.parameters} arguments, not {len(args)}")
        if blocks < 1 or not 1 <= threads <= entry.most_threads:
            raise DeviceError(
                f"kernel {kernel} cannot run as {blocks} blocks of {threads} threads: "
                f"at least one block, of 1 to {entry.most_threads} threads"
            )
        held = self._faults.of_launch(kernel)
        self._machine.launch(entry, self._own(stream), blocks, threads, args, held)

    def capture(self, kernel: str, blocks: int, threads: int, args: Sequence[int]) -> Replay:
        kept = tuple(args)

        def replay(stream: DeviceStream) -> None:
            self.launch(kernel, stream, blocks, threads, kept)

        return replay

    def record(self, event: DeviceEvent, stream: DeviceStream) -> None:
        self._faults.check()
        self._machine.record(self._own(event), self._own(stream))

    def follow(self, stream: DeviceStream, event: DeviceEvent) -> None:
        self._faults.check()
        self._machine.follow(self._own(stream), self._own(event))

    def done(self, event: DeviceEvent) -> bool:
        self.check()
        return self._machine.done(self._own(event))

    def wait(self, event: DeviceEvent, limit_s: float) -> bool:
        """Not threaded: run until `done`; False when nothing is left to run, whatever the limit."""
        self._faults.check()
        return self._machine.wait(self._own(event), limit_s)

    def wait_word(self, address: int, value: int, limit_s: float) -> bool:
        """Not threaded: run until the word is there; False when nothing is left to run, whatever the limit."""
        self._faults.check()
        return self._machine.wait_word(address, value, limit_s)

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

    def order_caller(self, event: DeviceEvent, limit_s: float) -> bool:
        return self.wait(event, limit_s)

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
        self._machine.check()

    # Beyond the seam: for tests.

    def array(self, owner: EmulatedMemory, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """An array over the beginning of an allocation, which it keeps."""
        wanted = np.dtype(dtype)
        nbytes = math.prod(shape) * wanted.itemsize
        if nbytes > owner.nbytes:
            raise ValueError(f"an array {shape} of {dtype} needs {nbytes} bytes, and its memory has {owner.nbytes}")
        return owner.array()[:nbytes].view(wanted).reshape(shape)

    def run(self) -> None:
        """Run all there is to run. Not for a threaded device. Unlike `wait` it orders nothing: only time passes."""
        self._faults.check()
        self._machine.run()

    @property
    def schedule(self) -> int:
        """A digest of every choice that the machine has made."""
        return self._machine.schedule

    @property
    def switches(self) -> int:
        """How often a thread went on, so far."""
        return self._machine.switches

    def fail_next(self, kernel: str, error: str) -> None:
        """The next launch of this kernel raises DeviceError(error), and is not launched."""
        self._faults.fail_next(kernel, error)

    def hang(self, kernel: str) -> None:
        """Launches of this kernel from now on do not begin, nor what stands behind them, until `release`."""
        self._faults.hang(kernel)

    def release(self) -> None:
        """Let everything that hangs begin: what it writes, it writes now."""
        self._faults.release()
        self._machine.release()

    def lose(self, reason: str = "the device has fallen off the bus") -> None:
        """From now on every call raises DeviceError(reason)."""
        self._faults.lose(reason)

    def _own(self, thing: Any) -> Any:
        if not isinstance(thing, Stream | Event) or thing.machine is not self._machine:
            raise ValueError(f"{thing!r} is no stream or event of this device")
        return thing


def _blocks_for(nbytes: int) -> int:
    return min(COPY_BLOCKS, -(-nbytes // (PIECE * COPY_THREADS)))
