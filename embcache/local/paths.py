"""Addresses of Unix sockets whose path is longer than the 107 bytes the kernel takes. Knows the file system only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """An address of the socket `path` for connect or bind, valid inside the block, however long the path is.

    The folder is opened and named through /proc, whose path is short. FileNotFoundError or NotADirectoryError where
    there is no such folder.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
