"""The run-time compiler: what it compiles stays text, which the emulated device compiles."""

# ruff: noqa: N802 - the names are CUDA's
from __future__ import annotations

from .handles import Handles

_programs: Handles[str] = Handles()


class NVRTCError(RuntimeError):
    pass


def getVersion() -> tuple[int, int]:
    return 13, 0


def createProgram(src: str, name: str, headers: tuple[str, ...], include_names: tuple[str, ...]) -> int:
    return _programs.add(src)


def compileProgram(prog: int, options: tuple[str, ...]) -> None:
    assert _programs[prog]
    assert "-arch=sm_90" in options


def getProgramLog(prog: int) -> str:
    return ""


def getCUBIN(prog: int) -> bytes:
    return _programs[prog].encode()


def destroyProgram(prog: int) -> None:
    _programs.remove(prog)
