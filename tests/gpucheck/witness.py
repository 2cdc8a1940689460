"""A pytest plugin: runs the tests that are about the device, and counts launches on it.

Without that they might pass without ever using it. Tests of the host's table run where there is no GPU.
"""

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


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    of_host = [item for item in items if hasattr(item, "callspec") and item.callspec.params.get("make") == "host"]
    config.hook.pytest_deselected(items=of_host)
    items[:] = [item for item in items if item not in of_host]


def pytest_unconfigure() -> None:
    Path(os.environ[FILE]).write_text(str(_launches))


def _kind(device: str) -> Any:
    if device == "emulated":
        from embcache.gpu.emulated.device import EmulatedDevice

        return EmulatedDevice
    from embcache.gpu.cuda import CudaDevice

    return CudaDevice
