"""The tests of what every table of rows promises, with GpuTable on this device: pytest in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from tests.gpucheck.check import Check, Lines

_ROOT = Path(__file__).parents[2]
_TESTS = "tests/tiers"
_TAIL = 3000


def run(check: Check) -> Lines:
    settings, report = check.out / "contract.ini", check.out / "contract.xml"
    settings.write_text("[pytest]\n")  # the project's own names plugins that are not on every machine
    command = [
        *(sys.executable, "-m", "pytest", "-c", str(settings.resolve()), "--rootdir", str(_ROOT)),
        *("--import-mode=importlib", "-p", "no:cacheprovider", "-q", f"--junitxml={report.resolve()}", _TESTS),
    ]
    environment = {**os.environ, "EMBCACHE_TEST_DEVICE": check.device_name}
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    counts = _counts(report) if report.exists() else {}
    yield {"tests": counts}
    if done.returncode or not counts.get("passed") or counts.get("skipped"):
        raise AssertionError(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-_TAIL:]}")


def _counts(report: Path) -> dict[str, int]:
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    names = ("tests", "failures", "errors", "skipped")
    tests, *others = (sum(int(suite.get(name, 0)) for suite in suites) for name in names)
    return {"passed": tests - sum(others), **dict(zip(names[1:], others, strict=True))}
