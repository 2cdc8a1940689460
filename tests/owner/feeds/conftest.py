"""An owner that looks for slow readers only when a test says so, and what is called as it publishes positions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from embcache.host.arena import Arena
from embcache.owner import feeds
from tests.owner.feeds.listener import HALF, IDS, Watch
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, WAIT, OwnerThread, fill
from tests.owner.test_updates import Pusher, floats, rows


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> list[Watch]:
    """What is called with each position just before it is published."""
    watches: list[Watch] = []
    publish = Arena.publish_position

    def watched(arena: Arena, position: int) -> None:
        for watch in watches:
            watch(position)
        publish(arena, position)

    monkeypatch.setattr(Arena, "publish_position", watched)
    return watches


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "ACK_S", 3600.0)


@pytest.fixture
def owner(tmp_path: Path, store: WatchedStore, watches: list[Watch], patient: None) -> Iterator[OwnerThread]:
    with OwnerThread(store, tmp_path, [ITEM, HALF]) as owner:
        yield owner


@pytest.fixture
def pusher(owner: OwnerThread) -> Pusher:
    fill(owner.link(), "item", IDS[:40], rows(floats(IDS[:40])))
    pusher = Pusher(owner)
    parts = owner.owner.parts
    owner.run(parts.intake.wait_applied(parts.intake.committer.accepted, WAIT))  # its opening has a position too
    return pusher
