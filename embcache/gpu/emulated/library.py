"""A library that build.py made, through ctypes: its kernels, and the functions of machine/api.cpp."""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_double, c_int, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


class _Kernel(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("run", CFUNCTYPE(None, c_void_p)),
        ("parameters", c_uint32),
        ("most_threads", c_uint32),
    ]


class MachineOptions(ctypes.Structure):
    """As `Options` of machine/machine.h."""

    _fields_ = [
        ("seed", c_uint64),
        ("most_turns", c_uint64),
        ("yield_in_8", c_uint32),
        ("most_resident", c_uint32),
        ("stale_l1", c_uint32),
        ("aborts", c_uint32),
        ("report_to", c_int),
    ]


_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "machine_new": (c_void_p, [POINTER(MachineOptions)]),
    "machine_free": (None, [c_void_p]),
    "machine_serve": (None, [c_void_p]),
    "machine_stop": (None, [c_void_p]),
    "machine_release": (None, [c_void_p]),
    "machine_free_later": (None, [c_void_p, c_void_p]),
    "machine_stream": (c_uint32, [c_void_p]),
    "machine_schedule": (c_uint64, [c_void_p]),
    "machine_switches": (c_uint64, [c_void_p]),
    "machine_failure": (c_int, [c_void_p, c_char_p, c_uint64]),
    "machine_launch": (
        None,
        [c_void_p, c_uint32, c_void_p, c_uint32, c_uint32, POINTER(c_uint64), c_int],
    ),
    "machine_record": (None, [c_void_p, c_void_p, c_uint32]),
    "machine_follow": (None, [c_void_p, c_uint32, c_void_p]),
    "machine_wait": (c_int, [c_void_p, c_void_p, c_double, c_int]),
    "machine_wait_word": (c_int, [c_void_p, c_void_p, c_uint32, c_double, c_int]),
    "machine_run": (c_int, [c_void_p]),
    "event_new": (c_void_p, []),
    "event_free": (None, [c_void_p]),
    "event_done": (c_int, [c_void_p]),
}


@dataclass(frozen=True)
class Kernel:
    address: int  # of its entry in the library's table
    parameters: int
    most_threads: int  # of a block


class Library:
    """Functions by their names in api.cpp, kernels by theirs in the .cu files."""

    def __init__(self, path: Path) -> None:
        self._loaded = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = self._loaded[name]
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        count = c_uint32.in_dll(self._loaded, "kernel_count").value
        table = (_Kernel * count).in_dll(self._loaded, "kernel_table")
        self.kernels = {
            entry.name.decode(): Kernel(ctypes.addressof(entry), entry.parameters, entry.most_threads)
            for entry in table
        }

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no {name} in a library of kernels")


@cache
def load(path: Path) -> Library:
    """A library, loaded once in a process."""
    return Library(path)
