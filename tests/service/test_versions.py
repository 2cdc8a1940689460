"""Versions of a table over HTTP, against a running service: staged, filled, trained, switched to and back, dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from embcache_client import Trainer
from embcache_client.errors import Conflict, UnknownTable
from embcache_client.results import WARM
from tests.naive import rounded
from tests.service.running import Running, fill, rows_of
from tests.service.wires import get, post, put

IDS = np.arange(200, dtype=np.uint64)


@pytest.fixture
def boots(service: Running) -> Iterator[Running]:
    """A table `boots` with rows that are 0.5 more in its staged version `next`."""
    with service.client() as client:
        client.create_table({"name": "boots", "dim": 12})
        fill(client, "boots", IDS)
        client.stage("boots", "next", {"dtype": "f16"}, follow=True)
        with client.importing("boots", version="next") as filling:
            assert filling.version == "next"
            filling.write(IDS, rows_of(IDS) + 0.5)
        yield service
        client.drop_table("boots")


def test_a_switch_and_back_through_the_client(boots: Running) -> None:
    with boots.client() as client, Trainer(boots.url, producer="boots") as trainer:
        table = client.table("boots")
        old = table["version"]
        assert [(v["version"], v["state"], v["follow"], v["rows"]) for v in table["versions"]] == [
            (old, "live", False, 200),
            ("next", "staged", True, 200),
        ]
        assert table["versions"][1]["spec"] == {**table["spec"], "dtype": "f16"}
        assert table["versions"][1]["tiers"]["cold"]["bytes"] > 0
        trainer.add("boots", IDS[:50], np.ones((50, 12), np.float32))
        position = trainer.flush()
        raised = rows_of(IDS)
        raised[:50] += np.float32(1)
        found = client.lookup({"boots": IDS}, min_position=position)["boots"]
        assert (found.version, found.rows.tobytes()) == (old, raised.tobytes())
        named = client.lookup({"boots": IDS}, version="next")["boots"]
        half = rounded((rows_of(IDS) + np.float32(0.5)) + (raised - rows_of(IDS)).round(), "f16")
        np.testing.assert_array_equal(named.rows, half)
        told = client.switch({"boots": "next"}, follow=True)
        assert told["warmed"] == {"boots": {"ids": 200, "warmed": 200}}
        found = client.lookup({"boots": IDS}, min_position=int(told["position"]))["boots"]
        assert (found.version, found.dtype, (found.status == WARM).all()) == ("next", "f32", True)
        np.testing.assert_array_equal(found.rows, half)
        trainer.assign("boots", IDS[:1], np.full((1, 12), 7, np.float32))
        trainer.flush()
        back = client.switch({"boots": old})
        found = client.lookup({"boots": IDS}, min_position=int(back["position"]))["boots"]
        assert (found.version, found.rows[0].tolist()) == (old, [7] * 12), "it does not go back in time"
        assert found.rows[1:].tobytes() == raised[1:].tobytes()
        assert client.switch({"boots": old})["warmed"] == {}, "it is live already"
        with pytest.raises(Conflict, match="is live"):
            client.drop_version("boots", old)
        client.drop_version("boots", "next")
        assert [v["version"] for v in client.table("boots")["versions"]] == [old]
        with pytest.raises(UnknownTable, match="no version 'next'"):
            client.lookup({"boots": IDS}, version="next")


def test_a_copy_of_a_version(boots: Running) -> None:
    with boots.client() as client, Trainer(boots.url, producer="copies") as trainer:
        told = client.stage("boots", "copy", {"dtype": "bf16", "add": True}, follow=True, source="next")
        assert (told["state"], told["follow"], told["spec"]["dtype"]) == ("staged", True, "bf16")
        trainer.assign("boots", IDS[:1], np.full((1, 12), 7, np.float32))
        found = client.lookup({"boots": IDS}, version="copy", min_position=trainer.flush())["boots"]
        expected = rows_of(IDS) + np.float32(0.5)  # which `next` has as f32 on disk
        expected[0] = 7
        np.testing.assert_array_equal(found.rows, rounded(expected, "bf16"))
        client.drop_version("boots", "copy")


def test_what_the_calls_answer(boots: Running) -> None:
    staged = boots.ask(post("/v1/tables/boots/versions", b'{"version": "more"}', content_type="application/json"))
    told = staged.json()
    assert (staged.status, told["table"], told["version"], told["state"]) == (201, "boots", "more", "staged")
    assert (told["spec"]["dtype"], told["follow"]) == ("f32", False)
    switched = boots.ask(put("/v1/active", {"tables": {"boots": "more"}, "warm_s": 0.5}))
    assert switched.status == 200
    assert switched.json() == {
        "tables": {"boots": "more"},
        "warmed": {"boots": {"ids": 0, "warmed": 0}},
        "position": str(int(told["position"]) + 1),
    }
    dropped = boots.ask(get("/v1/tables/boots/versions/next", method="DELETE"))
    assert dropped.json() == {"table": "boots", "dropped": "next", "position": str(int(told["position"]) + 2)}
    metrics = boots.ask(get("/metrics")).body.decode()
    [line] = [line for line in metrics.splitlines() if line.startswith('embcache_table_rows{table="boots",tier="cold"')]
    assert float(line.split()[1]) == 200, "all versions together"


@pytest.mark.parametrize(
    ("request_", "status", "code", "words"),
    [
        (
            put("/v1/active", {"tables": {"boots": "nex"}}),
            404,
            "unknown_table",
            "'nex'; the nearest is next",
        ),
        (put("/v1/active", {"tables": {"boot": "next"}}), 404, "unknown_table", "no table 'boot'"),
        (put("/v1/active", {"tables": {}}), 400, "malformed_request", "tables: is a map; it should be a map from"),
        (put("/v1/active", {"tables": {"boots": 1}}), 400, "malformed_request", "from tables to their versions"),
        (put("/v1/active", {}), 400, "malformed_request", "tables: is missing"),
        (put("/v1/active", []), 400, "malformed_request", "should be a JSON object with the keys follow, tables"),
        (put("/v1/active", {"tables": {"boots": "next"}, "folow": 1}), 400, "malformed_request", "nearest .* follow"),
        (put("/v1/active", {"tables": {"boots": "next"}, "follow": 1}), 400, "malformed_request", "true or false"),
        (put("/v1/active", {"tables": {"boots": "next"}, "warm_s": "1"}), 400, "malformed_request", "of seconds"),
        (put("/v1/active", {"tables": {"boots": "next"}, "warm_s": 301}), 400, "malformed_request", "from 0 to 300"),
        (put("/v1/active", {"tables": {"boots": "next"}, "warm_s": 10**400}), 400, "malformed_request", "0 to 300"),
        (get("/v1/tables/boots/versions/nex", method="DELETE"), 404, "unknown_table", "no version 'nex'"),
        (b"stage", 400, "malformed_request", "version: is missing"),
        (b'{"version": "copy", "source": 2}', 400, "malformed_request", "source: is an integer"),
        (b'{"version": "copy", "source": "nex"}', 404, "unknown_table", "no version 'nex'; the nearest is next"),
        (b'{"version": "next"}', 409, "conflict", "has a version 'next', which is staged"),
        (b'{"version": "Next"}', 400, "malformed_request", "is no name of a version"),
        (b'{"version": "dim", "spec": {"dim": 3}}', 409, "conflict", "has dim 12"),
        (b'{"version": "spec", "spec": "f16"}', 400, "malformed_request", "spec: is a string"),
        (b'{"version": "spec", "spec": {"dtype": "f15"}}', 400, "malformed_request", "table spec: dtype"),
        (
            b'{"version": "on", "follow": true, "spec": {"dtype": "f16", "add": false}}',
            409,
            "conflict",
            "cannot follow",
        ),
    ],
)
def test_what_is_refused(boots: Running, request_: bytes, status: int, code: str, words: str) -> None:
    if request_[:1] in b"{s":
        body = b"{}" if request_ == b"stage" else request_
        request_ = post("/v1/tables/boots/versions", body, content_type="application/json")
    answer = boots.ask(request_)
    assert (answer.status, answer.json()["error"]["code"]) == (status, code)
    assert re.search(words, answer.json()["error"]["message"]), answer.json()
    with boots.client() as client:
        states: list[Any] = [version["state"] for version in client.table("boots")["versions"]]
        assert states == ["live", "staged"]
