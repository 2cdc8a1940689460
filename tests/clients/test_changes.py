"""What changed since a position, as both clients ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from embcache_client.errors import ProtocolError, UnknownTable
from tests.clients.conftest import Connect
from tests.clients.service import DIM, Service, row_of, served


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def client(service: Service, connect: Connect) -> Iterator[Any]:
    with served(service) as url:
        client = connect(url)
        client.create_table({"name": "item", "dim": DIM})
        with client.importing("item") as load:
            load.write([1, 4, 5, 2**63], np.array([row_of(x) for x in (1, 4, 5, 6)], np.float32))
        yield client


def test_pieces_are_asked_for_up_to_what_was_applied_at_first(client: Any, service: Service) -> None:
    pieces = list(client.changed("item", 3))
    assert [(piece.position, piece.applied, piece.ids.tolist()) for piece in pieces] == [
        (4, 7, [4]),
        (5, 8, [5]),
        (6, 9, [6]),
        (7, 10, [7]),
    ]
    assert {(piece.table, piece.version, piece.history) for piece in pieces} == {("item", "2", "h")}
    assert client.position() == {"durable": 11, "applied": 11, "history": "h", "lag_s": 0.0}
    service.applied = 20
    assert [(piece.position, len(piece.ids)) for piece in client.changed("item", 20)] == [(20, 0)]


def test_an_answer_that_does_not_lead_onwards_is_none(client: Any, service: Service) -> None:
    service.step = 0
    with pytest.raises(ProtocolError, match="since 3 lead to position 3, not onwards"):
        list(client.changed("item", 3))


def test_rows_of_some_ids(client: Any) -> None:
    page = client.fetch_rows("item", [5, 9, 2**63, 4])
    assert (page.ids.tolist(), page.version, page.next_id) == ([5, 2**63, 4], "2", None)
    np.testing.assert_array_equal(page.rows, np.array([row_of(x) for x in (5, 6, 4)], np.float32))
    half = client.fetch_rows("item", np.array([1], np.uint64), version="old", dtype="f16")
    assert (half.version, half.dtype, half.rows.dtype) == ("old", "f16", np.float32)
    assert len(client.fetch_rows("item", [])) == 0
    with pytest.raises(UnknownTable):
        client.fetch_rows("items", [1])
    with pytest.raises(ValueError, match="dtype"):
        client.fetch_rows("item", [1], dtype="f8")
