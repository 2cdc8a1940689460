"""What machine a figure comes from, and with which versions of what."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

PACKAGES = ("embcache", "numpy", "numba", "rocksdict", "uvicorn", "uvloop", "httptools", "msgpack", "redis", "hiredis")


def machine() -> dict[str, str]:
    """Processor, cores, memory, system, Python, load and date, as people read them."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"Linux {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "load at start": f"{os.getloadavg()[0]:.1f}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages and programs that take part; those not installed are said to be absent."""
    found = {package: package_version(package) for package in PACKAGES}
    found["redis-server"] = _redis_version()
    found["commit"] = _run("git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD") or "unknown"
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def package_version(package: str) -> str:
    """The version installed; "absent" where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _redis_version() -> str:
    said = _run("redis-server", "--version")
    return next((word[2:] for word in said.split() if word.startswith("v=")), "absent")


def _run(*command: str) -> str:
    """What the command printed; empty where it is not installed or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
