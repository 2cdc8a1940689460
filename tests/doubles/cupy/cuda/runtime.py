"""The calls of CUDA's runtime. Their signatures are CuPy's."""

# ruff: noqa: N802, N803, N816 - the names are CUDA's
from __future__ import annotations

import threading
from typing import Any

from .handles import MACHINE, Handles

hostAllocPortable, hostAllocMapped = 1, 2
eventDisableTiming = 2
_NOT_READY = 600
_DEFAULT = 4  # cudaMemcpyDefault

_current = threading.local()
_streams: Handles[Any] = Handles()
_events: Handles[Any] = Handles()
_memory: Handles[Any] = Handles()
_pinned: Handles[Any] = Handles()


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"cudaError {status}")


def getDeviceCount() -> int:
    return 1


def getDevice() -> int:
    return getattr(_current, "device", 0)


def setDevice(device: int) -> None:
    if device >= getDeviceCount():
        raise CUDARuntimeError(101)
    _current.device = device


def check_context() -> None:
    """No call of CUDA's: the driver's calls need one that was made for the thread by a call of the runtime's."""
    assert getattr(_current, "context", False), "this thread has no context"


def getDeviceProperties(device: int) -> dict[str, Any]:
    return {"name": b"emulated through a double of CuPy"}


def memGetInfo() -> tuple[int, int]:
    _current.context = True
    return (MACHINE[0].free_bytes if MACHINE else 1 << 29), 1 << 29


class PointerAttributes:
    def __init__(self, device: int, devicePointer: int, hostPointer: int, type: int = -1) -> None:
        self.device, self.devicePointer, self.hostPointer, self.type = device, devicePointer, hostPointer, type


def pointerGetAttributes(ptr: int) -> PointerAttributes:
    for kind, things in ((2, _memory), (1, _pinned)):
        for begin, size in things.sizes():
            if begin <= ptr < begin + size:
                return PointerAttributes(0, ptr, ptr, kind)
    return PointerAttributes(-2, 0, ptr, 0)


def malloc(size: int) -> int:
    memory = MACHINE[0].allocate(size)
    return _memory.add(memory, memory.address)


def free(ptr: int) -> None:
    _memory.remove(ptr)


def hostAlloc(size: int, flags: int) -> int:
    assert flags == hostAllocPortable | hostAllocMapped
    array = MACHINE[0].pinned(size)
    return _pinned.add(array, array.ctypes.data)


def freeHost(ptr: int) -> None:
    _pinned.remove(ptr)


def memsetAsync(ptr: int, value: int, size: int, stream: int) -> None:
    assert value == 0
    MACHINE[0].clear(ptr, size, _streams[stream])


def memcpyAsync(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    assert kind == _DEFAULT
    MACHINE[0].copy(dst, src, size, _streams[stream])


def streamCreateWithPriority(flags: int, priority: int) -> int:
    return _streams.add(MACHINE[0].stream())


def streamDestroy(stream: int) -> None:
    _streams.remove(stream)


def streamSynchronize(stream: int) -> None:
    event = MACHINE[0].event()
    MACHINE[0].record(event, _streams[stream])
    assert MACHINE[0].wait(event, 60)


def streamQuery(stream: int) -> int:
    assert _streams[stream] is not None
    return _NOT_READY


def streamWaitEvent(stream: int, event: int, flags: int = 0) -> None:
    MACHINE[0].follow(_streams[stream], _events[event])


def eventCreateWithFlags(flags: int) -> int:
    return _events.add(MACHINE[0].event())


def eventDestroy(event: int) -> None:
    _events.remove(event)


def eventRecord(event: int, stream: int) -> None:
    MACHINE[0].record(_events[event], _streams[stream])


def eventQuery(event: int) -> int:
    return 0 if MACHINE[0].done(_events[event]) else _NOT_READY


def launched(stream: int, kernel: str, blocks: int, threads: int, args: list[int]) -> None:
    """No call of CUDA's: a kernel's launch."""
    MACHINE[0].launch(kernel, _streams[stream], blocks, threads, args)
