"""Runs pairs one after the other and gathers their records."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from loadtest import facts
from loadtest.pairs.base import Pair
from loadtest.processes import terminated_as_interrupted
from loadtest.records import Report


def compare(pairs: Sequence[Pair], rounds: int, console: Console, arguments: Sequence[str] = ()) -> Report:
    """Measure each pair and say on the console which one is under way, or on stderr where that is no terminal.

    arguments: those of the command line, for the report's readers to run it again. Ctrl-C and SIGTERM end it with a
    report of the pairs that were measured until then.
    """
    report = Report(
        command=shlex.join(["python", "-m", "loadtest", *arguments]),
        machine=facts.machine(),
        versions=facts.versions(),
    )
    at = ""
    with terminated_as_interrupted():
        try:
            for pair in pairs:
                at = pair.name
                if not console.is_terminal:
                    print(f"{pair.name} ...", file=sys.stderr, flush=True)
                with console.status(f"{pair.name}: {pair.what}"):
                    report.records.append(pair.record(rounds))
        except KeyboardInterrupt:
            return replace(report, interrupted=at)
    return report
