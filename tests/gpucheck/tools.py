"""NVIDIA's tools, and commands that they watch."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.gpucheck.check import Check, Skipped

_FOLDERS = ("usr/local/cuda*/bin", "usr/local/cuda*/compute-sanitizer", "opt/nvidia/nsight-compute/*")


def tool(name: str) -> str:
    """The path of a program of the CUDA toolkit. Skipped where it is not on this machine."""
    homes = [f"{os.environ[home]}/bin" for home in ("CUDA_HOME", "CUDA_PATH") if home in os.environ]
    usual = [str(place) for folder in _FOLDERS for place in sorted(Path("/").glob(folder), reverse=True)]
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join([*homes, *usual]))
    if found is None:
        raise Skipped(f"{name} is not on this machine: it comes with the CUDA toolkit")
    return found


def child(module: str, check: Check, *, small: bool, patient: bool) -> list[str]:
    """The command of a stage's module in a process of its own, that writes its lines nowhere but to stdout."""
    command = [sys.executable, "-m", "tests.gpucheck.child", module, "--device", check.device_name]
    return [*command, "--out", str(check.out), *(["--small"] * small), *(["--patient"] * patient)]
