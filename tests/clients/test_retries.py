"""When a call is tried again, and after how long."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from typing import Any

import pytest

from embcache_client import RetryPolicy, errors
from embcache_client.call import Attempts, Call
from embcache_client.errors import ClientError, ConnectionLost, ServiceError

POLICY = RetryPolicy(attempts=6, first_s=0.1, cap_s=0.5)


def call(**options: Any) -> Call[None]:
    return Call("POST", "/v1/lookup", lambda response: None, **options)


def pauses(error: ClientError, *, seconds: float = 1000.0, **options: Any) -> list[float]:
    """All pauses that this error gets, time and again, in a call with `seconds` left."""
    attempts = Attempts(call(**options), POLICY, time.monotonic() + seconds)
    found: list[float] = []
    with contextlib.suppress(type(error)):
        while True:
            found.append(attempts.pause_after(error))
    return found


def refused(status: int, code: str, **detail: object) -> ServiceError:
    return ServiceError.of(status, code, "no", detail)


def test_pauses_double_up_to_the_cap() -> None:
    random.seed(1)
    for pause, full in zip(pauses(errors.ConnectFailed()), [0.1, 0.2, 0.4, 0.5, 0.5], strict=True):
        assert full / 2 <= pause <= full


def test_pauses_differ_from_client_to_client() -> None:
    assert len({pauses(errors.ConnectFailed())[0] for _ in range(20)}) > 10


def test_a_connection_that_was_kept_is_replaced_at_once_but_only_once() -> None:
    found = pauses(ConnectionLost("", was_kept=True))
    assert found[0] == 0
    assert all(pause > 0 for pause in found[1:])


def test_the_service_says_when_to_come_back() -> None:
    for pause, backoff in zip(
        pauses(refused(503, "overloaded", retry_after_ms=7000)), [0.1, 0.2, 0.4, 0.5, 0.5], strict=True
    ):
        assert 7 + backoff / 2 <= pause <= 7 + backoff


def test_a_pause_that_does_not_fit_ends_the_attempts() -> None:
    assert pauses(refused(503, "overloaded", retry_after_ms=2000), seconds=1.5) == []
    assert pauses(errors.ConnectFailed(), seconds=0.01) == []
    assert len(pauses(errors.ConnectFailed(), seconds=60)) == 5


@pytest.mark.parametrize("strange", ["5", True, -1, float("nan"), None])
def test_a_strange_retry_after_is_passed_over(strange: object) -> None:
    assert refused(503, "overloaded", retry_after_ms=strange).retry_after_s is None
    assert len(pauses(refused(503, "overloaded", retry_after_ms=strange))) == 5


NOTHING_SENT: list[ClientError] = [errors.ConnectFailed()]
REFUSED: list[ClientError] = [refused(429, "rate_limited"), refused(503, "overloaded"), refused(503, "not_ready")]
UNHEARD: list[ClientError] = [
    ConnectionLost(""),
    ConnectionLost("", was_kept=True),
    ConnectionLost("", answer_began=True),
]
FROM_A_PROXY: list[ClientError] = [refused(503, "unknown"), refused(429, "unknown")]
FINAL: list[ClientError] = [
    errors.Timeout(),
    errors.ProtocolError(),
    refused(500, "internal"),
    refused(504, "deadline_exceeded"),
    refused(502, "unknown"),
]


@pytest.mark.parametrize(
    ("error", "idempotent", "again"),
    [
        *itertools.product(NOTHING_SENT + REFUSED, [True, False], [True]),
        *itertools.product(UNHEARD + FROM_A_PROXY, [True], [True]),
        *itertools.product(UNHEARD + FROM_A_PROXY, [False], [False]),
        *itertools.product(FINAL, [True, False], [False]),
    ],
)
def test_what_is_tried_again(error: ClientError, idempotent: bool, again: bool) -> None:
    assert bool(pauses(error, idempotent=idempotent)) is again
    assert pauses(error, idempotent=idempotent, once=True) == []
