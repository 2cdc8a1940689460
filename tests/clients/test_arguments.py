"""What a caller may pass as ids, values, bags, weights and options, and what is refused before anything is sent."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest

from embcache_client import AsyncClient, Client, RetryPolicy, Values
from embcache_client.lookup import lookup_bags_call, lookup_call

DEFAULTS: dict[str, Any] = {
    "dtype": "f32",
    "strict": False,
    "min_position": 0,
    "history": None,
    "deadline_ms": None,
    "version": None,
}


def query(ids: Any, **options: Any) -> dict[str, Any]:
    """The query that a lookup of these ids sends."""
    sent = msgpack.unpackb(lookup_call({"item": ids}, **(DEFAULTS | options)).body)
    return dict(sent["queries"][0])


def bag_query(*bags: Any, pooling: str = "sum") -> dict[str, Any]:
    sent = msgpack.unpackb(lookup_bags_call({"item": bags}, pooling=pooling, **DEFAULTS).body)
    return dict(sent["queries"][0])


def sent_ids(ids: Any) -> list[int]:
    return [int(value) for value in np.frombuffer(query(ids)["ids"], "<u8")]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (np.array([1, 2**64 - 1], np.uint64), [1, 2**64 - 1]),
        (np.array([1, 2], ">u8"), [1, 2]),
        (np.array([1, 2], np.int64), [1, 2]),
        (np.array([3, 255], np.uint8), [3, 255]),
        (np.arange(10)[::3], [0, 3, 6, 9]),
        (np.array([], np.int64), []),
        ([], []),
        ((), []),
        ([0, 5, 5], [0, 5, 5]),
        ((7,), [7]),
        (range(3), [0, 1, 2]),
        ([2**63, 2**64 - 1], [2**63, 2**64 - 1]),
        ([0, 2**64 - 1], [0, 2**64 - 1]),
        ([1, np.uint64(2**63)], [1, 2**63]),
    ],
)
def test_feature_ids(given: Any, sent: list[int]) -> None:
    assert sent_ids(given) == sent


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (["a", "日本"], ["a", "日本"]),
        ([b"a\0", "b\0"], [b"a\0", "b\0"]),
        (("a",), ["a"]),
        (np.array(["a", "bc"]), ["a", "bc"]),
        (np.array([b"a", b"bc"]), [b"a", b"bc"]),
        (np.array(["a", "bc"], object), ["a", "bc"]),
        (Values([1, -5, "x"]), [1, -5, "x"]),
        (Values(np.array([3, -4])), [3, -4]),
        (Values([]), []),
    ],
)
def test_raw_values(given: Any, sent: list[Any]) -> None:
    assert query(given) == {"table": "item", "values": sent}


@pytest.mark.parametrize(
    ("given", "error", "reason"),
    [
        ([1, -2], ValueError, "id -2 at 1 is negative"),
        (np.array([-1]), ValueError, "id -1 at 0 is negative"),
        ([2**64], ValueError, "id 18446744073709551616 at 0 is not within"),
        ([-1, 2**63], ValueError, "id -1 at 0 is not within"),
        ([1.0], TypeError, "id 1.0 at 0 is float"),
        ([1, None], TypeError, "id None at 1 is NoneType"),
        ([True], TypeError, "ids are bool"),
        (np.array([1.0]), TypeError, "ids are float64"),
        (np.array([[1]]), ValueError, "ids have 2 dimensions, not 1"),
        (5, ValueError, "ids have 0 dimensions, not 1"),
        (["a", 1], TypeError, "1 at 1 is int, among str or bytes"),
        ("abc", TypeError, "'abc' is one str, not a list of them"),
        (b"abc", TypeError, "b'abc' is one bytes"),
    ],
)
def test_what_is_no_id(given: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=f"table item: .*{reason}"):
        query(given)


def test_versions() -> None:
    assert query([1], version="4")["version"] == "4"
    assert query([1], version={"item": "5"})["version"] == "5"
    assert "version" not in query([1], version={"other": "5"})


def test_bags() -> None:
    sent = bag_query([1, 2, 3], [1, 0, 2], pooling="mean")
    assert sent["pooling"] == "mean"
    assert sent["lengths"] == np.array([1, 0, 2], "<u4").tobytes()
    assert "weights" not in sent
    assert bag_query([1], [1], [0.5])["weights"] == np.array([0.5], "<f4").tobytes()
    assert "weights" not in bag_query([1], [1], None)
    assert bag_query(["a", "b"], np.array([2], np.uint8))["values"] == ["a", "b"]
    assert bag_query([], [])["lengths"] == b""


@pytest.mark.parametrize(
    ("bags", "pooling", "error", "reason"),
    [
        (([1, 2], [1]), "sum", ValueError, "lengths sum to 1, not to the 2 ids"),
        (([1, 2], [3, -1]), "sum", ValueError, "a length of -1 or 3 is no u32"),
        (([1], [1.0]), "sum", TypeError, "lengths are float64"),
        (([1], [[1]]), "sum", TypeError, r"lengths are int64 of shape \(1, 1\)"),
        (([1], 1), "sum", TypeError, "of shape"),
        (([1, 2], [2], [1.0]), "sum", ValueError, r"weights of shape \(1,\) for 2 ids"),
        (([1], [1], [1.0]), "mean", ValueError, "weights need pooling 'sum', not 'mean'"),
        (([1], [1]), "max", ValueError, "pooling 'max' is none of sum, mean"),
        (([1],), "sum", TypeError, "bags are a tuple"),
    ],
)
def test_what_are_no_bags(bags: Any, pooling: str, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        bag_query(*bags, pooling=pooling)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dtype": "f64"}, "dtype 'f64' is none of"),
        ({"min_position": -1}, "min_position -1"),
        ({"min_position": 2**64}, "no u64"),
        ({"deadline_ms": 0}, "deadline_ms is 0"),
        ({"deadline_ms": 2**32}, "deadline_ms"),
    ],
)
def test_options_that_can_never_be_right(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        query([1], **options)


def test_a_lookup_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one table"):
        lookup_call({}, **DEFAULTS)
    with pytest.raises(TypeError, match="name is int"):
        lookup_call({5: [1]}, **DEFAULTS)  # type: ignore[dict-item]


async def test_tables_that_are_no_dict_are_refused() -> None:
    given: Any = ["item"]
    with Client("http://127.0.0.1:1") as client:
        for method in (client.lookup, client.lookup_bags):
            with pytest.raises(TypeError, match="tables are list, not a dict of a table's name -> "):
                method(given)
    async with AsyncClient("http://127.0.0.1:1") as aclient:
        for amethod in (aclient.lookup, aclient.lookup_bags):
            with pytest.raises(TypeError, match="tables are list, not a dict of a table's name -> "):
                await amethod(given)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"max_reply_bytes": 0}, "max_reply_bytes is 0"),
        ({"token": "a\nb"}, "token"),
    ],
)
def test_a_client_that_can_never_work_is_not_made(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Client("http://127.0.0.1:1", **options)


@pytest.mark.parametrize("policy", [{"attempts": 0}, {"first_s": -1}, {"first_s": 3, "cap_s": 2}])
def test_a_retry_policy_that_makes_no_sense_is_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs attempts >= 1"):
        RetryPolicy(**policy)
