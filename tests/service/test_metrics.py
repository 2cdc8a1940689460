"""Counting on plain integers, and the text that Prometheus reads."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from embcache import errors, metrics
from embcache.metrics import BLOCK_BYTES, MAX_TABLES, OTHERS, TIERS, Counters, Gauge, exposition


def samples(*blocks: memoryview, gauges: tuple[Gauge, ...] = ()) -> dict[tuple[str, ...], float]:
    """Name and label values -> value."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(exposition(blocks, gauges).decode())
        for sample in family.samples
    }


def block() -> memoryview:
    return memoryview(bytearray(BLOCK_BYTES))


def test_lookups_are_counted_by_table_tier_and_latency() -> None:
    memory = block()
    counters = Counters(memory)
    for seconds in (0.0003, 0.0301, 60.0):
        counters.looked_up(seconds)
    counters.answered("item", bytes([2, 0, 2, 3, 3, 2, 2, 2, 6, 5, 1, 4]))
    counters.answered("tag", b"\x02")
    counters.answered("item", b"\x02" * 3)
    counters.answered("item", b"")
    read = samples(memory)
    assert read["embcache_lookups_total",] == 3
    assert read["embcache_ids_total", "item", "warm"] == 8
    assert [read["embcache_ids_total", "item", tier] for tier in TIERS] == [1, 1, 8, 2, 1, 1, 1]
    assert read["embcache_ids_total", "tag", "warm"] == 1
    assert read["embcache_ids_total", "tag", "cold"] == 0
    buckets = {labels[1]: value for labels, value in read.items() if labels[0] == "embcache_lookup_seconds_bucket"}
    assert (buckets["0.0002"], buckets["0.0005"], buckets["0.05"], buckets["10.0"], buckets["+Inf"]) == (0, 1, 2, 2, 3)
    assert read["embcache_lookup_seconds_sum",] == pytest.approx(60.0304)


def test_every_error_code_has_a_count() -> None:
    memory = block()
    counters = Counters(memory)
    codes = {str(kind.code) for kind in vars(errors).values() if hasattr(kind, "http_status")}
    for code in sorted(codes):
        counters.failed(code)
    counters.failed("a code of tomorrow")
    read = samples(memory)
    assert all(read["embcache_errors_total", code] == 1 for code in codes - {"internal"})
    assert read["embcache_errors_total", "internal"] == 2
    assert read["embcache_errors_total", "not_found"] == 0


def test_fronts_are_added_up_and_a_new_one_goes_on_counting() -> None:
    blocks = [block(), block()]
    for memory in blocks:
        Counters(memory).looked_up(0.001)
        Counters(memory).answered("item", b"\x02\x02")
    again = Counters(blocks[0])
    again.looked_up(0.001)
    again.answered("b" * 64, b"\0")
    again.answered("item", b"\x02")
    read = samples(*blocks)
    assert read["embcache_lookups_total",] == 3
    assert read["embcache_ids_total", "item", "warm"] == 5
    assert read["embcache_ids_total", "b" * 64, "missing"] == 1


def test_tables_beyond_the_last_slot_are_counted_together() -> None:
    memory = block()
    counters = Counters(memory)
    for number in range(MAX_TABLES + 5):
        counters.answered(f"t{number}", b"\0")
    read = samples(memory)
    assert read["embcache_ids_total", f"t{MAX_TABLES - 2}", "missing"] == 1
    assert read["embcache_ids_total", OTHERS, "missing"] == 6
    assert sum(value for key, value in read.items() if key[0] == "embcache_ids_total") == MAX_TABLES + 5


def test_gauges_are_told_as_they_are() -> None:
    gauge = Gauge("table_rows", "Rows", ("table", "tier"), [(("item", "warm"), 7)])
    assert samples(block(), gauges=(gauge,))["embcache_table_rows", "item", "warm"] == 7
    assert metrics.resident_bytes() > 1 << 20
    assert metrics.resident_bytes("no such process") == 0
