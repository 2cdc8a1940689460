"""`python -m loadtest ...` as a process that can be interrupted, with a scratch folder of its own for what it makes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def loadtest(tmp_path: Path, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run it in a session of its own; killed, if it is still there, when the block ends."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "loadtest", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch), "COLUMNS": "160", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # What a shell starts in the background ignores Ctrl-C, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def leftovers(tmp_path: Path) -> list[str]:
    """What is in the scratch folder."""
    return sorted(path.name for path in (tmp_path / "scratch").iterdir())
