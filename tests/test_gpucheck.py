"""`make gpu-check` goes through its stages, on the emulated device."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with")


def test_every_stage_passes_and_is_written_down(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpucheck", "--device", "emulated", "--small", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--commit", "abc"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "gpu-check.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines if line.get("outcome") == "passed"] == ["smoke", "stress", "figures"]
    assert {line["commit"] for line in lines} == {"abc"}
    assert any(line.get("rows_seen", 0) > 0 for line in lines)
