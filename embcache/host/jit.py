"""How this room compiles: one decorator, and a cache on disk that notices an edit in any of the room's files.

Numba's own cache looks only at the file that a kernel stands in, so an edit to a function that it inlines
from a neighbour would go unseen. Here the cache's folder is named after a digest of the whole room.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, cast

import numba
from numba import types
from numba.core import config as _numba_config

_njit: Any = numba.njit
_cfunc: Any = numba.cfunc
_config: Any = _numba_config  # its settings are set by name at import, which no type checker sees
JIT_ENABLED: bool = not _config.DISABLE_JIT

Kernel = Callable[..., Any]


READERS, WRITER = "readers.compiled", "writer.compiled"  # files that say which kernels are all there


def cache_folder() -> Path | None:
    """The folder of this version's compiled kernels, made if need be; None where none can be written."""
    home = os.environ.get("EMBCACHE_KERNEL_CACHE") or os.environ.get("XDG_CACHE_HOME")
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    try:
        root = Path(home) if home else Path.home() / ".cache"
        folder = root / "embcache" / f"kernels-{digest.hexdigest()[:16]}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if os.access(folder, os.W_OK) else None
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return None


_FOLDER = cache_folder()
_OPTIONS = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
_NO_ENTRY = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # which take as long to compile as a small function
_ADDRESSES: dict[Kernel, int] = {}
_KEPT: list[Any] = []  # their code lives as long as these do


def note_compiled(name: str) -> None:
    """Note that all kernels that READERS or the WRITER need are kept for the next start."""
    if JIT_ENABLED and _FOLDER is not None:
        with suppress(OSError):  # the next start says once more that it compiles
            (_FOLDER / name).touch()


@contextmanager
def _numba_caches_in(folder: Path) -> Iterator[None]:
    before = _config.CACHE_DIR
    _config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        _config.CACHE_DIR = before


def are_compiled(name: str) -> bool:
    """Whether a start has noted so of READERS or the WRITER, in this folder."""
    return _FOLDER is not None and (_FOLDER / name).exists()


@contextmanager
def compiling(what: str, *, wait: bool) -> Iterator[bool]:
    """Hold the lock on some kernels: whoever comes second finds on disk what the first has compiled.

    -> False, and no lock, where another process has it and `wait` is false. It ends with its holder.
    """
    if not JIT_ENABLED or _FOLDER is None:
        yield True
        return
    with (_FOLDER / f"{what}.lock").open("w") as file:
        yield _locked(file.fileno(), wait=wait)


def _locked(fd: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: each process compiles by itself
        return True
    return True


def kernel(function: Kernel) -> Kernel:
    """Compile `function` on its first call: without the GIL, without bounds checks, cached on disk.

    For what Python calls. Each such kernel holds all that it calls, compiled once more: what only kernels call is a
    `part` of them, or `inlined`, or `merged`. Those have no entry for Python: to call one from there ends the process.
    """
    if _FOLDER is None or not JIT_ENABLED:
        return cast(Kernel, _njit(**_OPTIONS)(function))
    with _numba_caches_in(_FOLDER):
        return cast(Kernel, _njit(cache=True, **_OPTIONS)(function))


def compiled_at(function: Kernel, arguments: int) -> int:
    """Compile `function` of so many int64, which returns one, by itself -> the address by which kernels call it.

    So callers need not be compiled with it. It must raise nothing and ask for no memory: there is nobody to tell.
    """
    at = _ADDRESSES.get(function)
    if at is None:
        _ADDRESSES[function] = at = _compiled_at(function, arguments)
    return at


def function_at(address: int) -> Kernel:
    """The function at an address, in plain Python."""
    return next(function for function, at in _ADDRESSES.items() if at == address)


def _compiled_at(function: Kernel, arguments: int) -> int:
    if not JIT_ENABLED:
        return id(function)
    options = {name: value for name, value in _OPTIONS.items() if name != "nogil"}  # whoever calls it has let go of it
    signature = types.int64(*(types.int64,) * arguments)
    with _numba_caches_in(_FOLDER) if _FOLDER is not None else nullcontext():
        compiled = _cfunc(signature, cache=_FOLDER is not None, **options)(function)
    _KEPT.append(compiled)
    return int(compiled.address)


def part(function: Kernel) -> Kernel:
    """Compile `function` as a function of the kernels that call it."""
    return cast(Kernel, _njit(**_OPTIONS, **_NO_ENTRY)(function))


def inlined(function: Kernel) -> Kernel:
    """Compile `function` into every kernel that calls it: for the few instructions that a call would cost more than."""
    return cast(Kernel, _njit(forceinline=True, **_OPTIONS, **_NO_ENTRY)(function))


def merged(function: Kernel) -> Kernel:
    """Make `function` part of its one caller's own code: so a large body is not compiled by itself before."""
    return cast(Kernel, _njit(inline="always", **_OPTIONS, **_NO_ENTRY)(function))
