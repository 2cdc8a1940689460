"""The kernels as plain Python, with NUMBA_DISABLE_JIT=1: the same contract, so that no slip of types hides in LLVM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TOO_MANY_ROWS = "not takes_all and not 95_percent and not full_table and not every and not resizing and not between"


@pytest.mark.parametrize(
    "file",
    [
        "test_table.py",
        "test_rows.py",
        "test_listed.py",
        "test_pool.py",
        "test_waiting.py",
        "test_probe_now.py",
        "test_express.py",
    ],
)
def test_the_contract_holds_without_the_compiler(file: str) -> None:
    # In plain Python NumPy's scalars warn where compiled ones wrap, which is what the hash functions want.
    warnings = ["-W", "ignore:overflow encountered:RuntimeWarning"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", *warnings, "-k", TOO_MANY_ROWS, str(HERE / file)]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
