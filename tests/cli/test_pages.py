"""What README and docs say of commands is so: they are run in their order."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from embcache_storage.files import FORMATS
from tests.commands import Run
from tests.service.running import Running

DOCS = Path(__file__).parents[2]


def without(service: Running, table: str) -> None:
    """Drop a table that another page has made."""
    with service.client() as client:
        if any(each["spec"]["name"] == table for each in client.tables()):
            client.drop_table(table)


def test_the_readme_is_true(service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python and its commands, in their order, against a service as it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    text = (DOCS / "README.md").read_text().replace("http://127.0.0.1:7070", service.url)
    text = text.replace('attach("data")', f"attach({str(service.folder / 'data')!r})")
    without(service, "item")
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```|((?:^    (?:embcache|curl) [^\n]*\n)+)", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 6
    for code, commands in blocks:
        exec(code, names)
        for command in commands.splitlines():
            if command.split()[1] != "serve" and shutil.which(command.split()[0]):
                done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
                assert done.returncode == 0, (command, done.stderr)
                assert not done.stdout.startswith('{"error"'), (command, done.stdout)
    result = names["result"]
    assert result["item"].found.tolist() == [True, True, False]  # type: ignore[index]


def test_the_page_on_files_is_true(service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python and its commands, in their order; those with PyTorch files where PyTorch is installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    text = (DOCS / "docs/files.md").read_text().replace("http://127.0.0.1:7070", service.url)
    without(service, "item")
    python = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert python
    exec(python[1], {})
    has_torch = find_spec("torch") is not None
    if has_torch:
        torch = import_module("torch")
        torch.save({"state_dict": {"item_embedding.weight": torch.ones(5, 8)}, "epoch": 1}, "model.pt")
    commands = re.findall(r"^    (embcache [^\n]*)$", text, re.MULTILINE)
    assert len(commands) == 8
    for command in commands:
        if has_torch or ".pt " not in command:
            done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (command, done.stderr)
    assert sorted(path.name for path in (tmp_path / "copy.model").iterdir()) == ["emb_vector", "key"]


def test_the_page_on_tables_is_true(
    run: Run, service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Python and its commands, in their order; and its options are there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBCACHE_URL", service.url)
    text = (DOCS / "docs/tables.md").read_text().replace("http://127.0.0.1:7070", service.url)
    text = re.sub(r"\bitem\b", "life", text)  # a name that no test has used, since versions are numbered by name
    blocks = re.findall(r"```python\n(.*?)```|^    (embcache [^\n]*)$", text, re.DOTALL | re.MULTILINE)
    assert sum(bool(command) for _, command in blocks) == 15
    names: dict[str, Any] = {}
    since = ""
    with contextlib.ExitStack() as stack:
        for code, command in blocks:
            exec(code, names)
            if "client" in names and not command:
                stack.callback(names["client"].close)
            if command:
                done = run(*shlex.split(re.sub(r"--since \d+", since, command))[1:])
                assert done.code == 0, (command, done.err)
                told = re.search(r"--since \d+", done.out)
                since = told[0] if told else since
    commands = ("stage", "switch", "import", "drop-version", "export", "apply")
    helps = " ".join(run(command, "--help").out for command in commands)
    assert set(re.findall(r"--[a-z-]+", text)) <= set(re.findall(r"--[a-z-]+", helps))


def test_the_page_on_files_names_every_format() -> None:
    text = (DOCS / "docs/files.md").read_text()
    table = text.split("## Formats")[1].split("\n\n")[1]
    said = {name for line in table.splitlines()[2:] for name in re.findall(r"`([^`]*)`", line.split("|")[1])}
    assert said == {format.name for format in FORMATS}
    for suffix in (suffix for format in FORMATS for suffix in format.suffixes if format.sink):
        assert suffix in table


def test_operations_names_every_metric(service: Running) -> None:
    with urllib.request.urlopen(f"{service.url}/metrics") as answer:
        there = set(re.findall(r"^# TYPE (\S+)", answer.read().decode(), re.MULTILINE))
    said = (DOCS / "docs/operations.md").read_text()
    assert there == set(re.findall(r"`(embcache_[a-z_]+)`", said))
