"""`embcache versions`, `stage`, `switch`, `drop-version`, and `import --version`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.commands import Run


def test_versions_are_staged_filled_switched_and_dropped(
    run: Run, there: list[object], tmp_path: Path, rows: NDArray[np.float32]
) -> None:
    np.save(tmp_path / "one.npy", rows)
    np.save(tmp_path / "two.npy", rows + 1)

    def first(version: str) -> str:
        """What row 0 begins with, once `versions` says that this one is live."""
        listed = [line.split() for line in run("versions", "versed", *there).out.splitlines()[1:]]
        assert [line[0] for line in listed if line[1] == "live"] == [version]
        return run("lookup", "versed", 0, *there).out.splitlines()[1].split()[2]

    assert run("import", "versed", tmp_path / "one.npy", *there).code == 0
    told = run("import", "versed", tmp_path / "two.npy", "--version", "two", "--no-switch", *there)
    assert "imported into version two" in told.out
    assert first("1") == f"{rows[0, 0]:.6g}"
    told = run("switch", "versed=two", *there)
    assert told.out.startswith("versed: two is live")
    assert first("two") == f"{rows[0, 0] + 1:.6g}"
    assert run("switch", "versed=two", *there).out == "versed: two is live already\n"
    assert run("switch", "versed=1", "--warm", 0, "--no-follow", *there).out == "versed: 1 is live\n"
    assert first("1") == f"{rows[0, 0]:.6g}"
    staged = run("stage", "versed", "half", "--dtype", "f16", "--default", '{"uniform": 0.5}', "--follow", *there)
    assert staged.out == "versed: half is staged, and follows\n"
    told = run("import", "versed", tmp_path / "two.npy", "--version", "half", *there)
    assert told.out.splitlines()[1].startswith("versed: half is live")
    listed = run("versions", "versed", *there).out.splitlines()
    assert [line.split()[:5] for line in listed] == [
        ["version", "state", "follows", "dtype", "rows"],
        ["half", "live", "yes", "f16", "500"],
        ["two", "retired", "no", "f32", "500"],
        ["1", "retired", "no", "f32", "500"],
    ]
    told = run("import", "versed", tmp_path / "one.npy", "--version", "brief", "--dtype", "bf16", "--no-switch", *there)
    assert told.code == 0
    assert ["brief", "staged", "no", "bf16"] in [
        line.split()[:4] for line in run("versions", "versed", *there).out.splitlines()
    ]
    copied = run("stage", "versed", "again", "--source", "two", "--dtype", "f32", *there)
    assert copied.out == "versed: again is staged with the rows of two\n"
    listed = run("versions", "versed", *there).out.splitlines()
    assert ["again", "staged", "no", "f32", "500"] in [line.split()[:5] for line in listed]
    for version in ("two", "1", "brief", "again"):
        assert run("drop-version", "versed", version, "--yes", *there).out == f"versed: version {version} is dropped\n"
    assert run("drop", "versed", "--yes", *there).code == 0


def test_versions_of_a_stopped_service(
    run: Run, stopped: list[object], rows: NDArray[np.float32], tmp_path: Path
) -> None:
    np.save(tmp_path / "one.npy", rows)
    for version in ("one", "two"):
        assert run("import", "still", tmp_path / "one.npy", "--version", version, *stopped).code == 0
    assert run("versions", "still", *stopped).out.splitlines()[1].split()[:5] == ["two", "live", "no", "f32", "500"]
    assert run("switch", "still=one", *stopped).out == "still: one is live\n"
    assert run("drop-version", "still", "two", "--yes", *stopped).out == "still: version two is dropped\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["versions", "nowhere"], 1, "no table 'nowhere'"),
        (["stage", "empty", "Next"], 1, "is no name of a version"),
        (["stage", "empty", "1"], 1, "has a version '1', which is live"),
        (["stage", "empty", "next", "--dtype", "f15"], 2, "'f15' is none of"),
        (["stage", "empty", "next", "--default", "ones"], 2, "neither zeros nor JSON"),
        (["switch", "empty"], 2, "'empty' is not TABLE=VERSION"),
        (["switch", "empty=1", "empty=2"], 2, "empty is there twice"),
        (["switch", "empty=next"], 1, "no version 'next'; the nearest is 1"),
        (["drop-version", "empty", "1", "--yes"], 1, "'1' of table 'empty' is live"),
        (["drop-version", "empty", "2", "--yes"], 1, "no version '2'"),
        (["import", "empty", "x.npy", "--no-switch"], 2, "needs --version"),
    ],
)
def test_what_is_wrong_with_a_version_is_said(
    run: Run, there: list[object], arguments: list[str], code: int, words: str
) -> None:
    told = run(*arguments, *there)
    assert told.code == code
    assert words in re.sub(r"[\s│]+", " ", told.err)
