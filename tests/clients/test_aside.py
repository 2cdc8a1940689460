"""What a trainer makes of batches that are set aside: told once each, in the history in which they count."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from embcache_client.aside import Aside
from embcache_client.updates import UpdateReply


def reply(*positions: int, count: int = 0, history: str = "h0") -> UpdateReply:
    return UpdateReply(100, history, 100, False, positions, count or len(positions))


def test_each_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Sequence[int]] = []
    aside = Aside("p", heard.append)
    for answer in (reply(), reply(3), reply(3, 5), reply(5), reply(5, 8, 9, count=70)):
        aside.take(answer)
    assert heard == [[3], [5], [8, 9]]
    assert (aside.positions, aside.count) == ((5, 8, 9), 70)
    assert len(caplog.records) == 3
    assert "set aside a batch of producer p, at position 3," in caplog.records[0].getMessage()
    assert "set aside batches of producer p, at positions 8, 9," in caplog.records[2].getMessage()


def test_positions_of_another_history_are_others() -> None:
    heard: list[Sequence[int]] = []
    aside = Aside("p", heard.append)
    for answer in (reply(9), reply(4, history="h1"), reply(4, 6, history="h1")):
        aside.take(answer)
    assert heard == [[9], [4], [6]]
