"""The JSON of a run: figures that follow from its counts, names that are explained, files that are read back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.latency import Latencies
from loadtest.load.result import read_report, times_of, write_report
from loadtest.load.series import Series
from loadtest.load.stability import kept_up, stability
from loadtest.load.tally import SERIES_DIGITS, Tally
from tests.loadtest.load import made

DOCS = Path(__file__).parents[3] / "docs" / "loadtest.md"


def names(value: Any) -> Iterator[str]:
    """Every key of an object, and of those in it, but for where keys are data."""
    if isinstance(value, list):
        for one in value[:1]:
            yield from names(one)
    if isinstance(value, dict):
        for key, one in value.items():
            yield key
            if key not in {"machine", "versions", "settings", "error_codes", "tiers", "tiers_per_s", "counted"}:
                yield from names(one)


@pytest.mark.parametrize("report", [made.run(), made.search()], ids=["run", "search"])
def test_every_name_is_explained(report: dict[str, Any]) -> None:
    text = DOCS.read_text(encoding="utf-8")
    explained = set(re.findall(r"[a-z0-9_.]+", " ".join(re.findall(r"`([^`\n]+)`", text))))
    explained |= {part for name in explained for part in name.split(".")} | {"p90", "p99", "p99.9", "p99.99"}
    assert {name for name in names(report) if name not in explained and name not in {"lookup", "add"}} == set()


def test_figures_follow_from_the_counts() -> None:
    seen = made.outcome()
    result = made.run(seen)["result"]
    assert result["offered"] == 1000 == result["answered"] + result["errors"] + result["not_sent"]
    assert result["error_codes"] == {"timeout": result["errors"]}
    assert result["offered_per_s"] == 100.0
    assert result["answered_per_s"] == result["answered"] / 10
    assert result["ids_per_s"] == result["answered"]  # 10 ids each, in 10 s
    lookups = result["ops"]["lookup"]
    assert result["tiers"] == {"warm": 9 * lookups["answered"], "cold": lookups["answered"]}
    again = Latencies.decoded(lookups["response_histogram"])
    assert again.count == lookups["offered"] == lookups["response_ms"]["count"]
    assert again.percentile_ms(99) == lookups["response_ms"]["p99"]
    assert again.mean_ms == pytest.approx(lookups["response_ms"]["mean"], rel=0.01)


def test_the_series_adds_up_to_the_run() -> None:
    report = made.run()
    series, result = report["series"], report["result"]
    inside = slice(round(2.0 / series["interval_s"]), None)
    for name, total in (("offered_per_s", "offered"), ("answered_per_s", "answered"), ("errors_per_s", "errors")):
        assert sum(series[name][inside]) * series["interval_s"] == pytest.approx(result[total])
    warm = sum(series["tiers_per_s"]["warm"][inside]) * series["interval_s"]
    assert warm == pytest.approx(result["tiers"]["warm"])
    assert {len(values) for values in series["response_ms"]["lookup"].values()} == {len(series["offered_per_s"])}


def test_percentiles_need_times_beyond_them() -> None:
    def of(count: int) -> dict[str, Any]:
        latencies = Latencies()
        for value in range(1, count + 1):
            latencies.record(value * 1_000_000)
        times = times_of(latencies)
        assert times is not None
        return times

    few, many = of(1000), of(10_000)
    assert few["p99.9"] == pytest.approx(999, rel=0.01)
    assert few["p99.99"] is None
    assert many["p99.99"] == pytest.approx(9999, rel=0.01)
    assert (of(1)["p50"], of(1)["p90"]) == (pytest.approx(1.0, rel=0.01), None)
    assert times_of(Latencies()) is None


def test_files_are_read_back_and_others_refused(tmp_path: Path) -> None:
    report = made.run()
    path = tmp_path / "a.json"
    write_report(report, path)
    assert read_report(path) == report
    for content, what in (
        ("{", "is no JSON"),
        ("[]", "is not what `run --json` or `search --json` wrote"),
        ('{"schema": "other"}', "is not what"),
        (json.dumps({**report, "version": 9}), "is of version 9; this reads version 1"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"a.json {what}"):
            read_report(path)


# --- whether it counts -----------------------------------------------------------------------------------------------


def failed(report: dict[str, Any]) -> list[str]:
    return [check["name"] for check in report["stable"]["checks"] if not check["ok"]]


def test_an_even_run_is_stable() -> None:
    seen = made.outcome()
    assert [check.name for check in stability(seen) if not check.ok] in ([], ["answered"])  # one in a hundred errs
    assert all(check.ok for check in kept_up(seen))


@pytest.mark.parametrize(
    ("harm", "name"),
    [("fewer answers", "answered"), ("a gap", "rate"), ("a queue", "latency"), ("a cache that fills", "tiers")],
)
def test_what_is_not_stable_is_found(harm: str, name: str) -> None:
    seen = made.outcome()
    series = Series(made.PLAN.step_s)
    for number, (_, tally) in enumerate(seen.series):
        changed = Tally(SERIES_DIGITS)
        changed.add(tally)
        late = number * made.PLAN.step_s >= 7.0
        if harm == "a gap" and number * made.PLAN.step_s in (8.0, 8.2, 8.4, 8.6, 8.8):
            changed.counts.clear()
        if harm == "a queue" and late:
            for _ in range(100):
                changed.record("lookup.response", 9_000_000)
        if harm == "a cache that fills" and late:
            changed.tiers = np.array([0, 0, 10, 0, 0, 0, 0])
        series.add(number, changed)
    seen.series = series
    if harm == "fewer answers":
        seen.window.counts["lookup.finished"] -= 50
    assert name in [check.name for check in stability(seen) if not check.ok]


def test_a_window_of_a_moment_cannot_be_judged() -> None:
    seen = made.outcome()
    seen.window_s = 0.4
    assert [(check.name, check.ok) for check in stability(seen)] == [("length", False)]


def test_slow_generators_are_found() -> None:
    late, busy = made.outcome(), made.outcome()
    for _ in range(20):
        late.window.record("lateness", 30_000_000)
    busy.cpu_shares = [0.3, 0.97]
    assert [check.name for check in kept_up(late) if not check.ok] == ["lateness"]
    assert [check.name for check in kept_up(busy) if not check.ok] == ["cpu"]
