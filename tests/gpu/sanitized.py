"""Runs a function in a process of its own under a sanitizer: libraries of kernels built for it can be loaded there."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from embcache.gpu.device import DeviceError
from embcache.gpu.emulated import build

ROOT = Path(__file__).parents[2]
LIBRARIES = {"asan": "libasan.so", "tsan": "libtsan.so"}
OPTIONS = {
    # Python itself leaks, and registers no lock order.
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=66",
    "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=66",
    # What NumPy and the C library do to memory is not judged: no event or word that they look at is known.
    "TSAN_OPTIONS": "exitcode=66:halt_on_error=1:report_thread_leaks=0:detect_deadlocks=0:history_size=4"
    ":ignore_noninstrumented_modules=1",
}
FOUND = 66  # the exit status of a process in which a sanitizer found something
# ThreadSanitizer wants addresses where it expects them: a process without randomised ones, where that is permitted.
START = """
import ctypes, os, sys
ctypes.CDLL(None).personality(0x0040000)
os.environ["LD_PRELOAD"] = sys.argv[1]
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
CALL = """
import importlib, sys
from tests.gpu.patience import be_patient
be_patient()
module, function = sys.argv[1].split(":")
getattr(importlib.import_module(module), function)(*sys.argv[2:])
"""


def run_sanitized(mode: str, function: str, *arguments: str, limit_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Call "module:function" with these arguments in a process under "asan" or "tsan"; stderr stands in stdout.

    Skips the test where the sanitizer's library is not installed.
    """
    library = _library(LIBRARIES[mode])
    environment = {**os.environ, **OPTIONS, "PYTHONMALLOC": "malloc"}
    return subprocess.run(
        [sys.executable, "-c", START, str(library), "-c", CALL, function, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit_s,
        cwd=ROOT,
        env=environment,
        check=False,
    )


def assert_clean(mode: str, function: str, *arguments: str, limit_s: float = 120) -> str:
    """The same, and the sanitizer finds nothing; -> what the function printed."""
    done = run_sanitized(mode, function, *arguments, limit_s=limit_s)
    assert done.returncode == 0, done.stdout
    return done.stdout


@cache
def _library(name: str) -> Path:
    compiler = build.compiler()
    found = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = Path(found.stdout.strip())
    if not path.is_absolute():
        pytest.skip(f"g++ has no {name} here")
    return path.resolve()


@cache
def no_compiler() -> str | None:
    """Why kernels cannot be compiled here; None where they can."""
    try:
        build.compiler()
    except DeviceError as error:
        return str(error)
    return None
