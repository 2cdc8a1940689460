"""The process of one stage: runs a module's `run(check)` and writes its lines as they come, then its outcome."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import traceback
from pathlib import Path

from tests.gpu.patience import be_patient
from tests.gpucheck.check import Check, Skipped
from tests.gpucheck.runner import FAILED, PASSED, SKIPPED, Run
from tests.gpucheck.stages import Stage


def main() -> int:
    parser = argparse.ArgumentParser("gpu-check's child", description=__doc__)
    parser.add_argument("module")
    parser.add_argument("--stage", default="", help="under which name its lines are written; without, to stdout alone")
    parser.add_argument("--device", required=True)
    parser.add_argument("--commit", default="")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--patient", action="store_true", help="wait long for what runs on the device")
    arguments = parser.parse_args()
    if arguments.patient or arguments.device == "emulated":
        be_patient()
    run = Run(arguments.device, arguments.commit, arguments.small, arguments.out)
    check = Check(arguments.device, arguments.small, arguments.out)
    stage = Stage(arguments.stage, arguments.module, 0)
    began = time.monotonic()
    try:
        for line in importlib.import_module(arguments.module).run(check):
            _write(run, stage, line, check)
        outcome, status = "passed", PASSED
    except Skipped as missing:
        outcome, status = f"skipped: {missing}", SKIPPED
    except Exception as error:
        traceback.print_exc()
        outcome, status = f"FAILED: {error!r}", FAILED
    _write(run, stage, {"outcome": outcome, "seconds": round(time.monotonic() - began, 2)}, check)
    if stage.name:
        os._exit(status)  # what libraries do at their end is no part of the stage; but tools that watch them need it
    return status


def _write(run: Run, stage: Stage, line: dict[str, object], check: Check) -> None:
    if stage.name:
        run.write(stage, line, check.known_name)
    else:
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
