"""The process of an errand, see errands.py: `python -m embcache.owner.errand_process`. It yields to all others."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from embcache.config import Cold
from embcache.errors import ConfigError, StorageFull
from embcache.owner import audit, snapshots
from embcache.owner.errands import Tell
from embcache.owner.hotline import failed
from embcache.owner.threads import service_error
from embcache_storage.store import StoreError

_NICE = 10
_TELL_EVERY_S = 0.1

ERRANDS: Mapping[str, Callable[[Cold, Mapping[str, Any], Tell], dict[str, Any]]] = {
    "snapshot": snapshots.take,
    "restore": snapshots.restore,
    "check": audit.check,
}


def main() -> int:
    """-> the exit status. SIGTERM, and the parent's end, end it as an exception would: it cleans up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.ERROR)
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        done = ERRANDS[order["what"]](Cold.model_validate_json(order["cold"]), order, _teller())
    except Exception as error:
        _say(json.loads(failed(told_error(error))))
        return 1
    _say({"done": done})
    return 0


def told_error(error: Exception) -> Any:
    """What whoever asked is told of an error."""
    if isinstance(error, ConfigError):
        return error
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        full = StorageFull(f"{name}{error.strerror or error}")
        return full if error.errno in snapshots.FULL else ConfigError(f"{name}{error.strerror or error}")
    if type(error) is StoreError:  # none of the kinds that say more, so it is about the folder
        return ConfigError(str(error))
    return service_error(error)


def _teller() -> Tell:
    """Tells how far it is, now and then, and each time that something else begins."""
    last = ("", 0.0)

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last
        if what != last[0] or done == total or time.monotonic() - last[1] >= _TELL_EVERY_S:
            last = (what, time.monotonic())
            _say({"at": [what, done, total]})

    return tell


def _say(told: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what cleans up must not be ended
    raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
