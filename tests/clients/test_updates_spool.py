"""The spool on real files: cut at every byte, damaged at every byte, full, dropped, and opened twice."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import xxhash

from embcache_client.spool import MAGIC, Spool, SpoolDamaged, SpoolFull, SpoolLocked

HEAD = 32
BODIES = {7: b"first", 8: b"", 9: b"the third one", 10: b"\0" * 9}


def fill(folder: Path, bodies: dict[int, bytes] = BODIES, **options: Any) -> list[Path]:
    with Spool(folder, **options) as spool:
        for seq, body in bodies.items():
            spool.append(seq, body)
    return sorted(folder.glob("*.spool"))


def kept(folder: Path, **options: Any) -> dict[int, bytes]:
    with Spool(folder, **options) as spool:
        return dict(spool)


def ends(bodies: dict[int, bytes]) -> list[int]:
    """The offset behind each batch in a file that holds them all."""
    sizes = [HEAD + len(body) for body in bodies.values()]
    return [len(MAGIC) + sum(sizes[: at + 1]) for at in range(len(sizes))]


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("file_bytes", [1, 60, 1 << 20])
def test_what_was_appended_is_there_after_opening_again(tmp_path: Path, file_bytes: int, sync: bool) -> None:
    files = fill(tmp_path, file_bytes=file_bytes, sync=sync)
    assert len(files) == {1: 4, 60: 2, 1 << 20: 1}[file_bytes]
    with Spool(tmp_path) as spool:
        assert list(spool) == list(BODIES.items())
        assert (spool.first_seq, spool.last_seq, len(spool), spool.cut_bytes) == (7, 10, 4, 0)
        assert spool.byte_count == sum(file.stat().st_size for file in files)
        spool.append(11, b"more")
        assert spool.read(11) == b"more"
    assert kept(tmp_path) == BODIES | {11: b"more"}


def test_the_bytes_of_a_file(tmp_path: Path) -> None:
    """They stay readable to later versions."""
    (file,) = fill(tmp_path, {7: b"first"})
    assert file.name == "00000000000000000007.spool"
    data = file.read_bytes()
    assert data[:24] == MAGIC + (7).to_bytes(8, "little") + (5).to_bytes(8, "little")
    assert data[24:32].hex() == xxhash.xxh3_64_intdigest(b"first").to_bytes(8, "little").hex()
    assert data[32:40].hex() == xxhash.xxh3_64_intdigest(data[8:32]).to_bytes(8, "little").hex()
    assert data[40:] == b"first"


def test_an_empty_spool(tmp_path: Path) -> None:
    with Spool(tmp_path / "a" / "b") as spool:
        assert (list(spool), spool.first_seq, spool.last_seq, len(spool), spool.byte_count) == ([], None, None, 0, 0)
        with pytest.raises(KeyError):
            spool.read(1)


@pytest.mark.parametrize("file_bytes", [60, 1 << 20])
def test_a_last_file_torn_at_each_byte(tmp_path: Path, file_bytes: int) -> None:
    """The batches that are whole stay, the torn one goes, and the next can be appended."""
    whole = tmp_path / "whole"
    *earlier, last = fill(whole, file_bytes=file_bytes)
    first = int(last.stem)
    before = {seq: body for seq, body in BODIES.items() if seq < first}
    inside = {seq: body for seq, body in BODIES.items() if seq >= first}
    assert bool(before) == bool(earlier)
    data = last.read_bytes()
    for length in range(len(data)):
        folder = tmp_path / str(length)
        shutil.copytree(whole, folder)
        os.truncate(folder / last.name, length)
        left = before | {
            seq: body for (seq, body), end in zip(inside.items(), ends(inside), strict=True) if end <= length
        }
        with Spool(folder) as spool:
            assert dict(spool) == left
            if left:
                assert spool.byte_count == sum(file.stat().st_size for file in folder.glob("*.spool"))
            spool.append(max(left, default=20) + 1, b"next")
        assert kept(folder) == left | {max(left, default=20) + 1: b"next"}


def test_zeros_behind_the_last_batch_are_cut_off(tmp_path: Path) -> None:
    (file,) = fill(tmp_path)
    size = file.stat().st_size
    os.truncate(file, size + 100)
    with Spool(tmp_path) as spool:
        assert (dict(spool), spool.cut_bytes) == (BODIES, 100)
    assert file.stat().st_size == size


def test_damage_at_each_byte(tmp_path: Path) -> None:
    """Raises with the file's name; only the last batch's body may be taken for a torn one."""
    (file,) = fill(tmp_path)
    data = file.read_bytes()
    *_, before_last, _ = ends(BODIES)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x40
        file.write_bytes(damaged)
        if at >= before_last + HEAD:
            assert kept(tmp_path) == {seq: body for seq, body in BODIES.items() if seq < 10}
        else:
            with pytest.raises(SpoolDamaged, match=file.name):
                Spool(tmp_path)
            assert file.read_bytes() == damaged  # nothing is cut off what people may want to look at


def test_an_earlier_file_torn_at_each_byte(tmp_path: Path) -> None:
    first, *_ = fill(tmp_path, file_bytes=60)
    data = first.read_bytes()
    for length in range(len(data)):
        first.write_bytes(data[:length])
        with pytest.raises(SpoolDamaged, match=first.name):
            Spool(tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    files = fill(tmp_path, file_bytes=1)
    files[1].unlink()
    with pytest.raises(SpoolDamaged, match=files[2].name):
        Spool(tmp_path)


def test_a_file_of_another_name(tmp_path: Path) -> None:
    (file,) = fill(tmp_path)
    other = file.rename(file.with_name("00000000000000000008.spool"))
    with pytest.raises(SpoolDamaged, match=other.name):
        Spool(tmp_path)
    other.rename(file.with_name("x.spool"))
    with pytest.raises(SpoolDamaged, match=r"x\.spool"):
        Spool(tmp_path)


def test_damage_while_it_is_open(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.append(1, b"body")
        (file,) = tmp_path.glob("*.spool")
        file.write_bytes(file.read_bytes()[:-1] + b"?")
        with pytest.raises(SpoolDamaged, match=file.name):
            spool.read(1)


@pytest.mark.parametrize("file_bytes", [1, 60, 1 << 20])
@pytest.mark.parametrize("through", range(5, 13))
def test_dropping(tmp_path: Path, file_bytes: int, through: int) -> None:
    fill(tmp_path, file_bytes=file_bytes)
    left = {seq: body for seq, body in BODIES.items() if seq > through}
    with Spool(tmp_path, file_bytes=file_bytes) as spool:
        spool.drop_through(through)
        assert dict(spool) == left
        assert (spool.first_seq, len(spool)) == (min(left, default=None), len(left))
        for seq in BODIES.keys() - left.keys():
            with pytest.raises(KeyError):
                spool.read(seq)
        files = sorted(tmp_path.glob("*.spool"))
        assert spool.byte_count == sum(file.stat().st_size for file in files)
        assert bool(files) == bool(left)
        seq = spool.last_seq + 1 if spool.last_seq else 3  # an empty one starts anywhere
        spool.append(seq, b"next")
        assert dict(spool) == left | {seq: b"next"}
    again = kept(tmp_path)
    assert again.items() >= (left | {seq: b"next"}).items()
    assert again.items() <= (BODIES | {seq: b"next"}).items()


def test_dropping_and_appending_while_it_is_read(tmp_path: Path) -> None:
    fill(tmp_path, file_bytes=1)
    with Spool(tmp_path) as spool:
        seen = []
        for seq, _ in spool:
            seen.append(seq)
            spool.drop_through(8 if seq == 7 else seq)
            if seq == 9:
                spool.append(11, b"more")
        assert seen == [7, 9, 10, 11]


def test_it_takes_no_more_than_it_may(tmp_path: Path) -> None:
    limit = len(MAGIC) + 2 * (HEAD + 10)
    with Spool(tmp_path, max_bytes=limit) as spool:
        spool.append(1, bytes(10))
        with pytest.raises(SpoolFull, match=str(limit)):
            spool.append(2, bytes(11))
        spool.append(2, bytes(10))
        with pytest.raises(SpoolFull):
            spool.append(3, b"")
        assert (len(spool), spool.byte_count) == (2, limit)
        spool.drop_through(2)
        spool.append(3, bytes(10))
    assert kept(tmp_path) == {3: bytes(10)}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, SpoolFull), (errno.EIO, OSError)])
def test_a_disk_that_takes_half_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool, number: int, error: type[Exception]
) -> None:
    write = os.pwrite

    def half(fd: int, data: Any, at: int) -> int:
        if len(data) < 10:
            raise OSError(number, "no")
        return write(fd, data[: len(data) // 2], at)

    with Spool(tmp_path) as spool:
        before = {} if first else {1: b"one"}
        for seq, body in before.items():
            spool.append(seq, body)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", half)
            with pytest.raises(error):
                spool.append(2, b"two" * 50)
        assert dict(spool) == before
        assert spool.byte_count == sum(file.stat().st_size for file in tmp_path.glob("*.spool"))
        spool.append(2, b"two")
        assert dict(spool) == before | {2: b"two"}
    assert kept(tmp_path) == before | {2: b"two"}


@pytest.mark.parametrize("seq", [0, -1, 1, 2, 4, 2**64])
def test_batches_come_in_order(tmp_path: Path, seq: int) -> None:
    with Spool(tmp_path) as spool:
        spool.append(2, b"")
        with pytest.raises(ValueError, match=f"batch {seq} does not follow batch 2"):
            spool.append(seq, b"")


def test_two_cannot_have_it(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        with pytest.raises(SpoolLocked, match=tmp_path.name):
            Spool(tmp_path)
        code = f"from embcache_client.spool import Spool; Spool({str(tmp_path)!r})"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "SpoolLocked" in other.stderr
        spool.append(1, b"x")
    assert kept(tmp_path) == {1: b"x"}


def test_a_process_that_is_killed_keeps_what_it_appended(tmp_path: Path) -> None:
    code = (
        "import os, signal; from embcache_client.spool import Spool\n"
        f"spool = Spool({str(tmp_path)!r})\n"
        "for seq in range(1, 51): spool.append(seq, b'%d' % seq)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert kept(tmp_path) == {seq: b"%d" % seq for seq in range(1, 51)}


def test_a_closed_spool_takes_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.close()
    spool.close()
    with pytest.raises(ValueError, match="closed"):
        spool.append(1, b"")
    with pytest.raises(ValueError, match="closed"):
        spool.drop_through(1)
