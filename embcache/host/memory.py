"""Shared memory without a name: memfds, mappings of them, and the addresses that kernels take."""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def address_of(array: NDArray[Any]) -> int:
    """The address of an array's first byte; the array must be kept alive while the address is used."""
    return int(array.__array_interface__["data"][0])


def new_memfd(name: str, size: int) -> int:
    """A new anonymous file of `size` zero bytes, sparse until touched, closed on exec.

    Its size is sealed: who maps it may read all of it for ever, whatever another process does with its descriptor.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def map_shared(fd: int, *, writable: bool) -> tuple[mmap.mmap, Bytes]:
    """Map the whole file; -> the mapping and its bytes as an array (which keeps the mapping alive)."""
    size = os.fstat(fd).st_size
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    mapping = mmap.mmap(fd, size, mmap.MAP_SHARED, protection)
    return mapping, np.frombuffer(mapping, np.uint8)


def reopened_for_reading(fd: int) -> int:
    """A descriptor of the same file through which nobody can write, not even by mapping it anew."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
