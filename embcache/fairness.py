"""Max-min fairness: how a capacity is shared where not all that is wanted fits. Arithmetic only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Key = TypeVar("Key")


def pour(wants: Mapping[Key, int], capacity: int) -> dict[Key, int]:
    """{key: share}: small wants are met in full, the large ones get equal parts of what is left."""
    given: dict[Key, int] = {}
    for count, (key, want) in enumerate(sorted(wants.items(), key=lambda item: item[1])):
        given[key] = min(want, capacity // (len(wants) - count))
        capacity -= given[key]
    return given
