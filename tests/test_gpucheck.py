"""`make gpu-check` goes through all of its stages on the emulated device, and says what became of each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest.gpu import BEGIN, END, FIGURES, measured, render, section
from tests.gpucheck import __main__ as command
from tests.gpucheck.runner import FILE, Run, run_stages
from tests.gpucheck.stages import LIMIT_S, NAMES, STAGES, Stage

ROOT = Path(__file__).parent.parent
WITH_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with")
NOT_THERE = (
    "pydantic",
    "rocksdict",
    "fastapi",
    "starlette",
    "uvicorn",
    "rich",
    "typer",
    "prometheus_client",
    "hdrh",
    "httptools",
)

Lines = list[dict[str, Any]]


def lines_of(out: Path) -> Lines:
    return [json.loads(line) for line in (out / FILE).read_text().splitlines()]


def outcomes(lines: Lines) -> list[tuple[str, str]]:
    return [(line["stage"], line["outcome"]) for line in lines if "outcome" in line]


def check(*words: str, out: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "tests.gpucheck", "--device", "emulated", "--small", "--out", str(out), *words]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Lines:
    """The lines of a run of all stages."""
    out = tmp_path_factory.mktemp("everything")
    done = check("--commit", "abc", out=out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")] == lines_of(out)
    return lines_of(out)


@WITH_COMPILER
def test_every_stage_ends_well_and_is_written_down(everything: Lines) -> None:
    assert [stage for stage, _ in outcomes(everything)] == [stage.name for stage in STAGES]
    skipped = {stage: outcome for stage, outcome in outcomes(everything) if outcome != "passed"}
    assert skipped.keys() == {"sanitizer", "ncu"}
    assert all(outcome.startswith("skipped: ") for outcome in skipped.values())
    assert {line["commit"] for line in everything} == {"abc"}
    assert {line["device"] for line in everything} <= {"emulated", "emulated on the CPU (plain)"}


@WITH_COMPILER
def test_every_figure_is_measured_by_one_stage(everything: Lines) -> None:
    assert sorted(line["figure"] for line in everything if "figure" in line) == sorted(FIGURES)
    for line in everything:
        if "figure" in line:
            assert line["value"] > 0
            assert (line["target"], line["unit"]) == (FIGURES[line["figure"]].target, FIGURES[line["figure"]].unit)


@WITH_COMPILER
def test_the_stress_sees_rows_and_catches_a_writer_that_waits_for_nobody(everything: Lines) -> None:
    by_writer = {line["writer"]: line for line in everything if "writer" in line}
    for writer in ("from the host", "from the device"):
        assert by_writer[writer]["seen"] > 0
        assert by_writer[writer]["broken"] == by_writer[writer]["older"] == 0
    assert by_writer["without the wait"]["broken"] + by_writer["without the wait"]["older"] > 0


@WITH_COMPILER
def test_only_the_stages_asked_for_are_run(tmp_path: Path) -> None:
    assert check("--only", "ncu", "--only", "sanitizer", out=tmp_path).returncode == 0
    assert [stage for stage, _ in outcomes(lines_of(tmp_path))] == ["sanitizer", "ncu"]


def test_a_stage_that_there_is_not_is_named_with_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["--only", "nope", "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert "nope" in said
    assert all(name in said for name in NAMES)


def test_all_stages_together_take_eight_minutes_at_most() -> None:
    assert LIMIT_S <= 480


# --- stages that end otherwise ------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("emulated", "abc", True, tmp_path)


def stage(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, body: str, limit_s: float = 60) -> Stage:
    """A stage of a module of its own."""
    (folder / f"stage_{name}.py").write_text(
        f"import os, time\ndef run(check):\n    yield {{'began': True}}\n    {body}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return Stage(name, f"stage_{name}", limit_s)


def test_a_stage_that_fails_is_told_and_the_others_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bodies = {
        "broken": "raise ValueError('7 rows are torn')",
        "killed": "os.abort()",
        "silent": "os._exit(1)",
        "whole": "yield {'more': 1}",
        "lacking": "from tests.gpucheck.check import Skipped; raise Skipped('no such tool')",
    }
    stages = [stage(tmp_path, monkeypatch, name, body) for name, body in bodies.items()]
    assert run_stages(run, stages, 400) == 1
    assert outcomes(lines_of(tmp_path)) == [
        ("broken", "FAILED: ValueError('7 rows are torn')"),
        ("killed", "FAILED: its process ended with SIGABRT"),
        ("silent", "FAILED: its process ended with 1"),
        ("whole", "passed"),
        ("lacking", "skipped: no such tool"),
    ]
    assert sum("began" in line for line in lines_of(tmp_path)) == len(stages)
    assert run_stages(run, stages[3:], 400) == 0
    capfd.readouterr()


def test_a_stage_over_its_limit_is_killed_with_all_that_it_started(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fifo = tmp_path / "held"
    body = f"os.system('sleep 600 > {fifo} & echo > {tmp_path}/started; sleep 600')"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    slow = stage(tmp_path, monkeypatch, "slow", body, limit_s=8)
    assert run_stages(run, [slow], 400) == 1
    os.set_blocking(held, True)
    assert os.read(held, 1) == b""  # nobody holds the other end any more
    os.close(held)
    assert (tmp_path / "started").exists()
    began, ended = lines_of(tmp_path)
    assert began["began"]
    assert ended["outcome"] == "FAILED: it took longer than 8 s, and was killed"
    capfd.readouterr()


def test_a_stage_for_which_no_time_is_left_is_told(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_stages(run, STAGES[:1], 0) == 1
    assert outcomes(lines_of(run.out)) == [("smoke", "FAILED: not run, since 0 s were over")]
    capfd.readouterr()


# --- the page -----------------------------------------------------------------------------------------------------

ABOUT = {"device": "NVIDIA H200 (device 0)", "commit": "abc123", "date": "2026-11-25", "small": False}


def written(tmp_path: Path, *lines: dict[str, Any]) -> Path:
    file = tmp_path / FILE
    file.write_text("".join(json.dumps({**ABOUT, "stage": "figures", **line}) + "\n" for line in lines))
    return file


@pytest.fixture
def page(tmp_path: Path) -> Path:
    page = tmp_path / "page.md"
    page.write_text("\n".join(["# Before", *section(), "## After", ""]))
    return page


def test_figures_of_a_file_come_into_the_page(tmp_path: Path, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older = {**measured("hits-64", 9.0), "commit": "before"}
    file = written(
        tmp_path,
        older,
        measured("hits-64", 1.0),
        measured("hits-64", 5.123),
        measured("query", 1.7),
        {"outcome": "passed"},
    )
    assert command.main(["render", str(file), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith(
        f"# Before\n{BEGIN}\nMeasured by `make gpu-check` on one NVIDIA H200 (device 0), 2026-11-25, commit abc123."
    )
    assert text.endswith(f"{END}\n## After\n")
    assert "| hits-64 | billion ids/s | 5.12 | >= 4.8 | yes |" in text
    assert "| query | x copy | 1.7 | <= 1.5 | NO |" in text
    assert "| hits-8 | billion ids/s | not measured | >= 4.5 | - |" in text
    assert text.count("not measured |") == len(FIGURES) - 2
    render(file, page)
    assert page.read_text() == text
    capsys.readouterr()


def test_stages_that_failed_are_told_on_the_page(tmp_path: Path, page: Path) -> None:
    failed = [{"stage": stage, "device": "0", "outcome": "FAILED: torn"} for stage in ("stress", "smoke")]
    render(written(tmp_path, *failed, measured("update", 3.5), {"stage": "smoke", "outcome": "passed"}), page)
    assert "Stages that failed: stress.\n" in page.read_text()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"device": "emulated on the CPU (plain)"}, "mean nothing"),
        ({"small": True}, "mean nothing"),
        ({"commit": ["not", "text"], "device": 7}, "is not a file in which"),
    ],
)
def test_what_means_nothing_stays_out_of_the_page(tmp_path: Path, page: Path, line: dict[str, Any], said: str) -> None:
    before = page.read_text()
    with pytest.raises(SystemExit, match=said):
        command.main(["render", str(written(tmp_path, {**measured("update", 3.5), **line})), "--page", str(page)])
    assert page.read_text() == before


def test_a_page_without_a_place_for_figures_is_refused(tmp_path: Path, page: Path) -> None:
    page.write_text("# Another page\n")
    with pytest.raises(SystemExit, match="has no lines"):
        command.main(["render", str(written(tmp_path, measured("update", 3.5))), "--page", str(page)])


# --- a machine that has a GPU and little else ---------------------------------------------------------------------

_IMPORT = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import embcache.gpu, tests.conftest, tests.gpucheck, tests.tiers.test_contract
for package in (embcache.gpu, tests.gpucheck):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name != "embcache.gpu.cuda":  # CuPy comes with the GPU
            importlib.import_module(module.name)
"""


@WITH_COMPILER
def test_nothing_of_the_service_is_needed() -> None:
    line = [sys.executable, "-c", _IMPORT, *NOT_THERE]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


_COMPILE = """
from embcache.gpu.cuda import _compiled
from tests.gpucheck.check import source

for text in (source(), source({"SAMPLE": 1 << 31}, blocks_an_sm=16)):
    assert len(_compiled(text, "90")) > 10_000
"""


def test_the_kernels_of_the_check_compile_for_a_gpu() -> None:
    pytest.importorskip("cupy_backends", reason="CuPy is not installed")
    line = [sys.executable, "-c", _COMPILE]  # CuPy leaves a driver that is not there half set up
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
