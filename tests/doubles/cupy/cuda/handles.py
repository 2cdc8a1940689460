"""Numbers for things, as CUDA gives them, and the emulated device that plays the GPU."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

Thing = TypeVar("Thing")

MACHINE: list[Any] = []  # of one, once a module was loaded


class Handles(Generic[Thing]):
    """Things by their numbers, from 16 on. KeyError: it was destroyed, or never was."""

    def __init__(self) -> None:
        self._things: dict[int, Thing] = {}
        self._next = 16

    def add(self, thing: Thing, number: int = 0) -> int:
        number = number or self._next
        self._next += 1
        assert number not in self._things
        self._things[number] = thing
        return number

    def __getitem__(self, number: int) -> Thing:
        return self._things[number]

    def remove(self, number: int) -> None:
        del self._things[number]

    def sizes(self) -> list[tuple[int, int]]:
        """(number, bytes) of each, of memory."""
        return [(number, getattr(thing, "nbytes", 0)) for number, thing in self._things.items()]
