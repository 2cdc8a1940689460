"""A machine of a library, its streams and its events."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Sequence
from typing import NoReturn

from embcache.gpu.emulated.library import Kernel, Library, MachineOptions

_WORD = 0xFFFFFFFFFFFFFFFF
_STOP_S = 10.0  # a kernel that never comes to a point in this time is left to itself
_REPORT_BYTES = 8192


class KernelFault(BaseException):
    """A kernel did what no kernel may. Not an Exception, so that nothing takes it for a device that was lost."""


class Machine:
    """What runs kernels: in a thread of its own, or inside the waits. Freed when nothing refers to it any more."""

    def __init__(self, library: Library, options: MachineOptions, threaded: bool) -> None:
        self._library = library
        self._drive = not threaded
        self._handle: int = library.machine_new(ctypes.byref(options))
        thread = None
        if threaded:
            serve = library.machine_serve
            thread = threading.Thread(target=serve, args=(self._handle,), name="emulated device", daemon=True)
            thread.start()
        # Not when the process ends: memory that outlives this would be given back to nobody.
        weakref.finalize(self, _close, library, self._handle, thread).atexit = False

    def stream(self) -> Stream:
        return Stream(self, self._library.machine_stream(self._handle))

    def event(self) -> Event:
        return Event(self, self._library)

    def launch(
        self, kernel: Kernel, stream: Stream, blocks: int, threads: int, args: Sequence[int], held: bool
    ) -> None:
        """`held`: it does not begin until `release`."""
        self.check()
        words = (ctypes.c_uint64 * len(args))(*(int(arg) & _WORD for arg in args))
        self._library.machine_launch(self._handle, stream.number, kernel.address, blocks, threads, words, held)

    def release(self) -> None:
        self._library.machine_release(self._handle)

    def record(self, event: Event, stream: Stream) -> None:
        self._library.machine_record(self._handle, event.handle, stream.number)

    def follow(self, stream: Stream, event: Event) -> None:
        self._library.machine_follow(self._handle, stream.number, event.handle)

    def done(self, event: Event) -> bool:
        return bool(self._library.event_done(event.handle))

    def wait(self, event: Event, limit_s: float) -> bool:
        return self._came(self._library.machine_wait(self._handle, event.handle, limit_s, self._drive))

    def wait_word(self, address: int, value: int, limit_s: float) -> bool:
        return self._came(self._library.machine_wait_word(self._handle, address, value, limit_s, self._drive))

    def run(self) -> None:
        """Run all there is to run. ValueError where a thread does."""
        if not self._drive:
            raise ValueError("a threaded device runs by itself")
        self._came(self._library.machine_run(self._handle))

    def free_later(self, address: int) -> None:
        """Free memory of libc's, once nothing runs that was launched until now."""
        self._library.machine_free_later(self._handle, address)

    def check(self) -> None:
        """KernelFault if a kernel failed."""
        if self._library.machine_failure(self._handle, None, 0):
            self._raise()

    @property
    def schedule(self) -> int:
        return int(self._library.machine_schedule(self._handle))

    @property
    def switches(self) -> int:
        return int(self._library.machine_switches(self._handle))

    def _came(self, answer: int) -> bool:
        if answer < 0:
            self._raise()
        return answer == 1

    def _raise(self) -> NoReturn:
        text = ctypes.create_string_buffer(_REPORT_BYTES)
        self._library.machine_failure(self._handle, text, len(text))
        raise KernelFault(text.value.decode(errors="replace"))


def _close(library: Library, handle: int, thread: threading.Thread | None) -> None:
    if thread is not None:
        library.machine_stop(handle)
        thread.join(_STOP_S)
        if thread.is_alive():
            return
    library.machine_free(handle)


class Stream:
    """Work in order, on an emulated device."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine = machine
        self.number = number


class Event:
    """A point in a stream's work, on an emulated device."""

    def __init__(self, machine: Machine, library: Library) -> None:
        self.machine = machine
        self.handle: int = library.event_new()
        weakref.finalize(self, library.event_free, self.handle).atexit = False
