"""What a front counts while it answers, and how that is told to Prometheus. Knows no HTTP and no table.

Counting happens on every lookup, so it is additions to 64-bit integers in plain memory; names, labels and text come in
at scrape time. The blocks of all fronts lie in one shared memory, each written by its front alone: so any front answers
for all of them, and a front that was started anew goes on counting where the last one ended.
"""

from __future__ import annotations

import math
import resource
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from embcache import errors

TIERS = ("missing", "hot", "warm", "cold", "late", "failed", "near")  # by status
CODES = (
    *dict.fromkeys(kind.code for kind in vars(errors).values() if hasattr(kind, "http_status")),
    "not_found",
    "method_not_allowed",
)
_LIKELIEST = (2, 3, 0, 1, 4, 5, 6)
SECONDS = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
MAX_TABLES = 512
OTHERS = "(others)"  # all tables after the first MAX_TABLES - 1, together
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# A block, in words of 8 bytes.
_LOOKUPS, _NANOSECONDS, _LATENCIES = 0, 1, 2
_ERRORS = _LATENCIES + len(SECONDS) + 1
HOT = (
    ("on", "Fronts whose hot tier answers"),
    ("capacity_bytes", "GPU memory of the hot tier"),
    ("launches", "Launches of lookups on the GPU"),
    ("lookups", "Lookups that asked the hot tier"),
    ("inserted_rows", "Rows that came into the hot tier"),
    ("evicted_rows", "Rows that others pushed out of the hot tier"),
    ("refused_rows", "Rows for which the hot tier had no way free"),
    ("updated_rows", "Rows that the owner told of as changed"),
)
_HOT_GAUGES = ("on", "capacity_bytes")
_HOT = _ERRORS + len(CODES)
_OPEN = _HOT + len(HOT)
_TABLES = _OPEN + 1
_NAME_WORDS, _SLOT_WORDS = 8, 8 + len(TIERS)
BLOCK_BYTES = 8 * (_TABLES + MAX_TABLES * _SLOT_WORDS)


class Counters:
    """The counts of one front, in a block of BLOCK_BYTES that is zero before its first use."""

    def __init__(self, block: memoryview | None = None) -> None:
        words = (memoryview(bytearray(BLOCK_BYTES)) if block is None else block).cast("B").cast("q")
        self._words = words
        self._bytes = words.cast("B")
        self._errors = {code: _ERRORS + place for place, code in enumerate(CODES)}
        self._slots = {name: self._tiers_of(place) for place, name in enumerate(self._names())}

    def looked_up(self, seconds: float) -> None:
        """Count a lookup that was answered after `seconds`."""
        words = self._words
        words[_LOOKUPS] += 1
        words[_NANOSECONDS] += int(seconds * 1e9)
        words[_LATENCIES + bisect_left(SECONDS, seconds)] += 1

    def answered(self, table: str, status: bytes) -> None:
        """Count the ids of a table by tier: `status` u8[n] is that of each id."""
        slot, left = self._slots.get(table) or self._new_slot(table), len(status)
        for tier in _LIKELIEST:
            if not left:
                return
            count = status.count(tier)
            left -= count
            self._words[slot + tier] += count

    def failed(self, code: str) -> None:
        """Count an answer that was an error; a code that is not known counts as internal."""
        self._words[self._errors.get(code, self._errors["internal"])] += 1

    def hot(self, counts: Mapping[str, int]) -> None:
        """Note the front's hot tier, by the names in HOT."""
        for place, (name, _) in enumerate(HOT):
            self._words[_HOT + place] = counts.get(name, 0)

    @property
    def connections(self) -> int:
        """How many connections the front has, as it noted last."""
        return self._words[_OPEN]

    @connections.setter
    def connections(self, count: int) -> None:
        self._words[_OPEN] = count

    def word(self, place: int) -> int:
        """One word of the block."""
        return self._words[place]

    def ids(self) -> dict[tuple[str, str], int]:
        """How many ids were answered, by (table, tier)."""
        return {
            (name, tier): self._words[slot + place]
            for name, slot in self._slots.items()
            for place, tier in enumerate(TIERS)
        }

    def _names(self) -> list[str]:
        names = []
        for place in range(MAX_TABLES):
            at = 8 * (self._tiers_of(place) - _NAME_WORDS)
            name = bytes(self._bytes[at : at + 8 * _NAME_WORDS]).rstrip(b"\0")
            if not name:
                break
            names.append(name.decode())
        return names

    def _new_slot(self, table: str) -> int:
        if len(self._slots) >= MAX_TABLES - 1:
            table = OTHERS
            if OTHERS in self._slots:
                return self._slots[OTHERS]
        tiers = self._tiers_of(len(self._slots))
        at = 8 * (tiers - _NAME_WORDS)
        name = table.encode()
        self._bytes[at : at + len(name)] = name
        self._slots[table] = tiers
        return tiers

    @staticmethod
    def _tiers_of(place: int) -> int:
        return _TABLES + place * _SLOT_WORDS + _NAME_WORDS


class Gauge(NamedTuple):
    """A figure of this moment: its name without the prefix, what it is, and its values by labels."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Sequence[tuple[tuple[str, ...], float]]


def exposition(blocks: Sequence[memoryview], gauges: Iterable[Gauge] = ()) -> bytes:
    """The counts in all blocks together, and the gauges, in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Scrape([Counters(block) for block in blocks], gauges))
    return generate_latest(registry)


def resident_bytes(pid: int | str = "self") -> int:
    """Memory that a process holds, shared pages included; 0 for one that is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize()


class _Scrape(Collector):
    """One scrape: reads everything once."""

    def __init__(self, counters: Sequence[Counters], gauges: Iterable[Gauge]) -> None:
        self._counters = counters
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily("embcache_lookups", "Lookups that were answered", self._sum(_LOOKUPS))
        yield self._latency()
        yield self._ids()
        yield self._failures()
        for place, (name, text) in enumerate(HOT):
            kind = GaugeMetricFamily if name in _HOT_GAUGES else CounterMetricFamily
            yield kind(f"embcache_hot_{name}", text, value=self._sum(_HOT + place))
        yield GaugeMetricFamily("embcache_connections", "Open connections", value=self._sum(_OPEN))
        for gauge in self._gauges:
            family = GaugeMetricFamily(f"embcache_{gauge.name}", gauge.help, labels=gauge.labels)
            for labels, value in gauge.values:
                family.add_metric(labels, value)
            yield family

    def _sum(self, word: int) -> int:
        return sum(counters.word(word) for counters in self._counters)

    def _latency(self) -> Metric:
        below, buckets = 0, []
        for place, bound in enumerate((*SECONDS, math.inf)):
            below += self._sum(_LATENCIES + place)
            buckets.append(("+Inf" if bound == math.inf else str(bound), below))
        text = "Time from a lookup's arrival to its answer being ready"
        return HistogramMetricFamily(
            "embcache_lookup_seconds", text, buckets=buckets, sum_value=self._sum(_NANOSECONDS) / 1e9
        )

    def _ids(self) -> Metric:
        family = CounterMetricFamily("embcache_ids", "Ids that were looked up", labels=("table", "tier"))
        totals: Counter[tuple[str, str]] = Counter()
        for counters in self._counters:
            totals.update(counters.ids())
        for labels, count in sorted(totals.items()):
            family.add_metric(labels, count)
        return family

    def _failures(self) -> Metric:
        family = CounterMetricFamily("embcache_errors", "Answers that were errors", labels=("code",))
        for place, code in enumerate(CODES):
            family.add_metric((code,), self._sum(_ERRORS + place))
        return family
