"""Small kernels, right ones and broken ones, that show what the emulated device does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embcache.gpu.emulated.device import EmulatedDevice
from embcache.gpu.emulated.streams import Stream

FILES = ("common.cu", "collectives.cu", "schedule.cu", "mistakes.cu", "orders.cu")


def source() -> str:
    """All of them, as one text."""
    texts = [(Path(__file__).parent / name).read_text() for name in FILES]
    return "".join(f'#line 1 "{name}"\n{text}' for name, text in zip(FILES, texts, strict=True))


class Bench:
    """A device with the samples on it, one stream, and arrays in its memory."""

    def __init__(self, mode: str = "plain", *, threaded: bool = False, on_fault: str = "raise", **options: Any) -> None:
        self.device = EmulatedDevice(source=source(), mode=mode, threaded=threaded, on_fault=on_fault, **options)
        self.stream = self.device.stream()
        self.event = self.device.event()

    def array(self, values: object, dtype: str = "u4") -> NDArray[Any]:
        """An array of the device's with these values."""
        given = np.asarray(values, dtype)
        array = self.device.empty(given.shape, dtype)
        array[...] = given
        return array

    def launch(self, kernel: str, blocks: int, threads: int, *args: Any, stream: Stream | None = None) -> None:
        """Arrays stand for their addresses."""
        numbers = [arg.ctypes.data if isinstance(arg, np.ndarray) else int(arg) for arg in args]
        self.device.launch(kernel, stream or self.stream, blocks, threads, numbers)

    def run(self, kernel: str, blocks: int, threads: int, *args: Any) -> None:
        """Launch, and run to the end."""
        self.launch(kernel, blocks, threads, *args)
        self.device.record(self.event, self.stream)
        assert self.device.wait(self.event, 30)
