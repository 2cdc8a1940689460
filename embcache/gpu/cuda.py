"""A CUDA device through CuPy. The only module that imports CuPy, and only once a device is asked for."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cupy
import numpy as np
from cupy.cuda import runtime

from embcache.gpu.device import Bytes, DeviceError, Replay
from embcache.gpu.kernels import source
from embcache.host.waiting import await_word

_OPTIONS = ("-std=c++17",)
_MAPPED = runtime.hostAllocMapped | runtime.hostAllocPortable
_ANY_DIRECTION = 4  # cudaMemcpyDefault: the addresses say which it is
_SUCCESS, _NOT_READY = 0, 600  # of cudaError_t
_SPIN_S, _NAP_S = 200e-6, 50e-6
_FAILURES = (
    runtime.CUDARuntimeError,
    cupy.cuda.driver.CUDADriverError,
    cupy.cuda.compiler.CompileException,
    cupy.cuda.memory.OutOfMemoryError,
)


def device_count() -> int:
    """CUDA devices of this machine. DeviceError where there is no driver."""
    try:
        return int(runtime.getDeviceCount())
    except runtime.CUDARuntimeError as error:
        raise DeviceError(f"no CUDA device can be used: {error}") from None


class _Memory:
    """Device memory of its own, beside CuPy's pool."""

    def __init__(self, nbytes: int) -> None:
        self._memory = cupy.cuda.memory.Memory(max(nbytes, 1))
        self.address = int(self._memory.ptr)
        self.nbytes = nbytes


class _Pinned:
    """Pinned host memory, freed once no array looks into it any more."""

    def __init__(self, address: int, nbytes: int) -> None:
        weakref.finalize(self, _free_host, address).atexit = False
        self.__array_interface__ = {"version": 3, "shape": (nbytes,), "typestr": "|u1", "data": (address, False)}


class CudaDevice:
    """See device.Device. Streams and events are CuPy's own."""

    def __init__(self, number: int) -> None:
        """Device `number`, its kernels compiled, or loaded from CuPy's cache on disk."""
        self._number = number
        self._device = cupy.cuda.Device(number)
        self._functions: dict[str, Any] = {}
        with self._doing("cannot be used"):
            model = runtime.getDeviceProperties(number)["name"].decode()
            self.name = f"{model} (device {number})"
            self._module = cupy.RawModule(code=source(), options=_OPTIONS, backend="nvrtc")
            self._module.compile()

    @property
    def free_bytes(self) -> int:
        with self._doing("cannot say how much memory is free"):
            return int(runtime.memGetInfo()[0])

    def allocate(self, nbytes: int) -> _Memory:
        try:
            with self._device:
                memory = _Memory(nbytes)
                runtime.memset(memory.address, 0, nbytes)
                runtime.deviceSynchronize()
        except _FAILURES as error:
            raise DeviceError(
                f"{self.name}: {nbytes} bytes cannot be had, {self.free_bytes} are free: {error}"
            ) from None
        return memory

    def pinned(self, nbytes: int) -> Bytes:
        with self._doing(f"does not pin {nbytes} bytes of host memory"):
            address = int(runtime.hostAlloc(max(nbytes, 1), _MAPPED))
        array = np.asarray(_Pinned(address, nbytes))
        array[:] = 0
        return array

    def stream(self) -> Any:
        with self._doing("makes no stream"):
            return cupy.cuda.Stream(non_blocking=True)

    def event(self) -> Any:
        with self._doing("makes no event"):
            return cupy.cuda.Event(disable_timing=True)

    def launch(self, kernel: str, stream: Any, blocks: int, threads: int, args: Sequence[int]) -> None:
        with self._doing(f"does not launch {kernel}"):
            self._function(kernel)((blocks,), (threads,), tuple(args), stream=stream)

    def capture(self, kernel: str, blocks: int, threads: int, args: Sequence[int]) -> Replay:
        with self._doing(f"does not capture {kernel}"):
            function, stream = self._function(kernel), cupy.cuda.Stream(non_blocking=True)
            stream.begin_capture()
            function((blocks,), (threads,), tuple(args), stream=stream)
            graph = stream.end_capture()
            graph.upload(stream)
            stream.synchronize()

        def launch(stream: Any) -> None:
            with self._doing(f"does not launch {kernel}"):
                graph.launch(stream)

        return launch

    def record(self, event: Any, stream: Any) -> None:
        with self._doing("records no event"):
            event.record(stream)

    def follow(self, stream: Any, event: Any) -> None:
        with self._doing("does not wait for an event"):
            stream.wait_event(event)

    def done(self, event: Any) -> bool:
        return self._has_ended(runtime.eventQuery, event.ptr)

    def wait(self, event: Any, limit_s: float) -> bool:
        began = time.monotonic()
        while not self.done(event):
            waited = time.monotonic() - began
            if waited > limit_s:
                return False
            time.sleep(0 if waited < _SPIN_S else _NAP_S)
        return True

    def wait_word(self, address: int, value: int, limit_s: float) -> bool:
        if await_word(address, value, limit_s):
            return True
        self.check()  # perhaps it will never come
        return False

    def clear(self, address: int, nbytes: int, stream: Any) -> None:
        with self._doing("does not clear memory"):
            runtime.memsetAsync(address, 0, nbytes, stream.ptr)

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        with self._doing("does not copy"):
            runtime.memcpyAsync(target, source, nbytes, _ANY_DIRECTION, stream.ptr)

    def caller_stream(self) -> Any:
        return cupy.cuda.get_current_stream(self._number)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        with self._doing(f"has no room for {shape} of {dtype}"):
            return cupy.empty(shape, dtype)

    def address(self, array: Any) -> int:
        held = cupy.asarray(array) if hasattr(array, "__cuda_array_interface__") else None
        if held is None or held.device.id != self._number or not held.flags.c_contiguous:
            raise TypeError(f"an array on {self.name} is needed, C-contiguous, not {type(array).__name__}")
        return int(held.data.ptr)

    def check(self) -> None:
        self._has_ended(runtime.streamQuery, 0)

    def _has_ended(self, query: Callable[[int], int], what: int) -> bool:
        """Ask the driver of an event or a stream. These queries tell of errors by their value, earlier ones too."""
        with self._doing("has failed"):
            status = query(what)
            if status not in (_SUCCESS, _NOT_READY):
                raise runtime.CUDARuntimeError(status)
        return status == _SUCCESS

    def _function(self, kernel: str) -> Any:
        function = self._functions.get(kernel)
        if function is None:
            function = self._functions[kernel] = self._module.get_function(kernel).kernel
        return function

    @contextlib.contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        """Have this device current, and make whatever fails a DeviceError: it costs the hot tier, and no lookup."""
        try:
            with self._device:
                yield
        except Exception as error:
            raise DeviceError(f"{getattr(self, 'name', f'CUDA device {self._number}')} {what}: {error}") from error


def _free_host(address: int) -> None:
    with contextlib.suppress(runtime.CUDARuntimeError):  # the device is gone, and its memory with it
        runtime.freeHost(address)
