"""Waiting for what was pushed to be durable, while the owner says now and then that it does not answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from embcache.cli import pushing
from embcache.errors import NotReady


def test_an_owner_that_does_not_answer_for_a_while_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "_ASK_S", 0.0)
    answers: Iterator[int | None] = iter([3, None, None, 4, 5, None])

    def durable() -> int:
        answer = next(answers)
        if answer is None:
            raise NotReady("the owner did not answer")
        return answer

    pushing._until(durable, 5)
    assert list(answers) == [None], "and no more is asked"


def test_it_is_not_waited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "_TIMEOUT_S", 0.0)
    monkeypatch.setattr(pushing, "_ASK_S", 0.0)
    with pytest.raises(NotReady, match="position 5 was accepted, and is not durable after 0 s"):
        pushing._until(lambda: 4, 5)
