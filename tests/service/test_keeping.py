"""What dies is started again, at a pace that grows, and is given up when it cannot even start."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from embcache.config import Settings
from embcache.errors import StorageCorrupt
from embcache.owner.process import OwnerProcess
from embcache.service.keeper import Backoff
from embcache.service.listening import Listening
from embcache.service.supervisor import StopSignals, Supervisor
from tests.service.running import start


def test_the_first_death_is_followed_at_once_and_the_next_ever_later() -> None:
    backoff = Backoff()
    pauses = [backoff.pause_after(1.0, was_ready=True) for _ in range(12)]
    assert pauses[0] == 0.0
    known = [pause for pause in pauses if pause is not None]
    assert len(known) == 12
    assert known == sorted(known)
    assert known[-1] == known[-2] == Backoff.CAP_S


def test_a_long_life_makes_up_for_earlier_deaths() -> None:
    backoff = Backoff()
    for _ in range(8):
        backoff.pause_after(1.0, was_ready=True)
    assert backoff.pause_after(Backoff.STEADY_S, was_ready=True) == 0.0


def test_false_starts_in_a_row_end_it() -> None:
    backoff = Backoff()
    assert [backoff.pause_after(0.1, was_ready=False) for _ in range(Backoff.TRIES)][-1] is None
    backoff = Backoff()
    for _ in range(10):
        assert backoff.pause_after(0.1, was_ready=False) is not None
        assert backoff.pause_after(0.1, was_ready=True) is not None


def test_an_owner_that_cannot_start_again_ends_the_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tries = []

    def begin_owner(settings: Settings, *, claimed: bool) -> None:
        assert claimed
        tries.append(settings)
        raise StorageCorrupt("the catalogue is damaged")

    settings = Settings.model_validate({"server": {"port": 0}, "cold": {"path": tmp_path}})
    monkeypatch.setattr(OwnerProcess, "begin", begin_owner)
    monkeypatch.setattr(Backoff, "FIRST_S", 0.0)
    with closing(Listening(settings.server)) as listening, closing(StopSignals()) as signals:
        supervisor = Supervisor(settings, listening, signals)
        with pytest.raises(StorageCorrupt, match="the catalogue is damaged"):
            supervisor._restart_owner(Backoff(), 1.0)
    assert len(tries) == Backoff.TRIES


def test_a_front_that_dies_again_and_again_as_it_starts_ends_the_service(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ImportError('no uvicorn today')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = start(tmp_path, environment={"PYTHONPATH": path})
    assert process.stdout is not None
    with process.stdout:
        assert process.wait(120) == 1
        assert process.stdout.read() == b""
    said = (tmp_path / "log").read_text()
    assert said.count("no uvicorn today") >= Backoff.TRIES
    assert "embcache: a front ended while it started, with status 1; its log says more" in said
