"""Checks that built wheels hold every tracked file of their packages, and nothing else: check_wheels.py DIR."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGES = {
    "embcache": {"embcache": "embcache", "storage/embcache_storage": "embcache_storage"},
    "embcache_client": {"clients/embcache_client": "embcache_client"},
}


def tracked(folder: str, package: str) -> set[str]:
    """Files of a folder as git has them, by their place in the wheel."""
    listing = subprocess.run(["git", "ls-files", "-z", folder], check=True, capture_output=True, text=True).stdout
    return {name.replace(folder, package, 1) for name in listing.split("\0") if name}


def packed(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def main(wheels: Path) -> int:
    faults = []
    for name, folders in PACKAGES.items():
        (wheel,) = wheels.glob(f"{name}-[0-9]*.whl")
        expected = set().union(*(tracked(folder, package) for folder, package in folders.items()))
        faults += [f"{wheel.name} lacks {file}" for file in sorted(expected - packed(wheel))]
        faults += [f"{wheel.name} holds {file}, which git does not track" for file in sorted(packed(wheel) - expected)]
        print(f"{wheel.name}: {len(expected)} files")
    print("\n".join(faults), file=sys.stderr)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
