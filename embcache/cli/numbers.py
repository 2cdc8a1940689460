"""Commands whose arguments may be numbers: a negative one is an argument, not an option."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any, Final

from typer.core import TyperCommand

_NEGATIVE: Final = re.compile(r"-\.?[0-9].*", re.DOTALL)


class NumbersCommand(TyperCommand):
    """`embcache lookup item --values -3` without a `--`; what is wrong with a number is said of the number."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Takes the command's words apart."""
        options = [each for each in self.params if each.param_type_name == "option"]
        valued = {name for each in options if not getattr(each, "is_flag", False) for name in each.opts}
        return super().parse_args(ctx, arguments_last(args, valued))


def arguments_last(words: Sequence[str], valued: Collection[str]) -> list[str]:
    """The words of a command with its arguments behind a `--`, in their order, if one of them is a negative number.

    valued: the options that take a value, which is the next word.
    """
    options, arguments, rest = list[str](), list[str](), iter(words)
    numbers = False
    for word in rest:
        if word == "--":
            arguments += rest
        elif _NEGATIVE.fullmatch(word):
            numbers = True
            arguments.append(word)
        elif word.startswith("-") and word != "-":
            options.append(word)
            options += islice(rest, int(word in valued))
        else:
            arguments.append(word)
    return [*options, "--", *arguments] if numbers else list(words)
