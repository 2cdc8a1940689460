"""Eviction policies of libCacheSim (Yang et al.), the simulator of caches, on a trace of ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from loadtest.peers import PeerAbsent
from loadtest.workloads import U64s

INSTALL: Final = "pip install -e '.[bench-policies]'"
POLICIES: Final[Mapping[str, str]] = {
    "LRU": "LRU",
    "LFU": "LFU",
    "ARC": "ARC",
    "S3-FIFO": "S3FIFO",
    "SIEVE": "Sieve",
    "W-TinyLFU": "WTinyLFU",
    "Belady": "Belady",
}
"""By what each is called here, its class there. Belady knows what will be asked for: no policy can do better."""
_RECORD: Final = np.dtype([("time", "<u4"), ("id", "<u8"), ("bytes", "<u4"), ("next", "<i8")])
_HASH_BITS: Final = 18  # of a policy's table of ids, which grows; libCacheSim's own choice takes 128 MiB


class CachePolicies:
    """A trace, and the policies that can be tried on it. Every id is as large as any other."""

    def __init__(self, library: Any, trace: Path) -> None:
        self._library, self._trace = library, trace

    def miss_ratio(self, policy: str, entries: int) -> float:
        """The share of accesses that a cache of so many entries misses. policy: one of POLICIES."""
        kind = getattr(self._library, POLICIES[policy])
        reader = self._library.TraceReader(str(self._trace), self._library.TraceType.ORACLE_GENERAL_TRACE)
        return float(kind(entries, hashpower=_HASH_BITS).process_trace(reader)[0])


@contextmanager
def cache_policies(ids: U64s) -> Iterator[CachePolicies]:
    """The policies on the accesses `ids`, u64 [n]. PeerAbsent where libcachesim is not installed."""
    try:
        import libcachesim
    except (ImportError, OSError) as error:
        raise PeerAbsent(f"libcachesim cannot be used: {error} ({INSTALL})") from error
    with TemporaryDirectory(prefix="embcache-policies-") as folder:
        trace = Path(folder) / "trace.oracleGeneral"
        _records(ids).tofile(trace)
        yield CachePolicies(libcachesim, trace)


def _records(ids: U64s) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """The trace as libCacheSim reads it, each access with the place of the id's next one, -1 for none."""
    places = np.unique(ids, return_inverse=True)[1]
    order = np.argsort(places, kind="stable")
    again = places[order[1:]] == places[order[:-1]]
    records = np.zeros(len(ids), _RECORD)
    records["id"], records["bytes"], records["next"] = places + 1, 1, -1
    records["next"][order[:-1][again]] = order[1:][again]
    return records
