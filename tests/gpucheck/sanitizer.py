"""The smoke stage once more under NVIDIA's compute-sanitizer. Device memory is cudaMalloc's, each piece by itself."""

from __future__ import annotations

import re
import subprocess

from embcache.gpu import kernels
from tests.gpucheck.check import Check, Lines, Skipped
from tests.gpucheck.tools import child, tool

_FOUND = 86  # the exit status where it found something
_TAIL = 3000


def run(check: Check) -> Lines:
    if check.emulated:
        raise Skipped("compute-sanitizer watches GPUs: what g++ compiles is watched by AddressSanitizer in tests/gpu")
    program = tool("compute-sanitizer")
    for name in ("memcheck", "synccheck"):
        options = ["--tool", name, "--target-processes", "all", "--error-exitcode", str(_FOUND)]
        options += ["--launch-timeout", "60"]
        options += ["--report-api-errors", "no"]  # libraries ask for entry points that a driver does not have
        done = subprocess.run(
            [program, *options, *child("tests.gpucheck.smoke", check, small=True, patient=True)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        (check.out / f"{name}.txt").write_text(done.stdout)
        errors = re.findall(r"ERROR SUMMARY: (\d+) error", done.stdout)
        yield {"tool": name, "errors": int(errors[-1]) if errors else None}
        if done.returncode or errors[-1:] != ["0"]:
            raise AssertionError(f"{name} ended with {done.returncode}: {done.stdout[-_TAIL:]}")
    if "__shared__" not in kernels.source():
        yield {
            "tool": "racecheck",
            "left_out": "it sees shared memory alone, and the kernels use none",
        }
