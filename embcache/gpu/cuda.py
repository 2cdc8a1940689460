"""A CUDA device through CuPy. The only module that imports CuPy, and only once a device is asked for."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cupy
import numpy as np
from cupy.cuda import driver, nvrtc, runtime

from embcache.gpu import kernels
from embcache.gpu.device import Bytes, DeviceError, Replay
from embcache.host.waiting import await_word

OPTIONS = ("-std=c++17", "-default-device", "-lineinfo")  # of NVRTC
_MAPPED = runtime.hostAllocMapped | runtime.hostAllocPortable
_ANY_DIRECTION = 4  # cudaMemcpyDefault: the addresses say which it is
_SUCCESS, _NOT_READY = 0, 600  # of cudaError_t
_ON_DEVICE = (2, 3)  # of cudaMemoryType: the device's, and managed
_SPIN_S, _NAP_S = 200e-6, 50e-6
# Pinned memory that nothing looks into any more. It is freed when more is wanted, not when its last array dies: freeing
# waits for all that the device runs, and for ever where a launch hangs, whichever thread the array happens to die in.
_unused: deque[tuple[int, int]] = deque()  # (device, address)


def device_count() -> int:
    """CUDA devices of this machine. DeviceError where there is no driver."""
    try:
        return int(runtime.getDeviceCount())
    except runtime.CUDARuntimeError as error:
        raise DeviceError(f"no CUDA device can be used: {error}") from None


class _Memory:
    """Device memory of its own, of cudaMalloc, beside CuPy's pool."""

    def __init__(self, nbytes: int) -> None:
        self._memory = cupy.cuda.memory.Memory(max(nbytes, 1))
        self.address = int(self._memory.ptr)
        self.nbytes = nbytes


class _Pinned:
    """Pinned host memory. Under unified addressing, which all 64-bit Linux has, the device knows it by its address."""

    def __init__(self, device: int, address: int, nbytes: int) -> None:
        weakref.finalize(self, _unused.append, (device, address)).atexit = False
        self.__array_interface__ = {"version": 3, "shape": (nbytes,), "typestr": "|u1", "data": (address, False)}


class CudaDevice:
    """See device.Device. Streams and events are CuPy's own."""

    def __init__(self, number: int, *, source: str | None = None) -> None:
        """Device `number`, its kernels compiled. source: kernels, CUDA C++; None: the hot tier's."""
        self._number = number
        self.name = f"CUDA device {number}"
        self._device = cupy.cuda.Device(number)
        self._functions: dict[str, Any] = {}
        with self._doing("cannot be used"):
            self.name = f"{runtime.getDeviceProperties(number)['name'].decode()} (device {number})"
            text = kernels.source() if source is None else source
            self._module = cupy.cuda.Module()
            self._module.load(_compiled(text, self._device.compute_capability))
            self._own = cupy.cuda.Stream(non_blocking=True)  # legacy ones would wait for, and stop, those of others

    @property
    def free_bytes(self) -> int:
        with self._doing("cannot say how much memory is free"):
            return int(runtime.memGetInfo()[0])

    def allocate(self, nbytes: int) -> _Memory:
        free = self.free_bytes
        with self._doing("cannot give %d bytes of memory, of which %d are free", nbytes, free):
            memory = _Memory(nbytes)
            runtime.memsetAsync(memory.address, 0, nbytes, self._own.ptr)
            self._own.synchronize()
        return memory

    def pinned(self, nbytes: int) -> Bytes:
        with self._doing("does not pin %d bytes of host memory", nbytes):
            _free_unused()
            address = int(runtime.hostAlloc(max(nbytes, 1), _MAPPED))
        array = np.asarray(_Pinned(self._number, address, nbytes))
        array[:] = 0
        return array

    def stream(self) -> Any:
        with self._doing("makes no stream"):
            return cupy.cuda.Stream(non_blocking=True)

    def event(self) -> Any:
        with self._doing("makes no event"):
            return cupy.cuda.Event(disable_timing=True)

    def launch(self, kernel: str, stream: Any, blocks: int, threads: int, args: Sequence[int]) -> None:
        with self._doing("does not launch %s", kernel):
            self._function(kernel)((blocks,), (threads,), _packed(args), stream=stream)

    def capture(self, kernel: str, blocks: int, threads: int, args: Sequence[int]) -> Replay:
        with self._doing("does not capture %s", kernel):
            function, stream = self._function(kernel), cupy.cuda.Stream(non_blocking=True)
            stream.begin_capture()
            function((blocks,), (threads,), _packed(args), stream=stream)
            graph = stream.end_capture()
            graph.upload(stream)
            stream.synchronize()

        def launch(stream: Any) -> None:
            with self._doing("does not launch %s", kernel):
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

    def order_caller(self, event: Any, limit_s: float) -> bool:
        self.follow(self.caller_stream(), event)
        return True

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        with self._doing("has no room for %s of %s", shape, dtype):
            return cupy.empty(shape, dtype)

    def address(self, array: Any) -> int:
        held = getattr(array, "__cuda_array_interface__", None)
        if held is None or not _is_contiguous(held) or not self._has(int(held["data"][0])):
            raise TypeError(f"an array on {self.name} is needed, C-contiguous, not {type(array).__name__}")
        return int(held["data"][0])

    def check(self) -> None:
        self._has_ended(runtime.streamQuery, self._own.ptr)

    def _has(self, address: int) -> bool:
        """Whether an address is one of this device's memory, or of an array without elements."""
        with self._doing("does not know %d", address):
            where = runtime.pointerGetAttributes(address) if address else None
        return where is None or (where.type in _ON_DEVICE and where.device == self._number)

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
            runtime.memGetInfo()  # gives a new thread the device's context, without which the driver does nothing
            function = self._module.get_function(kernel)
            # Modules are loaded lazily, a kernel when it is first asked about: not in the middle of a capture.
            driver.funcGetAttribute(driver.CU_FUNC_ATTRIBUTE_NUM_REGS, function.ptr)
            self._functions[kernel] = function
        return function

    def _doing(self, what: str, *named: object) -> _Doing:
        return _Doing(self, self._device, what, named)


class _Doing:
    """Has a device current, and makes whatever fails a DeviceError: it costs the hot tier, and no lookup."""

    __slots__ = ("_current", "_device", "_named", "_what")

    def __init__(self, device: CudaDevice, current: Any, what: str, named: tuple[object, ...]) -> None:
        self._device, self._current, self._what, self._named = device, current, what, named

    def __enter__(self) -> None:
        try:
            self._current.__enter__()
        except Exception as error:
            raise self._failure(error) from error

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._current.__exit__(None, None, None)
            return
        with contextlib.suppress(runtime.CUDARuntimeError):  # the device is lost, which is what `error` says already
            self._current.__exit__(kind, error, trace)
        if isinstance(error, Exception) and not isinstance(error, DeviceError):
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> DeviceError:
        return DeviceError(f"{self._device.name} {self._what % self._named}: {error}")


def _compiled(text: str, capability: str) -> bytes:
    """The kernels' machine code for GPUs of a compute capability ("90").

    Not by RawModule: it adds -ftz=true behind all options, and bags of tiny numbers would be others than on the host.
    """
    program = nvrtc.createProgram(text, "embcache.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"-arch=sm_{capability}", *OPTIONS))
        return bytes(nvrtc.getCUBIN(program))
    except nvrtc.NVRTCError as error:
        said = nvrtc.getProgramLog(program).strip()
        raise DeviceError(f"NVRTC {nvrtc.getVersion()} does not compile for sm_{capability}: {error} {said}") from None
    finally:
        nvrtc.destroyProgram(program)


def _is_contiguous(held: Mapping[str, Any]) -> bool:
    """Whether an array, as its __cuda_array_interface__ tells of it, is C-contiguous."""
    strides = held.get("strides")
    if strides is None or 0 in held["shape"]:
        return True
    wanted = np.dtype(held["typestr"]).itemsize
    for length, stride in zip(reversed(held["shape"]), reversed(strides), strict=True):
        if length > 1 and stride != wanted:
            return False
        wanted *= length
    return True


def _packed(args: Sequence[int]) -> tuple[np.uint64, ...]:
    """Arguments for CuPy to pack: 8 bytes each, of which a kernel reads as many as it declares, the low ones first."""
    return tuple(np.uint64(int(arg) & 0xFFFFFFFFFFFFFFFF) for arg in args)


def _free_unused() -> None:
    while _unused:
        try:
            device, address = _unused.popleft()
        except IndexError:  # another thread was faster
            return
        with cupy.cuda.Device(device):
            runtime.freeHost(address)
