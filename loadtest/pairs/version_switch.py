"""version-switch: what it costs those who look up that a table is switched to another version."""

from __future__ import annotations

import time
from contextlib import ExitStack

import numpy as np

from embcache_client import Client
from loadtest.importing import ROWS_AT_ONCE
from loadtest.pairs.answers import same_rows
from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.looking import Asked, lookers
from loadtest.pairs.warm_service import TABLE, warm_service
from loadtest.records import Goal
from loadtest.slices import alternate
from loadtest.workloads import F32s, U64s, random_ids, rows_from_ids

ROWS, DIM, LOOKUP_IDS = 131_072, 64, 270
SLICE_S, PEAK_S = 10.0, 1.0
BEGIN = 0.4  # the part of a slice after which the switch begins: warming takes some of it
BUDGET_S = 90.0
CHECKED = 1000


class Versions:
    """New versions of the table, one after the other, with rows of their own; what is not live any more is dropped."""

    def __init__(self, client: Client, ids: U64s, rows: F32s) -> None:
        self._client, self._ids, self._rows = client, ids, rows
        self._number = 0
        self.seconds: list[float] = []
        self.warmed: list[float] = []

    @property
    def _name(self) -> str:
        return f"v{self._number}"

    def stage(self) -> None:
        """Fill the next version. None of its rows is in memory."""
        for version in self._client.table(TABLE)["versions"]:
            if version["state"] != "live":
                self._client.drop_version(TABLE, version["version"])
        self._number += 1
        rows = self._rows + np.float32(self._number)
        with self._client.importing(TABLE, version=self._name) as load:
            for begin in range(0, len(self._ids), ROWS_AT_ONCE):
                load.write(self._ids[begin : begin + ROWS_AT_ONCE], rows[begin : begin + ROWS_AT_ONCE])

    def switch(self) -> None:
        """Switch to it, and see that it is there. RowsDiffer."""
        began = time.perf_counter()
        [warmed] = self._client.switch({TABLE: self._name})["warmed"].values()
        self.seconds.append(time.perf_counter() - began)
        self.warmed.append(warmed["warmed"] / len(self._ids))
        found = self._client.lookup({TABLE: self._ids[:CHECKED]})[TABLE]
        same_rows(f"version {found.version}, after a switch to {self._name},", found.rows, self._expected())

    def _expected(self) -> F32s:
        rows: F32s = self._rows[:CHECKED] + np.float32(self._number)
        return rows


def measure(rounds: int) -> Outcome:
    """Each round stages a version anew, and measures the peak: what else the machine does changes it."""
    ids = random_ids(ROWS, np.random.default_rng(15))
    rows = rows_from_ids(ids, DIM)
    with ExitStack() as stack:
        service = stack.enter_context(warm_service(ids, rows))
        looking = stack.enter_context(lookers(Asked(service.url, TABLE, ids, LOOKUP_IDS)))
        versions = Versions(service.client, ids, rows)
        peaks: list[float] = []

        def prepare() -> None:
            versions.stage()
            peaks.append(looking.peak(PEAK_S).result())

        def around() -> float:
            load = looking.paced(peaks[-1] / 2, SLICE_S)
            time.sleep(BEGIN * SLICE_S)
            versions.switch()
            return load.result().p99_ms

        def alone() -> float:
            return looking.paced(peaks[-1] / 2, SLICE_S).result().p99_ms

        figures = alternate(around, alone, rounds, BUDGET_S, before=prepare)
    note = f"{np.median(peaks) / 2:,.0f} lookups/s; a switch took {np.median(versions.seconds):.1f} s and warmed "
    return Outcome(*figures, note=f"{note}{np.median(versions.warmed):.0%} of the rows")


PAIR = Pair(
    name="version-switch",
    what="p99 of a lookup of 270 random ids x 64 f32 of 131,072 warm ones over TCP loopback, from when it is due, at "
    "half the rate that four threads of another process reach at most, in 10 s in which the table is switched to "
    "another version, staged before and not in memory, against 10 s without a switch.",
    unit="ms",
    peer="without a switch",
    goal=Goal("<=", 1.5),
    measure=measure,
)
