"""Help texts of the load tester, which are markup: brackets that are none have to say so."""

from __future__ import annotations

import re
from collections.abc import Iterator

import typer.main
from rich.text import Text

from loadtest.cli import app

MARK = re.compile(r"(?<!\\)\[")


def helps() -> Iterator[tuple[str, str]]:
    """(whose it is, the text) of each command, and of each of its options."""
    group = typer.main.get_command(app)
    for command in (group, *getattr(group, "commands", {}).values()):
        yield str(command.name), command.help or ""
        for option in command.params:
            yield f"{command.name} {option.name}", getattr(option, "help", None) or ""


def test_no_help_text_loses_its_brackets() -> None:
    texts = dict(helps())
    assert {"policies", "policies trace", "run", "train", "demo"} <= texts.keys()
    shown = {name: Text.from_markup(text).plain for name, text in texts.items()}
    assert "pip install -e '.[bench-policies]'" in shown["policies"]
    assert [name for name, text in texts.items() if MARK.search(text)] == []
