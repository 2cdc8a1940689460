"""What a start says before it begins, so that nobody has to guess: that it takes long, or asks for too much memory."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from embcache.config import Settings, shown_size
from embcache.host.jit import JIT_ENABLED, READERS, WRITER, cache_folder

logger = logging.getLogger("embcache.supervisor")

_CGROUPS = Path("/sys/fs/cgroup")


def forewarn(settings: Settings) -> None:
    """Log what the user should know. Call it before anything compiles."""
    if JIT_ENABLED:
        _tell_of_kernels(cache_folder())
    have = memory_limit()
    if settings.warm.capacity > have:
        logger.warning(
            "warm.capacity is %s, and this machine (or container) has %s of memory: processes will be killed, or swap, "
            "once the warm tier fills; make it smaller",
            shown_size(settings.warm.capacity),
            shown_size(have),
        )


def memory_limit() -> int:
    """Bytes of memory that this process may use: the machine's, or fewer where its control group allows fewer."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        groups = Path("/proc/self/cgroup").read_text()
    except OSError:
        groups = ""
    return min([machine, *group_limits(groups, _CGROUPS)])


def group_limits(groups: str, mounted: Path) -> Iterator[int]:
    """The limits on memory of the control groups that /proc/self/cgroup tells of, and of all above them.

    In a container the names may be the host's and not be found; what is mounted is the container's own group then.
    """
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, file = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            root, file = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                yield int((folder / file).read_text())
            if folder == root:
                break


def _tell_of_kernels(folder: Path | None) -> None:
    if folder is None:
        logger.warning(
            "compiling the kernels: ten to twenty seconds, at each start, since there is no folder to keep them in; "
            "EMBCACHE_KERNEL_CACHE names one"
        )
    elif not all((folder / each).exists() for each in (READERS, WRITER)):
        logger.info("compiling the kernels, once on this machine: ten to twenty seconds, and more where it is busy")
