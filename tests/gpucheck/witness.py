"""A pytest plugin that counts launches on the device that tests are to use: they might pass without ever using it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

DEVICE, FILE = "GPU_CHECK_DEVICE", "GPU_CHECK_LAUNCHES"  # what environment variables name

_launches = 0


def pytest_configure() -> None:
    kind = _kind(os.environ[DEVICE])
    launch = kind.launch

    def counting(*arguments: Any, **named: Any) -> Any:
        global _launches
        _launches += 1
        return launch(*arguments, **named)

    kind.launch = counting


def pytest_unconfigure() -> None:
    Path(os.environ[FILE]).write_text(str(_launches))


def _kind(device: str) -> Any:
    if device == "emulated":
        from embcache.gpu.emulated.device import EmulatedDevice

        return EmulatedDevice
    from embcache.gpu.cuda import CudaDevice

    return CudaDevice
