"""Opening a RocksDB database that may have crashed or been damaged, within a time limit.

A log left by a crash is replayed by a child process first, which writes its rows to files and closes: RocksDB replays
in native code, holding the GIL, and only a kill would end it. After a clean stop the log is empty, and no child is
needed. Run as `python -m embcache_storage.rocks_open`, this file is the child: options come as JSON on standard input,
the engine's error, if any, leaves on standard output.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from rocksdict import Rdict

from embcache_storage.rocks_check import check_folder, has_log
from embcache_storage.rocks_errors import engine_errors, store_error
from embcache_storage.rocks_options import Engine, RocksOptions
from embcache_storage.store import StoreCorrupt, StoreError, StoreTimeout

log = logging.getLogger(__name__)


def open_database(path: Path, options: RocksOptions) -> tuple[Any, list[str], Engine]:
    """Open or create the database at `path`: (database, names of its column families but the default one, engine).

    A damaged table file costs only its own rows: they read as damaged. StoreLocked, StoreTimeout, or StoreCorrupt where
    RocksDB refuses what it finds.
    """
    check_folder(path)
    if has_log(path):
        _recover(path, options)
    engine = Engine(options)
    try:
        return *_open(path, engine), engine
    except StoreCorrupt as error:
        # RocksDB refuses the whole database for one table file that it cannot open, unless told not to be paranoid. It
        # would then also skip damaged parts of a log, so this must never be tried while there is one.
        if ".sst" not in str(error) or has_log(path):
            raise
        engine = Engine(options, paranoid=False)
        opened = *_open(path, engine), engine
        log.error("opened in spite of damage, rows in damaged files cannot be read: %s", error)
        return opened


def _open(path: Path, engine: Engine) -> tuple[Any, list[str]]:
    with engine_errors(f"cannot open the store in {path}"):
        there = Rdict.list_cf(str(path), engine.database) if (path / "CURRENT").exists() else []
        names = [name for name in there if name != "default"]
        families = {"default": engine.database} | dict.fromkeys(names, engine.family)
        return Rdict(str(path), engine.database, families), names


def _recover(path: Path, options: RocksOptions) -> None:
    """Replay the log in a child process, and wait for it within the time limit."""
    limit = options.open_timeout_s
    order = json.dumps({"path": str(path), "options": dataclasses.asdict(options)})
    command = [sys.executable, "-P", "-m", "embcache_storage.rocks_open"]  # -P: nothing from the working directory
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    try:
        done = subprocess.run(
            command, input=order, env=environment, timeout=limit, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        raise StoreTimeout(
            f"the store in {path} did not recover its write-ahead log within {limit:g} s: allow more time, or "
            "restore a backup: some damage makes RocksDB spin for ever"
        ) from None
    if done.returncode:
        logs = ", ".join(sorted(log.name for log in path.glob("*.log")))
        what = f"cannot recover the store in {path} from its write-ahead log ({logs})"
        if done.stdout:
            error = store_error(json.loads(done.stdout), what)
            raise StoreCorrupt(f"{error}; restore a backup") if isinstance(error, StoreCorrupt) else error
        raise StoreError(f"{what}: the recovering process ended with {done.returncode}: {done.stderr.strip()[-500:]}")


def _main() -> int:
    order = json.load(sys.stdin)
    options = RocksOptions(**order["options"])
    # The default action of SIGALRM ends even native code: nothing is left spinning if the parent dies.
    signal.alarm(math.ceil(options.open_timeout_s) + 5)
    try:
        close_database(*_open(Path(order["path"]), Engine(options)))
    except StoreError as error:
        json.dump(str(error.__cause__ or error), sys.stdout)
        return 1
    return 0


def close_database(database: Any, names: list[str]) -> None:
    """Flush all column families, so that the log is empty, and close."""
    for name in names:
        database.get_column_family(name).close()
    database.close()


if __name__ == "__main__":
    sys.exit(_main())
