"""How far an import or an export is, told as lines or as a bar."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from embcache.cli.tables import opened
from embcache.cli.transfer import TableFormat, import_file
from tests.commands import Run


def test_progress_is_told_where_no_terminal_shows_it(
    run: Run, there: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "in.npz", ids=np.arange(500)[::-1], rows=np.ones((500, 2), np.float32))
    assert run("import", "spoken", tmp_path / "in.npz", *there).err == ""  # it is done too soon for that
    monkeypatch.setattr("embcache.cli.transfer.LINE_SECONDS", 0.0)
    lines = run("import", "spoken", tmp_path / "in.npz", *there).err.splitlines()
    assert lines == [f"{what}: 500 of 500 rows (100%)" for what in ("sort in.npz", "import spoken")]
    lines = run("export", "spoken", tmp_path / "out.npz", *there).err.splitlines()
    assert lines == ["export spoken: 500 of 500 rows (100%)"]


def test_progress_is_a_bar_on_a_terminal(stopped: list[object], tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", ids=np.arange(500)[::-1], rows=np.ones((500, 2), np.float32))
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120)
    with opened(Path(str(stopped[1])), None, None) as tables:
        import_file(tables, "barred", tmp_path / "in.npz", TableFormat(), None, False, console)
    assert re.search(r"sort in.npz.*100%.*500 of 500", shown.getvalue())
    assert re.search(r"import barred.*100%.*500 of 500", shown.getvalue())
