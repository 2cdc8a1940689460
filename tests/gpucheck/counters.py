"""What Nsight Compute counts while lookups run that find all."""

from __future__ import annotations

import csv
import subprocess

from tests.gpucheck.check import Check, Lines, Skipped
from tests.gpucheck.tools import child, tool

_METRICS = (
    "gpu__time_duration.sum",
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "lts__t_sector_hit_rate.pct",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "launch__registers_per_thread",
    "launch__occupancy_limit_registers",
)
_LAUNCHES = 3
_TAIL = 3000


def run(check: Check) -> Lines:
    if check.emulated:
        raise Skipped("ncu reads the counters of GPUs")
    program = tool("ncu")
    options = ("--clock-control", "none", "--kernel-name", "look_up_stored", "--launch-count", str(_LAUNCHES))
    done = subprocess.run(
        [
            *(program, *options, "--metrics", ",".join(_METRICS), "--csv", "--page", "raw"),
            *child("tests.gpucheck.profiled", check, small=check.small, patient=True),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    (check.out / "ncu.csv").write_text(done.stdout + done.stderr)
    rows = [line for line in done.stdout.splitlines() if line.startswith('"')]  # the rest is what the two say
    if done.returncode or len(rows) < 3:  # names, units, and a launch at least
        raise AssertionError(f"ncu ended with {done.returncode}: {(done.stdout + done.stderr)[-_TAIL:]}")
    names, units, *launches = csv.reader(rows)
    for launch in launches:
        by_name = dict(zip(names, zip(launch, units, strict=True), strict=True))
        yield {name: " ".join(by_name[name]).strip() for name in ("Kernel Name", *_METRICS) if name in by_name}
