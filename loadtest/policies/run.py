"""All policies at all sizes on one trace."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from loadtest import facts
from loadtest.load.result import Report
from loadtest.load.run import progress_on
from loadtest.load.tables import Progress
from loadtest.pairs.base import enter_peer
from loadtest.peers.cache_policies import POLICIES, cache_policies
from loadtest.policies.accesses import Accesses, made, read
from loadtest.policies.hot import places_within, rows_missed
from loadtest.policies.own import rows_near, rows_read
from loadtest.workloads import Lookups

SCHEMA: Final = "embcache-loadtest-policies"
SHARES: Final = (0.001, 0.01, 0.05, 0.1, 0.25)
"""Sizes of the caches, in distinct ids."""
OURS: Final = "embcache"
BUSY: Final = "embcache, 1 hit in 32 heard"
HOT: Final = "hot tier"
HOT_BUSY: Final = "hot tier, 1 hit in 32 noted"
WARM_TIER: Final = (OURS, BUSY)
HOT_TIER: Final = (HOT, HOT_BUSY)
ALL: Final = (*WARM_TIER, *HOT_TIER, *POLICIES)
JUDGED: Final = ("LRU", "ARC", "S3-FIFO", "W-TinyLFU")
"""Those whose best one embcache is held against."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for; see `python -m loadtest policies --help`."""

    trace: Path | None = None
    lookup_ids: int = 16
    seed: int = 1


def run(wanted: Wanted, console: Console, arguments: Sequence[str] = ()) -> Report:
    """Try all policies and return the report. DataError where the file is no trace. console: for progress."""
    size = wanted.lookup_ids
    accesses = made(size, wanted.seed) if wanted.trace is None else read(wanted.trace, size)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with progress_on(console) as progress:
        tried = try_all(accesses, progress=progress)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(wanted).items()}
    return {
        "schema": SCHEMA,
        "version": 1,
        "kind": "policies",
        "command": shlex.join(["python", "-m", "loadtest", *arguments]),
        "started": started,
        "settings": settings,
        "data": {
            "origin": accesses.origin,
            "made": accesses.made,
            "accesses": len(accesses.lookups.ids),
            "lookups": len(accesses.lookups),
            "distinct": accesses.distinct,
        },
        "machine": facts.machine(),
        "versions": {**facts.versions(), "libcachesim": facts.package_version("libcachesim")},
        **tried,
    }


def try_all(
    accesses: Accesses, policies: Sequence[str] = ALL, progress: Progress = lambda what, done, of: None
) -> dict[str, Any]:
    """What all these policies do at all sizes.

    -> {"entries": of each size, "hot_entries": those of the hot tier, "shares": the former of the distinct ids,
    "miss_ratios": {policy: at each size}, "absent": why there are no policies but ours, or ""}.
    """
    entries = sizes_of(accesses.distinct)
    ratios: dict[str, list[float]] = {policy: [] for policy in policies}
    with ExitStack() as stack:
        peers, absent = enter_peer(stack, cache_policies(accesses.lookups.ids))
        for size in entries:
            what = f"miss ratios with {size:,} entries"
            for done, policy in enumerate(policies):
                progress(what, done, len(policies))
                if policy in WARM_TIER or policy in HOT_TIER:
                    ratios[policy].append(_ours(policy, accesses.lookups, size) / len(accesses.lookups.ids))
                elif peers is not None:
                    ratios[policy].append(peers.miss_ratio(policy, size))
            progress(what, len(policies), len(policies))
    return {
        "entries": entries,
        "hot_entries": [places_within(size) for size in entries],
        "shares": [size / accesses.distinct for size in entries],
        "miss_ratios": {policy: of for policy, of in ratios.items() if of},
        "absent": absent,
    }


def _ours(policy: str, lookups: Lookups, size: int) -> int:
    """How many rows a table of ours misses."""
    if policy in HOT_TIER:
        return rows_missed(lookups, places_within(size), busy=policy == HOT_BUSY)
    return rows_read(lookups, size, busy=policy == BUSY)


def sizes_of(distinct: int) -> list[int]:
    """How many entries the caches have: those of our own table, which come in sets; the others get as many."""
    return sorted({rows_near(int(distinct * share)) for share in SHARES})


def against_best(report: Report, ours: str = OURS) -> list[float]:
    """At each size our miss ratio over that of the best of JUDGED; nothing where those are absent."""
    ratios = report["miss_ratios"]
    judged = [ratios[policy] for policy in JUDGED if policy in ratios]
    return [mine / min(theirs) for mine, *theirs in zip(ratios[ours], *judged, strict=True)] if judged else []
