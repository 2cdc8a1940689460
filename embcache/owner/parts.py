"""The owner's parts, named once for those that answer calls with them."""

from __future__ import annotations

from dataclasses import dataclass

from embcache.owner.bring import Bringer
from embcache.owner.feeds import Feeds
from embcache.owner.imports import Imports
from embcache.owner.intake import Intake
from embcache.owner.memory import Memory
from embcache.owner.prefetches import Prefetches
from embcache.owner.reads import Reads
from embcache.owner.tables import Tables
from embcache.owner.threads import StoreThreads
from embcache.owner.warm_start import WarmStart
from embcache_storage.store import RowStore


@dataclass(frozen=True, slots=True)
class Parts:
    """What an owner consists of, beside its socket."""

    store: RowStore
    threads: StoreThreads
    memory: Memory
    tables: Tables
    reads: Reads
    imports: Imports
    intake: Intake
    feeds: Feeds
    bringer: Bringer
    warm_start: WarmStart
    prefetches: Prefetches
