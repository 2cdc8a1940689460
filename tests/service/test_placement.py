"""How many fronts there are and where they run, by files laid out as the kernel's and the driver's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from embcache.config import Settings
from embcache.errors import ConfigError
from embcache.service import placement
from tests.service.running import running
from tests.service.test_accepting import fronts

GPUS = ["0000:17:00.0", "0000:65:00.0", "0000:CA:00.0"]


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Two nodes of four CPUs, and a third without any; the first two GPUs at node 0, the last at node 1."""
    for node, cpus in enumerate(("0-1,4-5", "2-3,6-7", "")):
        folder = tmp_path / f"sys/devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cpus + "\n")
    for node, gpu in zip((0, 0, 1), GPUS, strict=True):
        (tmp_path / "proc/driver/nvidia/gpus" / gpu).mkdir(parents=True)
        folder = tmp_path / "sys/bus/pci/devices" / gpu.lower()
        folder.mkdir(parents=True)
        (folder / "numa_node").write_text(f"{node}\n")
    return tmp_path


def test_auto_is_one_a_gpu_or_one_a_core(machine: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    bare = tmp_path_factory.mktemp("bare")
    cores = len(os.sched_getaffinity(0))
    assert placement.fronts_of(7, "auto", machine) == 7
    assert placement.fronts_of("auto", "auto", machine) == 3
    assert placement.fronts_of("auto", "off", machine) == cores
    assert placement.fronts_of("auto", 0, machine) == cores
    assert placement.fronts_of("auto", "auto", bare) == cores


@pytest.mark.parametrize(
    ("visible", "wanted"),
    [(None, [0, 1, 2]), ("2,0", [2, 0]), ("", []), ("1,9,0", [1]), ("-1", []), ("GPU-4f,0", []), (" 1 ", [1])],
)
def test_gpus_are_those_that_may_be_used(machine: Path, visible: str | None, wanted: list[int]) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert placement.gpus_of(environ, machine) == [GPUS[place].lower() for place in wanted]


def test_fronts_take_turns_at_nodes_or_go_where_their_gpu_is(
    machine: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert placement.nodes_of(machine) == {0: {0, 1, 4, 5}, 1: {2, 3, 6, 7}}

    def nodes(count: int, device: object) -> list[int | None]:
        return [placement.node_of(index, count, device, {}, machine) for index in range(count)]

    assert nodes(4, "off") == [0, 1, 0, 1]
    assert nodes(1, "off") == [None]
    assert nodes(6, "auto") == [0, 0, 1, 0, 0, 1]
    assert nodes(1, "auto") == [0]
    assert nodes(2, 2) == [1, 1]
    assert nodes(2, 5) == [0, 1]
    assert placement.node_of(0, 4, "auto", {}, tmp_path_factory.mktemp("bare")) is None


def test_a_front_keeps_to_the_cpus_of_its_node_that_it_may_use(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    told: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 3, 5})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cpus: told.append(cpus))
    for index in range(2):
        placement.settle(index, 2, "off", machine)
    assert told == [{1, 5}, {2, 3}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2})
    placement.settle(0, 2, "off", machine)
    assert len(told) == 2, "it may not run there: it runs where it may"
    assert os.environ["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_lists_of_cpus_as_the_kernel_writes_them() -> None:
    assert placement.parse_cpus("0-2,7,9-9\n") == {0, 1, 2, 7, 9}
    assert placement.parse_cpus("\n") == set()
    with pytest.raises(ValueError, match="x"):
        placement.parse_cpus("0-x")


def test_a_service_starts_as_many_fronts_as_auto_means(tmp_path: Path) -> None:
    rest = '[hot]\ndevice = "off"\n[warm]\ncapacity = "8MiB"\n[cold]\npath = "data"\n'
    (tmp_path / "config.toml").write_text(f'[server]\nport = 0\nworkers = "auto"\n{rest}')
    with running(tmp_path) as service:
        assert len(fronts(service)) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("workers", ["0", "257", '"all"', "true", "1.5"])
def test_other_numbers_of_fronts_are_refused(tmp_path: Path, workers: str) -> None:
    (tmp_path / "config.toml").write_text(f"[server]\nworkers = {workers}\n")
    with pytest.raises(ConfigError, match='workers should be "auto" or a number of processes from 1 to 256'):
        Settings.load(tmp_path / "config.toml", {})
