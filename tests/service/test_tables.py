"""Tables over HTTP: created, looked at, filled and read page by page, dropped."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from embcache_client import rowtypes
from embcache_client.errors import Conflict, DimensionMismatch, MalformedRequest, UnknownTable
from tests.naive import rounded
from tests.service.running import FILLED, Running, fill, rows_of, running
from tests.service.wires import get, post, put

IDS = np.array([0, 7, 2**40, 2**64 - 1], np.uint64)


def test_a_table_from_its_creation_to_its_end(service: Running) -> None:
    created = service.ask(put("/v1/tables/shoes", {"dim": 3, "dtype": "bf16"}))
    assert created.status == 201
    told = created.json()
    spec = {"name": "shoes", "dim": 3, "dtype": "bf16", "default": "zeros", "feature": "shoes", "add": False}
    spec |= {"ttl_s": None, "max_norm": None}
    assert told["spec"] == spec
    assert (told["version"], told["rows"], told["rows_exact"]) == ("1", 0, True)
    assert told["tiers"]["cold"]["rows"] == 0
    assert told["misses"] is None  # all rows fit
    again = service.ask(put("/v1/tables/shoes", {"name": "shoes", "dim": 3, "dtype": "bf16"}))
    assert (again.status, again.json()) == (200, told)
    assert service.ask(put("/v1/tables/shoes", {"dim": 4, "dtype": "bf16"})).status == 409
    with service.client() as client:
        fill(client, "shoes", IDS, 3)
        assert client.lookup({"shoes": IDS})["shoes"].rows.tobytes() == rounded(rows_of(IDS, 3), "bf16").tobytes()
        assert client.table("shoes")["rows"] == 4
        assert client.table("shoes")["tiers"]["warm"]["rows"] == 4
        assert "shoes" in [table["spec"]["name"] for table in client.tables()]
    dropped = service.ask(get("/v1/tables/shoes", method="DELETE")).json()
    assert dropped == {"dropped": "shoes", "position": str(int(told["position"]) + 2)}, "after an import"
    assert service.ask(get("/v1/tables/shoes")).status == 404
    with service.client() as client, pytest.raises(UnknownTable):
        client.lookup({"shoes": IDS})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"dim": 0}, "dim should be greater than or equal to 1 (got 0)"),
        ({"dim": 8, "dtyp": "f32"}, "dtyp is unknown; the nearest right key is dtype"),
        ({"name": "other", "dim": 8}, "the spec is named 'other', and the path says 'wrong'"),
        ([], "should be a JSON object"),
        ({"dim": 2, "default": {"constant": [1]}}, "default.constant has 1 numbers, dim is 2"),
    ],
)
def test_a_wrong_spec_is_told_so_and_nothing_is_made(service: Running, spec: Any, words: str) -> None:
    answer = service.ask(put("/v1/tables/wrong", spec))
    assert (answer.status, answer.json()["error"]["code"]) == (400, "malformed_request")
    assert words in answer.json()["error"]["message"]
    assert service.ask(get("/v1/tables/wrong")).status == 404


def test_a_bad_name_is_told_so(service: Running) -> None:
    assert service.ask(put("/v1/tables/Not-A-Name", {"dim": 8})).status == 400


def test_a_row_is_shown_with_its_tier(service: Running) -> None:
    with service.client() as client:
        client.lookup({"item": [7]})
    row = service.ask(get("/v1/tables/item/rows/7")).json()
    assert (row["table"], row["id"], row["tier"]) == ("item", "7", "warm")
    assert np.array(row["row"], np.float32).tobytes() == rows_of(np.array([7], np.uint64)).tobytes()
    absent = service.ask(get(f"/v1/tables/item/rows/{2**64 - 2}")).json()
    assert (absent["id"], absent["tier"]) == (str(2**64 - 2), "missing")
    assert any(absent["row"])  # the default row of this table is not zeros


@pytest.mark.parametrize("dtype", rowtypes.NAMES)
def test_rows_go_in_and_come_out_in_any_dtype(service: Running, dtype: str) -> None:
    with service.client() as client:
        with client.importing("moved", {"name": "moved", "dim": 12}, dtype=dtype) as filling:
            filling.write(FILLED, rows_of(FILLED))
        wanted = rounded(rows_of(FILLED), dtype)
        assert client.lookup({"moved": FILLED})["moved"].rows.tobytes() == wanted.tobytes()
        pages = list(client.pages("moved", limit=999, dtype=dtype))
        assert np.concatenate([page.ids for page in pages]).tolist() == FILLED.tolist()
        assert len(pages) == 6
        if dtype != "q8":  # coded twice, which may differ by a step
            assert np.concatenate([page.rows for page in pages]).tobytes() == wanted.tobytes()
        client.drop_table("moved")


def test_an_import_is_seen_when_it_is_whole_or_never(service: Running) -> None:
    old, new = np.arange(10, dtype=np.uint64), np.arange(5, 15, dtype=np.uint64)
    with service.client() as client:
        client.create_table({"name": "swap", "dim": 12})
        fill(client, "swap", old)
        before = client.table("swap")["version"]
        with client.importing("swap") as filling:
            filling.write(new[:6], rows_of(new[:6]))
            assert client.lookup({"swap": old}, strict=True)["swap"].version == before
            filling.write(new[6:], rows_of(new[6:]))
        assert client.lookup({"swap": new}, strict=True)["swap"].rows.tobytes() == rows_of(new).tobytes()
        assert client.lookup({"swap": old})["swap"].found.tolist() == [False] * 5 + [True] * 5
        with contextlib.suppress(KeyError), client.importing("swap") as filling:
            filling.write(old, rows_of(old))
            raise KeyError("given up")
        assert client.lookup({"swap": new}, strict=True)["swap"].rows.tobytes() == rows_of(new).tobytes()
        client.drop_table("swap")


def begun(service: Running, spec: Any) -> str:
    body = json.dumps({"spec": spec}).encode()
    answer = service.ask(post(f"/v1/tables/{spec['name']}/imports", body, content_type="application/json"))
    assert answer.status == 200
    path: str = "/v1/imports/" + answer.json()["import"]
    return path


def page(ids: list[int], rows: Any, dtype: str = "f32", **more: Any) -> bytes:
    packed: bytes = msgpack.packb({"ids": np.array(ids, np.uint64).tobytes(), "dtype": dtype, "rows": rows, **more})
    return packed


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "malformed_request"),
        (msgpack.packb({"ids": b""}), "malformed_request"),
        (page([1], bytes(8), more=1), "malformed_request"),
        (page([1], bytes(8), scale=bytes(4)), "malformed_request"),
        (page([1], bytes(7)), "malformed_request"),
        (page([1], "text"), "malformed_request"),
        (page([1], bytes(8), "f64"), "unsupported_dtype"),
        (page([1], bytes(8), "q8"), "malformed_request"),
        (page([1], bytes(12)), "dimension_mismatch"),
        (page([1, 2], bytes(8)), "dimension_mismatch"),
        (page([1], bytes(2), "q8", scale=bytes(8), bias=bytes(4)), "dimension_mismatch"),
        (page([2, 1], bytes(16)), "invalid_rows"),
        (page([2, 2], bytes(16)), "invalid_rows"),
        (page([1], np.array([1, np.nan], np.float32).tobytes()), "invalid_rows"),
        (page([1], np.array([1, np.inf], np.float32).tobytes()), "invalid_rows"),
        (page([1], np.array([1, np.inf], np.float16).tobytes(), "f16"), "invalid_rows"),
    ],
)
def test_wrong_rows_are_refused_and_the_import_goes_on(service: Running, body: bytes, code: str) -> None:
    path = begun(service, {"name": "picky", "dim": 2})
    answer = service.ask(post(f"{path}/rows", body))
    assert (answer.status, msgpack.unpackb(answer.body)["error"]["code"]) == (400, code)
    assert msgpack.unpackb(service.ask(post(f"{path}/rows", page([3], bytes(8)))).body) == {"rows": 1}
    assert service.ask(get(path, method="DELETE")).status == 200
    assert service.ask(get(path, method="DELETE")).status == 404
    assert service.ask(get("/v1/tables/picky")).status == 404


def test_the_client_is_told_of_what_it_cannot_see_itself(service: Running) -> None:
    with service.client() as client:
        with pytest.raises(DimensionMismatch), client.importing("item") as filling:
            filling.write(IDS, rows_of(IDS, 13))
        with pytest.raises(Conflict), client.importing("item", {"name": "item", "dim": 13}):
            pass
        with pytest.raises(UnknownTable), client.importing("nowhere"):
            pass
        with pytest.raises(MalformedRequest), client.importing("nowhere", {"name": "else", "dim": 3}):
            pass


def test_a_share_for_a_table_that_is_not_there_is_told_of_and_counts_once_it_is(tmp_path: Path) -> None:
    extra = '[[table]]\nname = "item"\ndim = 4\n'
    with running(tmp_path, extra, {"EMBCACHE_WARM__FIXED": "itme=1MiB"}) as service:
        assert service.ask(get("/v1/tables")).json()["not_there"] == {"warm.fixed": ["itme"]}
        assert "warm.fixed names table 'itme', which is not there (the nearest name is 'item')" in service.log()
        assert service.ask(put("/v1/tables/itme", {"dim": 4})).status == 201
        assert service.ask(get("/v1/tables")).json()["not_there"] == {}
