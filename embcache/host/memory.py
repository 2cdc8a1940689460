"""Shared memory without a name: memfds, mappings of them, and the addresses that kernels take."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

HUGE_PAGE = 2 << 20
COLLAPSE = 25  # MADV_COLLAPSE, which mmap does not name: move to huge pages now, whatever the system's default is

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEPT, _FROM_HEAP = 64 << 20, 32 << 20  # the second is the most that glibc takes

_MAP_FIXED, _MAP_NORESERVE, _PROT_NONE = 0x10, 0x4000, 0
_MAP_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def keep_freed_memory() -> None:
    """Have malloc keep freed memory for its next use, in a process that handles bodies of a megabyte all the time.

    Otherwise each such body is made of fresh pages, and their faults cost more than what is done with it. malloc keeps
    64 MiB at most of what lies free at its end. Without glibc nothing happens.
    """
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _FROM_HEAP)


def give_back_freed_memory() -> None:
    """Have malloc give what is free back to the system, wherever it lies: for a process that goes on.

    Takes milliseconds, without the GIL, in which threads that want memory may wait. Without glibc nothing happens.
    """
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def address_of(array: NDArray[Any]) -> int:
    """The address of an array's first byte; the array must be kept alive while the address is used."""
    return int(array.ctypes.data)


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


class _Mapping:
    """A mapped file, unmapped once no array looks into it any more (and never at exit: threads may still read)."""

    def __init__(self, fd: int, size: int, *, writable: bool) -> None:
        # Space for more than the file, so that the file can stand at a multiple of HUGE_PAGE in it.
        reserved = size + HUGE_PAGE
        begin = _mmap(None, reserved, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE, -1)
        weakref.finalize(self, _libc.munmap, begin, reserved).atexit = False
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        address = _mmap(-(-begin // HUGE_PAGE) * HUGE_PAGE, size, protection, mmap.MAP_SHARED | _MAP_FIXED, fd)
        self.__array_interface__ = {"version": 3, "shape": (size,), "typestr": "|u1", "data": (address, not writable)}


def _mmap(address: int | None, size: int, protection: int, flags: int, fd: int) -> int:
    mapped: int = _libc.mmap(address, size, protection, flags, fd, 0)
    if mapped == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), f"cannot map {size} bytes: {os.strerror(ctypes.get_errno())}")
    return mapped


def map_shared(fd: int, *, writable: bool) -> Bytes:
    """Map the whole file, at a multiple of HUGE_PAGE; -> its bytes (the array keeps the mapping alive).

    Python's mmap leaves the address to the system, which aligns shared memory only where huge pages are the rule.
    """
    return np.asarray(_Mapping(fd, os.fstat(fd).st_size, writable=writable))


def advise(pages: Bytes, advice: int) -> None:
    """Tell the system about whole pages of a mapping (madvise); OSError if it does not take the advice."""
    if _libc.madvise(address_of(pages), pages.size, advice):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def reopened_for_reading(fd: int) -> int:
    """A descriptor of the same file through which nobody can write, not even by mapping it anew."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
