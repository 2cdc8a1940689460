"""Guarded updates as trainers and admins meet them: a whole service, a Trainer, the client and the command line."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache_client import Client, Trainer
from embcache_client.errors import MalformedRequest, UnknownTable
from tests.service.running import Running, running
from tests.service.wires import get

TABLES = '[[table]]\nname = "item"\ndim = 4\nmax_norm = 10\n[[table]]\nname = "free"\ndim = 4\n'


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("quarantine"), TABLES) as service:
        yield service


def ones(count: int, value: float = 1.0) -> Any:
    return np.full((count, 4), value, np.float32)


def ran(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embcache", "quarantine", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def json_of(serving: Running, path: str, method: str = "GET") -> Any:
    return json.loads(serving.ask(get(path, method=method)).body)


def metric(serving: Running, name: str) -> float:
    text = serving.ask(get("/metrics")).body.decode()
    [line] = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def test_a_trainer_hears_once_of_each_batch_and_goes_on(serving: Running, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Sequence[int]] = []
    with serving.client() as client, Trainer(serving.url, producer="one", on_quarantine=heard.append) as trainer:
        trainer.add("item", [1, 2], ones(2))
        trainer.flush(applied=True)
        assert trainer.quarantined_count == len(heard) == 0
        with caplog.at_level(logging.WARNING, "embcache_client"):
            trainer.add("item", [2, 3], ones(2, 9))
            first = trainer.flush(applied=True)
            assert trainer.quarantined == (first,)
            trainer.add("item", [2, 3], ones(2))
            last = trainer.flush()
            trainer.flush(applied=True)
        assert heard == [[first]]
        assert [record.getMessage() for record in caplog.records if "set aside" in record.getMessage()] == [
            "the service has set aside a batch of producer one, at position "
            f"{first}, since a row would be over its table's max_norm: no row is changed by that until somebody "
            "releases it (embcache quarantine)"
        ]
        found = client.lookup({"item": [1, 2, 3]}, min_position=last)["item"].rows
        np.testing.assert_array_equal(found, [[1] * 4, [2] * 4, [1] * 4])
        with Trainer(serving.url, producer="one") as again:  # as after a crash of the trainer
            assert (again.quarantined, again.quarantined_count) == ((first,), 1)
        assert client.release(first) == {"position": last + 2, "rows": 2, "skipped": 0}
        found = client.lookup({"item": [2, 3]}, min_position=last + 2)["item"].rows
        np.testing.assert_array_equal(found, [[11] * 4, [10] * 4])
        with Trainer(serving.url, producer="one") as again:
            assert again.quarantined == ()


def test_what_fails_in_who_is_told_stops_no_trainer(serving: Running, caplog: pytest.LogCaptureFixture) -> None:
    def fails(positions: Sequence[int]) -> None:
        raise RuntimeError("not today")

    with serving.client() as client, Trainer(serving.url, producer="two", on_quarantine=fails) as trainer:
        trainer.add("item", [100], ones(1, 9))
        first = trainer.flush(applied=True)
        trainer.add("item", [101], ones(1))
        client.drop_quarantined(trainer.quarantined[0])
        trainer.flush(applied=True)
        assert trainer.quarantined == ()
        with pytest.raises(UnknownTable, match=f"position {first} is set aside"):
            client.quarantined(first)
    assert "what was to be told" in caplog.text


def test_it_is_listed_shown_released_and_dropped_by_http(serving: Running) -> None:
    before = metric(serving, "embcache_update_batches_set_aside")
    with serving.client() as client, Trainer(serving.url, producer="three") as trainer:
        positions = []
        for n in range(3):
            trainer.add("item", [2**64 - 1 - n, 50], ones(2, 6))
            trainer.add("free", [n], ones(1, 60))
            positions.append(trainer.flush(applied=True))
        trainer.assign("item", [50], ones(1, 2))
        trainer.flush(applied=True)
        page = json_of(serving, "/v1/quarantine?limit=2")
        assert (page["count"], [each["position"] for each in page["batches"]]) == (3, list(map(str, positions[:2])))
        rest = json_of(serving, f"/v1/quarantine?after={page['next']}")
        assert ([each["position"] for each in rest["batches"]], rest["next"]) == ([str(positions[2])], None)
        shown = json_of(serving, f"/v1/quarantine/{positions[2]}")
        wanted = {"producer": "three", "table": "item", "version": "1", "limit": 10, "over": 2, "rows": 3, "norm": 12}
        assert {key: shown[key] for key in wanted} == wanted
        assert shown["changes"] == [
            {"table": "item", "op": "add", "rows": 2, "skipped": 1},
            {"table": "free", "op": "add", "rows": 1, "skipped": 0},
        ]
        assert client.quarantined(positions[2])["position"] == positions[2]
        assert client.quarantine(0, 2)["next"] == positions[1]
        assert metric(serving, "embcache_quarantine_batches") == 3
        assert metric(serving, "embcache_update_batches_set_aside") == before + 3
        assert metric(serving, "embcache_quarantine_bytes") == page["bytes"]
        told = json_of(serving, f"/v1/quarantine/{positions[0]}/release", "POST")
        assert (told["released"], told["rows"], told["skipped"]) == (str(positions[0]), 2, 1)
        found = client.lookup({"item": [50, 2**64 - 1], "free": [0]}, min_position=int(told["position"]))
        np.testing.assert_array_equal(found["item"].rows, [[2] * 4, [6] * 4])
        np.testing.assert_array_equal(found["free"].rows, [[60] * 4])
        assert json_of(serving, f"/v1/quarantine/{positions[1]}", "DELETE") == {"dropped": str(positions[1])}
        for bad in ("x", "-1", "9" * 21):
            assert json_of(serving, f"/v1/quarantine/{bad}")["error"]["code"] == "malformed_request"
        assert json_of(serving, "/v1/quarantine?limit=0")["error"]["code"] == "malformed_request"
        assert json_of(serving, "/v1/quarantine/1/release", "POST")["error"]["code"] == "unknown_table"
        client.drop_quarantined(positions[2])


def test_a_table_that_is_there_gets_a_limit(serving: Running) -> None:
    with serving.client() as client, Trainer(serving.url, producer="five") as trainer:
        assert client.limit("free", 50)["spec"]["max_norm"] == 50
        trainer.add("free", [700], ones(1, 60))
        client.drop_quarantined(trainer.flush(applied=True))
        assert ran("limit", "free", "none", "--url", serving.url).stdout == "free: no limit\n"
        trainer.add("free", [700], ones(1, 60))
        position = trainer.flush(applied=True)
        assert not trainer.quarantined
        np.testing.assert_array_equal(client.lookup({"free": [700]}, min_position=position)["free"].rows, ones(1, 60))
        wrong = ran("limit", "free", "much", "--url", serving.url)
        assert (wrong.returncode, "neither a number nor none" in wrong.stderr) == (2, True)
        with pytest.raises(MalformedRequest, match="max_norm"):
            client.limit("free", -1)


def test_it_outlives_the_owner_and_the_command_line_has_it_of_a_service_that_is_stopped(tmp_path: Path) -> None:
    with running(tmp_path, TABLES) as service, service.client() as client:
        with Trainer(service.url, producer="four") as trainer:
            positions = []
            for n in range(3):
                trainer.add("item", [n, 9], ones(2, 9))
                positions.append(trainer.flush(applied=True))
            trainer.assign("item", [9], ones(1))
            trainer.flush(applied=True)
        owner = service.child("owner")
        os.kill(owner, signal.SIGKILL)
        while service.child("owner") in (0, owner) or not client.ready():
            time.sleep(0.05)
        listed = ran("list", "--url", service.url)
        assert [line.split()[0] for line in listed.stdout.splitlines()[1:4]] == list(map(str, positions))
        assert "four" in listed.stdout
        assert "set aside: 3 batches, 192.0 KiB of" in listed.stdout
        shown = ran("show", positions[0], "--url", service.url)
        assert shown.stdout.splitlines()[-1].split() == ["item", "add", "2", "1"]
        asked = ran("drop", positions[0], "--url", service.url)
        assert (
            asked.returncode,
            "2 changes of rows by four, of which a release would leave out 1" in asked.stderr,
        ) == (
            1,
            True,
        )
        assert ran("drop", positions[0], "--yes", "--url", service.url).stdout == (
            f"dropped the batch of position {positions[0]}\n"
        )
    config = tmp_path / "config.toml"
    released = ran("release", positions[1], "--yes", "--config", config)
    assert released.stdout.startswith("released at position ")
    assert "1 change of rows, 1 left out" in released.stdout
    assert ran("drop", positions[2], "--yes", "--config", config).returncode == 0
    assert ran("list", "--config", config).stdout == "no batch is set aside\n"
    gone = ran("show", positions[2], "--config", config)
    assert (gone.returncode, gone.stderr) == (
        1,
        f"embcache: no batch of position {positions[2]} is set aside, or not any more: none is\n",
    )
    with running(tmp_path) as service, Client(service.url) as client:
        np.testing.assert_array_equal(client.lookup({"item": [1, 2, 9]})["item"].rows, [[9] * 4, [0] * 4, [1] * 4])
