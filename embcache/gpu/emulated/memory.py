"""Memory of the emulated device, and how much of it there is.

Allocations end where they were asked to end, so that AddressSanitizer sees a byte beyond.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embcache.gpu.device import DeviceError
from embcache.gpu.emulated.streams import Machine

DEVICE_ALIGNMENT = 256
PINNED_ALIGNMENT = 64

_libc = ctypes.CDLL(None)
_libc.posix_memalign.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_size_t]


class Block:
    """An allocation, zeroed. A NumPy array over it (`array`) keeps it; what runs when it dies may still use it."""

    def __init__(self, nbytes: int, alignment: int, machine: Machine) -> None:
        self.address = 0
        self.nbytes = nbytes
        self._machine = machine
        pointer = ctypes.c_void_p()
        if _libc.posix_memalign(ctypes.byref(pointer), alignment, max(nbytes, 1)) or pointer.value is None:
            raise DeviceError(f"this machine has no {nbytes} bytes to play device memory")
        self.address = pointer.value
        ctypes.memset(self.address, 0, nbytes)

    def __del__(self) -> None:
        if self.address:
            self._machine.free_later(self.address)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "typestr": "|u1", "shape": (self.nbytes,), "data": (self.address, False)}

    def array(self) -> NDArray[np.uint8]:
        """Its bytes."""
        return np.asarray(self)


class Budget:
    """How much device memory there is, and is left."""

    def __init__(self, total: int) -> None:
        self._lock = threading.Lock()
        self._free = total

    @property
    def free(self) -> int:
        return self._free

    def take(self, nbytes: int) -> None:
        """DeviceError where so much is not free."""
        with self._lock:
            if nbytes > self._free:
                raise DeviceError(f"out of device memory: {nbytes} bytes were asked for, {self._free} are free")
            self._free -= nbytes

    def give_back(self, nbytes: int) -> None:
        with self._lock:
            self._free += nbytes


class EmulatedMemory(Block):
    """Device memory; its bytes count for the device until it dies."""

    def __init__(self, nbytes: int, machine: Machine, budget: Budget) -> None:
        self.address = 0
        budget.take(nbytes)
        self.budget = budget
        try:
            super().__init__(nbytes, DEVICE_ALIGNMENT, machine)
        except DeviceError:
            budget.give_back(nbytes)
            raise

    def __del__(self) -> None:
        if self.address:
            self.budget.give_back(self.nbytes)
        super().__del__()
