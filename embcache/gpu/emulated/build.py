"""Compiles kernels, and the machine that runs them on a CPU, to a shared library; each is compiled once and kept.

Modes: "plain", "asan" (AddressSanitizer and UndefinedBehaviorSanitizer), "tsan" (ThreadSanitizer). A library of the
last two can only be loaded by a process that was started with the sanitizer's own library in LD_PRELOAD.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from embcache.gpu.device import DeviceError

MACHINE = Path(__file__).parent / "machine"
COMMON = ("-std=c++20", "-g", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off")
WARNINGS = ("-Wall", "-Wextra", "-Werror")
MODES = {
    "plain": (),
    "asan": ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "tsan": ("-fsanitize=thread",),
}
ENTRY = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\(\s*(\d+)\s*\)\s*)?(\w+)\s*\(')
MOST_THREADS = 1024  # of a block


def library(source: str, mode: str = "plain", optimise: str = "-O1", defines: Sequence[str] = ()) -> Path:
    """The library of these kernels, compiled if need be. `defines` are for the machine.

    DeviceError: no g++, a folder that cannot be written, or kernels that do not compile, with what the compiler said.
    """
    machine = _machine(mode, tuple(defines))
    text = _unit(source)
    flags = (*COMMON, *WARNINGS, optimise, *MODES[mode])
    with tempfile.TemporaryDirectory(prefix="embcache-kernels-") as scratch:
        unit = Path(scratch) / "kernels.cpp"
        unit.write_text(text)
        command = [*flags, "-I", str(MACHINE), "-shared", str(unit), str(machine)]
        return _built(f"kernels-{mode}", ".so", command, (text, machine.name, *flags))


@cache
def _machine(mode: str, defines: tuple[str, ...]) -> Path:
    """The machine's own object file: never instrumented, so that sanitizers see the kernels alone."""
    sources = sorted(MACHINE.glob("*.cpp"))
    told = () if mode == "plain" else (f"WITH_{mode.upper()}",)
    flags = (*COMMON, *WARNINGS, "-O2", *(f"-D{name}" for name in (*told, *defines)))
    texts = [file.read_text() for file in sorted(MACHINE.iterdir()) if file.suffix in (".cpp", ".h")]
    command = [*flags, "-r", "-nostdlib", *map(str, sources)]
    return _built(f"machine-{mode}", ".o", command, (*texts, *flags))


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


def _built(name: str, suffix: str, command: Sequence[str], inputs: Iterable[str]) -> Path:
    """The output of g++ with these arguments, from the cache if its inputs and the compiler are the same."""
    digest = hashlib.sha256()
    for part in (_compiler_version(), *inputs):
        digest.update(hashlib.sha256(part.encode()).digest())
    output = cache_folder() / f"{name}-{digest.hexdigest()[:24]}{suffix}"
    if not output.exists():
        # Under a name of its own first: others may be building the same, or loading what is there.
        handle, draft = tempfile.mkstemp(suffix, f"{name}-", output.parent)
        os.close(handle)
        try:
            done = subprocess.run([_compiler(), *command, "-o", draft], capture_output=True, text=True, check=False)
            if done.returncode:
                raise DeviceError(f"g++ could not compile {name}:\n{done.stderr[:8000]}")
            Path(draft).replace(output)
        finally:
            Path(draft).unlink(missing_ok=True)
    return output


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
def _compiler() -> str:
    found = shutil.which("g++")
    if found is None:
        raise DeviceError("the emulated device compiles its kernels with g++, which is not here: install g++")
    return found


@cache
def _compiler_version() -> str:
    return subprocess.run([_compiler(), "-v"], capture_output=True, text=True, check=True).stderr
