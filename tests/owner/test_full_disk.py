"""A disk that was full: once there is room the service writes again by itself, whatever state RocksDB is in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FULL_AND_FREED = """
import sys
import time
from pathlib import Path
import numpy as np
from embcache import EmbeddingCache
from embcache.config import Cold, Settings, Warm
from embcache.errors import EmbcacheError, StorageFull
folder = Path(sys.argv[1])
ids = np.arange(1000, dtype=np.uint64)
rows = np.ones((1000, 16), np.float32)
with EmbeddingCache.open(Settings(warm=Warm(capacity=1 << 20), cold=Cold(path=folder / "data"))) as cache:
    with cache.importing("kept", {"name": "kept", "dim": 16}) as load:
        load.write(ids, rows)
    ballast = folder / "ballast"
    with ballast.open("wb", 0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    for call in (lambda: cache.create_table({"name": "new", "dim": 4}), lambda: cache.drop_table("kept")):
        try:
            call()
        except StorageFull:
            pass
        else:
            raise SystemExit("the disk was not full")
    assert (cache.lookup({"kept": ids})["kept"].rows == 1).all()
    ballast.unlink()
    began = time.monotonic()
    while True:
        try:
            cache.create_table({"name": "new", "dim": 4})
            break
        except EmbcacheError as error:
            if time.monotonic() - began > 60:
                raise
            time.sleep(0.2)
    print("writes again after", round(time.monotonic() - began, 1), "s")
    assert sorted(cache.tables()) == ["kept", "new"], cache.tables()
    assert (cache.lookup({"kept": ids})["kept"].rows == 1).all()
print("fine")
"""


FULL_OF_UPDATES = """
import sys
import time
from pathlib import Path
import numpy as np
from embcache import EmbeddingCache
from embcache.config import Cold, Settings, Warm
from embcache.errors import EmbcacheError, StorageFull
from embcache.updatecalls import Change
folder = Path(sys.argv[1])
ids = np.arange(2000, dtype=np.uint64)
ones = np.ones((2000, 16), np.float32).view(np.uint8)
with EmbeddingCache.open(Settings(warm=Warm(capacity=4 << 20), cold=Cold(path=folder / "data"))) as cache:
    cache.create_table({"name": "item", "dim": 16})
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(40 << 20))
    epoch = cache.open_producer("p").epoch
    seq = refused = 0
    began = time.monotonic()
    while seq < 60:
        try:
            pushed = cache.update("p", epoch, seq + 1, [Change("item", "add", ids, ones)])
        except EmbcacheError as error:
            if isinstance(error, StorageFull) and not refused:
                refused = seq
                cache.lookup({"item": ids})
                ballast.unlink()
            assert time.monotonic() - began < 90, error
            time.sleep(0.1)
        else:
            seq += 1
    assert refused, "the disk was not full"
    while cache.position < pushed.position:
        time.sleep(0.05)
        assert time.monotonic() - began < 90
        cache.attached()
    assert (cache.lookup({"item": ids})["item"].rows == 60).all()
print("fine")
"""


@pytest.mark.parametrize("script", [FULL_AND_FREED, FULL_OF_UPDATES], ids=["tables", "updates"])
def test_it_writes_again_by_itself(tmp_path: Path, script: str) -> None:
    mount = f"mount -t tmpfs -o size=48m none {tmp_path} && exec {sys.executable} -c '{script}' {tmp_path}"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no file system of its own here: {done.stderr.strip()}")
    assert done.stdout.rstrip().endswith("fine"), done.stderr
