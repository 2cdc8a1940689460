"""Compiles kernels, and the machine that runs them on a CPU, to a shared library; each is compiled once and kept.

Modes: "plain"; "asan" (AddressSanitizer and UndefinedBehaviorSanitizer); "tsan" (ThreadSanitizer); "ucontext", which is
"plain" with the C library's switch of stacks, as on processors for which context.cpp has none of its own. A library for
a sanitizer can only be loaded by a process that was started with the sanitizer's own library in LD_PRELOAD.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from embcache.gpu.device import DeviceError

MACHINE = Path(__file__).parent / "machine"
COMMON = ("-std=c++20", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off")
WARNINGS = ("-Wall", "-Wextra", "-Werror")
MODES = {
    "plain": (),
    "asan": ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "tsan": ("-fsanitize=thread",),
    "ucontext": (),
}
ENTRY = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\(\s*(\d+)\s*\)\s*)?(\w+)\s*\(')
MOST_THREADS = 1024  # of a block


def library(source: str, mode: str = "plain", optimise: str = "-O1") -> Path:
    """The library of these kernels, compiled if need be.

    ValueError: no such mode. DeviceError: no g++, a folder that cannot be written, or kernels that do not compile, with
    what the compiler said.
    """
    if mode not in MODES:
        raise ValueError(f"mode is one of {', '.join(MODES)}, not {mode!r}")
    machine = _machine(mode)
    flags = (*COMMON, *WARNINGS, optimise, *MODES[mode])
    return _built(f"kernels-{mode}.so", _unit(source), (*flags, "-shared"), [machine])


@cache
def _machine(mode: str) -> Path:
    """The machine's own object file: never instrumented, so that sanitizers see the kernels alone."""
    # One unit for all of its files, since most of the time goes into the C++ library's headers.
    unit = "".join(f'#include "{file.name}"\n' for file in sorted(MACHINE.glob("*.cpp")))
    return _built(f"machine-{mode}.o", unit, (*COMMON, *WARNINGS, "-O2", f"-DWITH_{mode.upper()}", "-c"))


def _unit(source: str) -> str:
    """One text for the compiler: CUDA's names, the kernels, and the table by which they are found."""
    kernels = f'{source}\n#line 1 "copies.cu"\n{(MACHINE / "copies.cu").read_text()}'
    entries = [
        f'{{"{name}", cpu::Entry<{name}>::run, cpu::Entry<{name}>::parameters, {bounds or MOST_THREADS}}},'
        for bounds, name in ENTRY.findall(kernels)
    ]
    export = 'extern "C" __attribute__((visibility("default")))'
    table = "\n".join(
        [
            '#line 1 "table of kernels"',
            f"{export} const u32 kernel_count = {len(entries)};",
            f"{export} const cpu::Kernel kernel_table[] = {{",
            *entries,
            "};",
        ]
    )
    return f'#include "entry.h"\n{kernels}\n{table}\n'


def _built(name: str, unit: str, flags: Sequence[str], objects: Sequence[Path] = ()) -> Path:
    """What g++ makes of a unit; from the cache if this, the machine's files and the compiler are what they were."""
    digest = hashlib.sha256()
    for part in (_compiler_version(), *flags, *(file.name for file in objects), unit, *_machine_texts()):
        digest.update(hashlib.sha256(part.encode()).digest())
    stem, suffix = name.split(".")
    output = cache_folder() / f"{stem}-{digest.hexdigest()[:24]}.{suffix}"
    if not output.exists():
        # Under a name of its own first: others may be building the same, or loading what is there.
        with tempfile.TemporaryDirectory(prefix=f"{stem}-", dir=output.parent) as scratch:
            text, draft = Path(scratch) / f"{stem}.cpp", Path(scratch) / output.name
            text.write_text(unit)
            _compile([*flags, "-I", str(MACHINE), str(text), *map(str, objects), "-o", str(draft)])
            draft.replace(output)
    return output


def _compile(arguments: Sequence[str]) -> None:
    done = subprocess.run([compiler(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(f"g++ does not compile the kernels for the emulated device:\n{done.stderr[:8000]}")


@cache
def _machine_texts() -> tuple[str, ...]:
    return tuple(file.read_text() for file in sorted(MACHINE.iterdir()) if file.suffix in (".cpp", ".h"))


def cache_folder() -> Path:
    """Where compiled libraries are kept: beside the kernels of host memory (embcache/host/jit.py)."""
    home = os.environ.get("EMBCACHE_KERNEL_CACHE") or os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(home) if home else Path.home() / ".cache") / "embcache" / "emulated"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        raise DeviceError(f"no folder for compiled kernels ({error}): set EMBCACHE_KERNEL_CACHE to one") from None
    return folder


@cache
def compiler() -> str:
    found = shutil.which("g++")
    if found is None:
        raise DeviceError("the emulated device compiles its kernels with g++, which is not here: install g++")
    return found


@cache
def _compiler_version() -> str:
    return subprocess.run([compiler(), "-v"], capture_output=True, text=True, check=True).stderr
