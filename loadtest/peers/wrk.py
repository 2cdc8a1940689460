"""wrk, the load generator of Debian's package of that name: the same request over many connections, as fast as it goes.

It takes a fraction of the processor that a client in Python does, and leaves the rest to what is measured.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtest.peers import PeerAbsent

_RATE = re.compile(r"^Requests/sec:\s+([\d.]+)$", re.MULTILINE)
_WRONG = re.compile(r"^\s*(Socket errors: .*|Non-2xx or 3xx responses: .*)$", re.MULTILINE)


class WrkFailed(RuntimeError):
    """It did not run, or what it asked was not answered."""


def wrk() -> str:
    """The program. PeerAbsent where it is not installed."""
    program = shutil.which("wrk")
    if program is None:
        raise PeerAbsent("no wrk on PATH (Debian: apt-get install wrk)")
    return program


def requests_a_second(url: str, body: bytes, media_type: str, connections: int, seconds: int) -> float:
    """Requests that one thread of it gets answered a second over so many connections. PeerAbsent, WrkFailed."""
    with TemporaryDirectory(prefix="loadtest-wrk-") as folder:
        script = Path(folder, "request.lua")
        quoted = "".join(f"\\{byte:03d}" for byte in body)
        script.write_text(
            f'wrk.method = "POST"\nwrk.headers["content-type"] = "{media_type}"\nwrk.body = "{quoted}"\n', "ascii"
        )
        command = [wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    rate, wrong = _RATE.search(done.stdout), _WRONG.search(done.stdout)
    if done.returncode or rate is None or wrong:
        raise WrkFailed(wrong[1] if wrong else f"{done.stdout[-300:]}{done.stderr[-300:]}")
    return float(rate[1])
