"""The kernels compile for the GPUs that are in use. No GPU and no driver is needed for that."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("cupy_backends", reason="CuPy is not installed")

# In a process of its own: CuPy leaves a driver that is not there half set up.
_COMPILE = """
import sys
from cupy_backends.cuda.libs import nvrtc
from embcache.gpu.kernels import source

program = nvrtc.createProgram(source(), "embcache.cu", (), ())
try:
    nvrtc.compileProgram(program, (f"-arch=sm_{sys.argv[1]}", "-std=c++17", "-default-device"))
except Exception:
    sys.exit(nvrtc.getProgramLog(program))
print(len(nvrtc.getCUBIN(program)))
"""


@pytest.mark.parametrize("architecture", ["80", "90", "100"])
def test_the_kernels_compile(architecture: str) -> None:
    command = [sys.executable, "-c", _COMPILE, architecture]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10_000
