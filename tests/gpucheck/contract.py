"""The tests of what every table of rows promises, with GpuTable on this device: pytest in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from tests.gpucheck import witness
from tests.gpucheck.check import Check, Lines

_ROOT = Path(__file__).parents[2]
_TESTS, _SOME_TESTS = "tests/tiers", "tests/tiers/test_contract.py"
_TAIL = 3000


def run(check: Check) -> Lines:
    settings, report, launches = (check.out / f"contract.{kind}" for kind in ("ini", "xml", "launches"))
    settings.write_text("[pytest]\n")  # the project's own names plugins that are not on every machine
    for written in (report, launches):
        written.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "pytest", "-c", str(settings), "--rootdir", str(_ROOT), "--import-mode=importlib"),
        *("-q", "-p", "no:cacheprovider", "-p", witness.__name__, f"--junitxml={report}"),
        _SOME_TESTS if check.small else _TESTS,
    ]
    about = {"EMBCACHE_TEST_DEVICE": check.device_name, witness.DEVICE: check.device_name, witness.FILE: str(launches)}
    done = subprocess.run(command, cwd=_ROOT, env={**os.environ, **about}, capture_output=True, text=True, check=False)
    if not report.exists() or not launches.exists():
        raise AssertionError(_said(done))
    written_down = ElementTree.parse(report).getroot()
    counts = {**_counts(written_down), "launches": int(launches.read_text())}
    missing = sorted({str(skipped.get("message")) for skipped in written_down.iter("skipped")})
    yield {"tests": counts, "skipped_for": missing}
    if done.returncode or not counts["passed"]:
        raise AssertionError(_said(done))
    assert counts["launches"], f"no test launched anything on device {check.device_name}"


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-_TAIL:]}"


def _counts(report: ElementTree.Element) -> dict[str, int]:
    suites = list(report.iter("testsuite"))
    names = ("tests", "failures", "errors", "skipped")
    tests, *others = (sum(int(suite.get(name, 0)) for suite in suites) for name in names)
    return {"passed": tests - sum(others), **dict(zip(names[1:], others, strict=True))}
