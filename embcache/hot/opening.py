"""From settings to a device: which one, and what is said where it cannot be had."""

from __future__ import annotations

from typing import Literal

from embcache.errors import ConfigError
from embcache.gpu.device import Device, DeviceError


def open_device(wanted: Literal["auto", "emulated"] | int, front: int = 0) -> Device | str:
    """The device that a setting names, or why there is none ("auto"). front: whose device; they take turns.

    ConfigError where a device was asked for by its number and cannot be used.
    """
    if wanted == "emulated":
        return _emulated()
    try:
        return _cuda(wanted, front)
    except DeviceError as error:
        if wanted == "auto":
            return str(error)
        raise ConfigError(f'hot.device: {wanted} asks for a GPU: {error}; hot.device = "off" does without') from None


def _cuda(wanted: Literal["auto"] | int, front: int) -> Device:
    try:
        from embcache.gpu import cuda
    except ImportError as error:
        raise DeviceError(f"CuPy is not there ({error}): pip install 'embcache[gpu]'") from None
    count = cuda.device_count()
    if count == 0:
        raise DeviceError("this machine has no CUDA device")
    if wanted != "auto" and wanted >= count:
        raise DeviceError(f"this machine has CUDA devices 0 to {count - 1}")
    return cuda.CudaDevice(front % count if wanted == "auto" else wanted)


def fronts_a_device(wanted: Literal["auto", "emulated"] | int, fronts: int) -> int:
    """How many fronts share each device, and so `hot.capacity`."""
    if wanted != "auto":
        return fronts
    try:
        from embcache.gpu import cuda

        return -(-fronts // max(1, cuda.device_count()))
    except (ImportError, DeviceError):
        return fronts


def _emulated() -> Device:
    from embcache.gpu.emulated.device import EmulatedDevice

    try:
        return EmulatedDevice()
    except DeviceError as error:
        raise ConfigError(f"hot.device: {error}") from None
