"""A start says beforehand what will take long, and what will not fit."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from embcache.config import Settings
from embcache.errors import ConfigError
from embcache.host.arena import Arena
from embcache.host.jit import READERS, WRITER
from embcache.owner.process import OwnerProcess
from embcache.service import forewarning
from embcache.service.forewarning import forewarn, group_limits, memory_limit
from tests.service.running import start

WITHIN_S = 60.0


def test_a_first_start_says_that_it_compiles(tmp_path: Path) -> None:
    process = start(tmp_path, environment={"EMBCACHE_KERNEL_CACHE": str(tmp_path / "kernels")})
    assert process.stdout is not None
    with process.stdout:
        try:
            until = time.monotonic() + WITHIN_S
            while "compiling the kernels, once on this machine" not in (tmp_path / "log").read_text():
                assert time.monotonic() < until
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(WITHIN_S) == 0
        finally:
            process.kill()
            process.wait()


def test_kernels_that_are_there_or_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "probe.nbi").touch()
    (tmp_path / READERS).touch()
    monkeypatch.setattr(forewarning, "JIT_ENABLED", True)
    monkeypatch.setattr(forewarning, "cache_folder", lambda: tmp_path)
    with caplog.at_level("INFO"):
        forewarn(Settings.model_validate({"warm": {"capacity": 1 << 20}}))
        assert len(caplog.messages) == 1
        assert "compiling the kernels, once" in caplog.text, "some are there, the owner's are not"
        (tmp_path / WRITER).touch()
        caplog.clear()
        forewarn(Settings.model_validate({"warm": {"capacity": 1 << 20}}))
        assert caplog.messages == []
        monkeypatch.setattr(forewarning, "cache_folder", lambda: None)
        forewarn(Settings.model_validate({"warm": {"capacity": 1 << 20}}))
    assert "EMBCACHE_KERNEL_CACHE" in caplog.text


def test_more_memory_than_there_is_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forewarning, "JIT_ENABLED", False)
    monkeypatch.setattr(forewarning, "memory_limit", lambda: 3 << 29)
    forewarn(Settings.model_validate({"warm": {"capacity": 3 << 29}}))
    assert caplog.messages == []
    forewarn(Settings.model_validate({"warm": {"capacity": 2 << 30}}))
    assert len(caplog.messages) == 1
    assert "warm.capacity is 2.0 GiB, and this machine (or container) has 1.5 GiB" in caplog.text


def test_the_limit_of_memory_is_the_least_of_all_groups(tmp_path: Path) -> None:
    for folder, limit in (("", "max"), ("a", "500"), ("a/b", "max"), ("memory", "9000"), ("memory/c", "700")):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in ("memory.max", "memory.limit_in_bytes"):
            (tmp_path / folder / name).write_text(f"{limit}\n")
    assert list(group_limits("0::/a/b\n", tmp_path)) == [500]
    assert list(group_limits("5:cpu:/x\n4:memory:/c\n", tmp_path)) == [700, 9000]
    assert list(group_limits("4:hugetlb,memory:/name/of/the/host\n0::/\n", tmp_path)) == [9000]
    assert 0 < memory_limit() <= 1 << 50


def test_a_warm_tier_that_the_system_does_not_give_names_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(capacity: int) -> Arena:
        raise OSError(12, "cannot map 1 bytes: Cannot allocate memory")

    monkeypatch.setattr(Arena, "create", create)
    settings = Settings.model_validate({"warm": {"capacity": 1 << 40}, "cold": {"path": tmp_path}})
    with pytest.raises(ConfigError, match=r"warm.capacity: 1.0 TiB cannot be had \(cannot map .* 8 times the capacity"):
        OwnerProcess.start(settings)
