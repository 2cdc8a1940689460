"""How this room compiles: one decorator, and a cache on disk that notices an edit in any of the room's files.

Numba's own cache looks only at the file that a kernel stands in, so an edit to a function that it inlines
from a neighbour would go unseen. Here the cache's folder is named after a digest of the whole room.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numba
from numba.core import config as _numba_config

_njit: Any = numba.njit
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


def kernel(function: Kernel) -> Kernel:
    """Compile `function` on its first call: without the GIL, without bounds checks, cached on disk."""
    if _FOLDER is None or not JIT_ENABLED:
        return cast(Kernel, _njit(**_OPTIONS)(function))
    with _numba_caches_in(_FOLDER):
        return cast(Kernel, _njit(cache=True, **_OPTIONS)(function))


def inlined(function: Kernel) -> Kernel:
    """Compile `function` into every kernel that calls it: for the few instructions that a call would cost more than."""
    return cast(Kernel, _njit(forceinline=True, **_OPTIONS)(function))
