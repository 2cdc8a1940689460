"""Traces out of files of all kinds: the same ids, the same hash, and errors that say what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtest.datasets import DataError
from loadtest.load import traces
from loadtest.load.traces import TraceFiles, read_trace

IDS = np.array([5, 2**64 - 1, 0, 5, 2**63, 17, 3], np.uint64)
LENGTHS = np.array([3, 1, 3])


def read(tmp_path: Path, path: Path) -> TraceFiles:
    folder = tmp_path / f"read-{path.name}"
    folder.mkdir()
    return read_trace(path, folder)


def test_all_kinds_of_files_are_one_trace(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IDS)
    np.savez(tmp_path / "b.npz", ids=IDS)
    (tmp_path / "c.txt").write_text("# of a day\n" + "\n".join(map(str, IDS.tolist())) + "\n\n")
    read_all = [read(tmp_path, tmp_path / name) for name in ("a.npy", "b.npz", "c.txt")]
    for trace in read_all:
        ids, starts = trace.mapped()
        np.testing.assert_array_equal(ids, IDS)
        assert (starts, trace.lookups, trace.count) == (None, None, 7)
    assert len({trace.sha256 for trace in read_all}) == 1


def test_lookups_that_the_file_has_are_kept(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ids=IDS, lengths=LENGTHS)
    (tmp_path / "b.csv").write_text("5, 18446744073709551615,0\n5\n9223372036854775808 17 3\n")
    for name in ("a.npz", "b.csv"):
        trace = read(tmp_path, tmp_path / name)
        ids, starts = trace.mapped()
        np.testing.assert_array_equal(ids, IDS)
        assert starts is not None
        assert (starts.tolist(), trace.lookups) == ([0, 3, 4, 7], 3)


def test_long_files_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "_CHUNK", 3)
    monkeypatch.setattr(traces, "_LINES", 2)
    np.save(tmp_path / "a.npy", IDS)
    (tmp_path / "c.txt").write_text("1 2\n3\n\n4 5 6\n7\n8")
    np.testing.assert_array_equal(read(tmp_path, tmp_path / "a.npy").mapped()[0], IDS)
    ids, starts = read(tmp_path, tmp_path / "c.txt").mapped()
    assert starts is not None
    assert (ids.tolist(), starts.tolist()) == ([1, 2, 3, 4, 5, 6, 7, 8], [0, 2, 3, 6, 7, 8])


def test_other_lookups_have_another_hash(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ids=IDS, lengths=LENGTHS)
    np.savez(tmp_path / "b.npz", ids=IDS, lengths=np.array([1, 3, 3]))
    np.savez(tmp_path / "c.npz", ids=IDS[::-1], lengths=LENGTHS)
    assert len({read(tmp_path, tmp_path / name).sha256 for name in ("a.npz", "b.npz", "c.npz")}) == 3


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.txt", "1\n-2\n", "'-2' is no id: ids are integers from 0 to 2\\^64 - 1"),
        ("a.txt", "1\n18446744073709551616\n", "'18446744073709551616' is no id"),
        ("a.txt", "time,key\n1,2\n", "'time' is no id"),
        ("a.txt", "\n# nothing\n", "holds no ids"),
        ("a.bin", "\xff\x00\x01", "neither .npy nor .npz by its name, and no text of ids"),
        ("a.npy", "no array", "not a NumPy file that can be read"),
        ("a.npz", "no archive", "not a NumPy file that can be read"),
    ],
)
def test_what_is_no_trace_is_said(tmp_path: Path, name: str, content: str, what: str) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=f"{name}: .*{what}|{name}: {what}"):
        read(tmp_path, tmp_path / name)


def test_arrays_that_are_no_trace_are_said(tmp_path: Path) -> None:
    np.save(tmp_path / "floats.npy", np.ones(3))
    np.save(tmp_path / "rows.npy", np.ones((3, 2), np.int64))
    np.save(tmp_path / "below.npy", np.array([3, -1]))
    np.savez(tmp_path / "other.npz", keys=IDS)
    np.savez(tmp_path / "short.npz", ids=IDS, lengths=LENGTHS[:2])
    for name, what in {
        "floats.npy": "1-D array of integers, not float64",
        "rows.npy": "1-D array of integers, not int64",
        "below.npy": "has -1; they are integers from 0 on",
        "other.npz": "has no array `ids`, but keys",
        "short.npz": "`lengths` sum to 4, but there are 7 ids",
        "gone.npy": "no such file",
    }.items():
        with pytest.raises(DataError, match=what):
            read(tmp_path, tmp_path / name)
