"""Devices, streams, events, graphs and modules."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from embcache.gpu.emulated.device import EmulatedDevice

from . import driver, memory, nvrtc, runtime
from .handles import MACHINE

__all__ = ["Device", "Event", "Function", "Graph", "Module", "Stream", "driver", "get_elapsed_time", "memory", "nvrtc"]
__all__ += ["runtime"]


class Device:
    def __init__(self, device: int) -> None:
        self.id = device
        self._before: list[int] = []

    def __enter__(self) -> Device:
        self._before.append(runtime.getDevice())
        self.use()
        return self

    def __exit__(self, *args: object) -> None:
        runtime.setDevice(self._before.pop())

    def use(self) -> None:
        runtime.setDevice(self.id)

    @property
    def compute_capability(self) -> str:
        return "90"


class Stream:
    null: Stream
    ptds: Stream

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None
    ) -> None:
        assert non_blocking, "it would wait for others' work"
        self.captured: list[tuple[Any, ...]] | None = None
        self.ptr = runtime.streamCreateWithPriority(1, priority or 0)

    def __del__(self) -> None:
        runtime.streamDestroy(self.ptr)

    def synchronize(self) -> None:
        assert self.captured is None, "a stream that is being captured cannot be waited for"
        runtime.streamSynchronize(self.ptr)

    def wait_event(self, event: Event) -> None:
        runtime.streamWaitEvent(self.ptr, event.ptr)

    def begin_capture(self, mode: int | None = None) -> None:
        assert self.captured is None
        self.captured = []

    def end_capture(self) -> Graph:
        assert self.captured
        captured, self.captured = self.captured, None
        return Graph(captured)


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.timed = not disable_timing
        self.ptr = runtime.eventCreateWithFlags(0 if self.timed else runtime.eventDisableTiming)
        self.recorded = 0.0

    def __del__(self) -> None:
        runtime.eventDestroy(self.ptr)

    def record(self, stream: Stream) -> None:
        self.recorded = time.perf_counter()
        runtime.eventRecord(self.ptr, stream.ptr)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds; here, between when the two were recorded."""
    for event in (start_event, end_event):
        assert event.timed
        assert runtime.eventQuery(event.ptr) == 0
    return 1e3 * (end_event.recorded - start_event.recorded)


class Graph:
    def __init__(self, launches: list[tuple[Any, ...]]) -> None:
        self._launches = launches

    def upload(self, stream: Stream) -> None:
        assert stream.captured is None

    def launch(self, stream: Stream) -> None:
        assert stream.captured is None
        for launch in self._launches:
            runtime.launched(stream.ptr, *launch)


class Module:
    def __init__(self) -> None:
        self.ptr = 0

    def load(self, cubin: bytes) -> None:
        runtime.memGetInfo()
        self.ptr = 1
        if not MACHINE:  # of modules that come later, the kernels are those of the first
            MACHINE.append(EmulatedDevice(source=cubin.decode(), memory_bytes=1 << 29))

    def get_function(self, name: str) -> Function:
        assert self.ptr, "no module is loaded"
        runtime.check_context()
        return Function(self, name)


class Function:
    def __init__(self, module: Module, name: str) -> None:
        self.module = module
        self.name = name
        self.ptr = 1

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[np.uint64, ...],
        shared_mem: int = 0,
        stream: Stream | None = None,
        enable_cooperative_groups: bool = False,
    ) -> None:
        assert stream is not None
        runtime.memGetInfo()
        assert all(type(argument) is np.uint64 for argument in args), "kernels read 8 bytes of each"
        launch: tuple[Any, ...] = (self.name, *grid, *block, [int(argument) for argument in args])
        if stream.captured is not None:
            stream.captured.append(launch)
        else:
            runtime.launched(stream.ptr, *launch)
