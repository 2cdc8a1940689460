"""embcache/gpu/cuda.py without a GPU: over the double of CuPy, which is called as CuPy is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.sanitized import no_compiler

if no_compiler():
    pytest.skip(str(no_compiler()), allow_module_level=True)

from tests.gpucheck.runner import FILE

ROOT = Path(__file__).parents[2]

# In a process of its own: CuPy leaves a driver that is not there half set up.
_COMPARE = r"""
import inspect, re
from cupy import cuda as theirs
from tests.doubles.cupy import cuda as ours

def names(function):
    try:
        return list(inspect.signature(function).parameters)
    except ValueError:  # compiled: the first line of the docstring tells
        told = re.search(r"\((.*?)\)", function.__doc__)[1]
        return [re.split(r"[ =]", each.partition("=")[0].strip())[-1] for each in told.split(",") if each]

def compare(ours, theirs):
    assert names(ours) == names(theirs)[: len(names(ours))], (ours, names(theirs))

count = 0
for module in ("runtime", "driver", "nvrtc"):
    for name, function in vars(getattr(ours, module)).items():
        if inspect.isfunction(function) and name not in ("launched", "check_context"):
            compare(function, getattr(getattr(theirs, module), name))
            count += 1
        elif isinstance(function, int) and not name.startswith("_"):
            assert function == getattr(getattr(theirs, module), name), name
for name in ("Stream.__init__", "Stream.wait_event", "Stream.begin_capture", "Stream.end_capture", "Event.__init__",
             "Event.record", "Graph.launch", "Graph.upload", "Module.load", "Module.get_function"):
    kind, method = name.split(".")
    compare(getattr(getattr(ours, kind), method), getattr(getattr(theirs, kind), method))
    count += 1
for name in ("Device.compute_capability", "Device.use", "Function.ptr", "Function.__call__", "Stream.synchronize"):
    kind, method = name.split(".")
    assert hasattr(getattr(theirs, kind), method), name
assert hasattr(theirs.memory.Memory, "ptr")
print(count)
"""


def test_the_double_is_called_as_cupy_is() -> None:
    pytest.importorskip("cupy_backends", reason="CuPy is not installed")
    done = subprocess.run(
        [sys.executable, "-c", _COMPARE], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


_TO_PTX = """
from cupy_backends.cuda.libs import nvrtc
from embcache.gpu.cuda import OPTIONS
from embcache.gpu.kernels import source

program = nvrtc.createProgram(source(), "embcache.cu", (), ())
nvrtc.compileProgram(program, ("-arch=compute_90", *OPTIONS))
text = nvrtc.getPTX(program)
assert b"fma" not in text and b".ftz" not in text
assert b"mul.rn.f32" in text
"""


def test_numbers_are_rounded_as_on_the_host() -> None:
    """Compiled for a GPU, no product is fused with a sum, and tiny numbers are not made zeros."""
    pytest.importorskip("cupy_backends", reason="CuPy is not installed")
    done = subprocess.run(
        [sys.executable, "-c", _TO_PTX], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


# With the double for CuPy: what the device makes of arrays, and of failures.
_DEVICE = """
import cupy, gc
from cupy.cuda import runtime
from cupy.cuda.runtime import CUDARuntimeError
from embcache.gpu.cuda import CudaDevice, _packed
from embcache.gpu.device import DeviceError

class Array:
    def __init__(self, address, shape, strides=None):
        self.__cuda_array_interface__ = {
            "version": 3, "typestr": "<f4", "data": (address, False), "shape": shape, "strides": strides,
        }

def refuses(kind, call, *arguments):
    try:
        call(*arguments)
    except kind as error:
        return str(error)
    raise AssertionError(f"{call} did not fail")

device = CudaDevice(0)
memory, pinned = device.allocate(1024), device.pinned(1024)
assert device.address(Array(memory.address, (4, 8))) == memory.address
assert device.address(Array(memory.address + 32, (4, 8), (32, 4))) == memory.address + 32
assert device.address(Array(memory.address, (1, 8), (4000, 4))) == memory.address
assert device.address(Array(0, (0, 8))) == 0
for array in (Array(memory.address, (4, 4), (32, 4)), Array(memory.address, (4, 8), (4, 16)), pinned,
              Array(pinned.ctypes.data, (4, 8)), Array(4096, (4, 8))):
    assert "C-contiguous" in refuses(TypeError, device.address, array)

# Pinned memory is freed when more is wanted, and not when its last array dies.
freed = []
runtime.freeHost = freed.append
address = pinned.ctypes.data
del pinned, array
gc.collect()
assert freed == []
other = device.pinned(64)
assert freed == [address]

def fails(*_):
    raise CUDARuntimeError(700)

stream, event = device.stream(), device.event()
for name, call in (
    ("malloc", lambda: device.allocate(64)),
    ("hostAlloc", lambda: device.pinned(64)),
    ("memGetInfo", lambda: device.free_bytes),
    ("memcpyAsync", lambda: device.copy(memory.address, memory.address + 64, 64, stream)),
    ("memsetAsync", lambda: device.clear(memory.address, 64, stream)),
    ("eventRecord", lambda: device.record(event, stream)),
    ("streamWaitEvent", lambda: device.follow(stream, event)),
    ("launched", lambda: device.launch("clear_bytes", stream, 1, 128, (memory.address, 64))),
    ("setDevice", device.event),
):
    whole = getattr(runtime, name)
    setattr(runtime, name, fails)
    said = refuses(DeviceError, call)
    assert said.startswith("emulated through a double of CuPy (device 0) ") and said.endswith("cudaError 700"), said
    setattr(runtime, name, whole)
runtime.eventQuery = runtime.streamQuery = lambda _: 719
for call in (lambda: device.done(event), lambda: device.wait(event, 1), device.check):
    assert "has failed: cudaError 719" in refuses(DeviceError, call)
assert "cudaError 719" in refuses(DeviceError, device.wait_word, other.ctypes.data, 1, 0.0)
assert [int(each) for each in _packed((-1, 1 << 63, 7))] == [(1 << 64) - 1, 1 << 63, 7]
"""


def test_arrays_are_told_apart_and_failures_are_device_errors() -> None:
    paths = os.pathsep.join([str(ROOT / "tests/doubles"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", _DEVICE],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def checked(out: Path, *stages: str, tools: Path | None = None) -> tuple[int, list[dict[str, Any]]]:
    """The status and the lines of a check of CUDA device 0, small, with the double for CuPy."""
    words = [word for stage in stages for word in ("--only", stage)]
    paths = {
        "PYTHONPATH": str(ROOT / "tests/doubles"),
        "PATH": f"{tools or ''}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpucheck", "--device", "0", "--small", "--out", str(out), *words],
        cwd=ROOT,
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert "Traceback" not in done.stderr or done.returncode, done.stderr
    return done.returncode, [json.loads(line) for line in (out / FILE).read_text().splitlines()]


def test_the_check_passes_through_cuda_py(tmp_path: Path) -> None:
    status, lines = checked(tmp_path, "smoke", "stress", "ceilings", "sweep")
    assert status == 0, lines
    assert {line["device"] for line in lines} == {"emulated through a double of CuPy (device 0)"}
    assert sum(line.get("outcome") == "passed" for line in lines) == 4


def tool(folder: Path, name: str, body: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)


# Like NVIDIA's tool: it runs the command behind its options, and tells how many errors it found in it.
_SANITIZER = """
[ "$2" = synccheck ] && exec echo '========= ERROR SUMMARY: 0 errors'
while [ "${1#--}" != "$1" ]; do shift 2; done
"$@" && echo '========= ERROR SUMMARY: %d errors'
"""


@pytest.mark.parametrize("errors", [0, 3])
def test_what_the_sanitizer_finds_fails_the_stage(tmp_path: Path, errors: int) -> None:
    tool(tmp_path, "compute-sanitizer", _SANITIZER % errors)
    status, lines = checked(tmp_path, "sanitizer", tools=tmp_path)
    assert status == (errors > 0)
    assert [line["errors"] for line in lines if line.get("tool") == "memcheck"] == [errors]
    assert lines[-1]["outcome"].startswith('FAILED: AssertionError("memcheck ended' if errors else "passed")
    assert ("racecheck" in [line.get("tool") for line in lines]) == (errors == 0)
    assert "'outcome': 'passed'" in (tmp_path / "memcheck.txt").read_text()


_NCU = """
echo '==PROF== Connected to process 1'
echo '"ID","Kernel Name","gpu__time_duration.sum","dram__bytes_read.sum"'
echo '"","","us","Mbyte"'
echo '"0","look_up_stored","270.1","541.2"'
echo '"1","look_up_stored","271.3","541.3"'
"""


def test_what_the_profiler_counts_is_written_down(tmp_path: Path) -> None:
    tool(tmp_path, "ncu", _NCU)
    status, lines = checked(tmp_path, "ncu", tools=tmp_path)
    assert status == 0
    first, second, outcome = lines
    assert (first["gpu__time_duration.sum"], second["dram__bytes_read.sum"]) == ("270.1 us", "541.3 Mbyte")
    assert outcome["outcome"] == "passed"
