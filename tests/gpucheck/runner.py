"""Runs stages, each in a process of its own: a crash, a hang or an error that stays on the device ends that one alone.

Each stage ends with a line that has its `outcome`: "passed", "skipped: why", or "FAILED: why".
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.gpucheck.stages import Stage

PASSED, FAILED, SKIPPED = 0, 10, 11  # how the process of a stage ends, once it has written its outcome
FILE = "gpu-check.jsonl"
_ROOT = Path(__file__).parents[2]
_GRACE_S = 5.0  # for what a killed process leaves on the device to go away


@dataclass(frozen=True)
class Run:
    """What all lines of a run tell, and where they go."""

    device: str
    commit: str
    small: bool
    out: Path

    def write(self, stage: Stage, line: dict[str, Any], device: str = "") -> None:
        """Append a line to the file, and print it. device: its name, where it is known."""
        date = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d")
        part = stage.module.rpartition(".")[2]
        about = {
            "stage": stage.name,
            "part": part,
            "device": device or self.device,
            "commit": self.commit,
            "date": date,
        }
        text = json.dumps({**about, "small": self.small, **line})
        with (self.out / FILE).open("a", encoding="utf-8") as lines:
            lines.write(text + "\n")
        print(text, flush=True)


def run_stages(run: Run, stages: Sequence[Stage], limit_s: float) -> int:
    """Run these; -> 1 where any failed, else 0. Together they may take `limit_s`."""
    end, failed = time.monotonic() + limit_s, 0
    for stage in stages:
        left = end - time.monotonic()
        if left <= 0:
            run.write(stage, {"outcome": f"FAILED: not run, since {limit_s:g} s were over", "seconds": 0.0})
            failed = 1
        else:
            failed |= _run(run, stage, min(left, stage.limit_s))
    return failed


def _run(run: Run, stage: Stage, limit_s: float) -> int:
    command = [sys.executable, "-m", "tests.gpucheck.child", stage.module, "--stage", stage.name]
    command += ["--device", run.device, "--commit", run.commit, "--out", str(run.out), *(["--small"] * run.small)]
    began = time.monotonic()
    paths = [str(_ROOT), str(_ROOT / "clients"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.Popen(command, cwd=_ROOT, env=environment, start_new_session=True)
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        why = f"it took longer than {limit_s:.0f} s, and was killed"
    else:
        if status in (PASSED, SKIPPED):
            return 0
        if status == FAILED:
            return 1
        why = f"its process ended with {signal.Signals(-status).name if status < 0 else status}"
    finally:
        _kill(process)
    run.write(stage, {"outcome": f"FAILED: {why}", "seconds": round(time.monotonic() - began, 2)})
    return 1


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a stage's process with all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
