"""What an owner says of itself is of one moment, whatever comes and goes while it looks."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from embcache.local.link import Link
from tests.owner.stores import WatchedStore
from tests.owner.support import WAIT, OwnerThread, fill, rows_of, some_ids

IDS = some_ids(100)


def of_item(stats: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry for entry in stats["tables"] if entry["table"] == "item"]


@pytest.mark.parametrize("times", [1, 3])
def test_a_version_that_is_replaced_meanwhile_is_not_told_and_its_heir_is(
    owner: OwnerThread, store: WatchedStore, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    link: Link = owner.link()
    fill(link, "item", IDS, rows_of(IDS, 16))
    looking, go_on = threading.Event(), threading.Event()
    disk_bytes, waits = WatchedStore.disk_bytes, [times]

    def slow(self: WatchedStore, version: int) -> int:
        found = disk_bytes(self, version)
        if waits[0]:
            waits[0] -= 1
            looking.set()
            assert go_on.wait(WAIT)
            go_on.clear()
        return found

    monkeypatch.setattr(WatchedStore, "disk_bytes", slow)
    asked = link.call("stats")
    for turn in range(times):
        assert looking.wait(WAIT)
        looking.clear()
        fill(owner.link(), "item", IDS[: 10 + turn], rows_of(IDS[: 10 + turn], 16))
        go_on.set()
    (entry,) = of_item(asked.result(WAIT).meta)
    assert (entry["state"], entry["rows"]) == ("live", 10 + times - 1)
    assert entry["warm_slots"] >= 0
    assert entry["cold_bytes"] > 0
