"""Pairs become records, records a report, and a report JSON, a table and a page."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console
from typer.testing import CliRunner

from loadtest.bars import bars, share_of_goal
from loadtest.cli import app
from loadtest.compare import compare
from loadtest.pairs import registry
from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.registry import ALL, selected
from loadtest.records import Goal, Report
from loadtest.report import markdown, print_report
from loadtest.slices import Figures
from loadtest.tables import figure

ROOT = Path(__file__).parents[2]


def pair(name: str, goal: Goal, outcome: Outcome, peer: str | None = "peer") -> Pair:
    return Pair(name, f"What {name} measures.", "M ids/s", peer, goal, lambda rounds: outcome)


FAST = pair("fast", Goal(">=", 10), Outcome(Figures((30.0, 20.0, 10.0)), Figures((1.0, 2.0, 3.0))))
SLOW = pair("slow", Goal("<=", 1.5), Outcome(Figures((4.0,)), Figures((2.0,)), note="a|b"))
LONE = pair("lone", Goal("<=", 5), Outcome(Figures((4.5,))), peer=None)
GONE = pair("gone", Goal(">=", 1), Outcome(Figures((4.5,)), absent="no such server"))


@pytest.fixture
def report() -> Report:
    return compare([FAST, SLOW, LONE, GONE], 3, Console(file=StringIO()), ["compare", "--only", "a b"])


def test_records_hold_medians_ratio_and_verdict(report: Report) -> None:
    fast, slow, lone, gone = report.records
    assert (fast.ours, fast.theirs, fast.ratio, fast.target, fast.reached) == (20.0, 2.0, 10.0, ">= 10", True)
    assert fast.ours_quartiles == (15.0, 25.0)
    assert (slow.ratio, slow.reached) == (2.0, False)
    assert (lone.peer, lone.ratio, lone.reached) == (None, None, True)
    assert (gone.peer, gone.theirs, gone.ratio, gone.reached) == ("peer", None, None, None)
    assert gone.note == "peer absent: no such server"


def test_report_knows_its_command_machine_and_versions(report: Report) -> None:
    assert report.command == "python -m loadtest compare --only 'a b'"
    assert {"processor", "cores", "memory", "python", "date"} <= set(report.machine)
    assert report.versions["numpy"][0].isdigit()


def test_each_pair_is_named_as_it_begins(capsys: pytest.CaptureFixture[str]) -> None:
    compare([FAST, LONE], 3, Console(file=StringIO()))
    assert capsys.readouterr().err.splitlines() == ["fast ...", "lone ..."]


INTERRUPTED = """
import sys, time
from loadtest.cli import app
from loadtest.pairs import registry
from tests.loadtest.test_report import FAST, pair

def endless(rounds):
    try:
        print("begins", flush=True)
        time.sleep(1000)
    finally:
        print("and leaves nothing behind", flush=True)

endless = type(FAST)("endless", "What never ends.", "s", None, FAST.goal, endless)
registry.ALL = (FAST, endless)
app()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("only", [[], ["--only", "endless"]], ids=["in the second", "in the first"])
def test_an_interrupted_run_tells_what_it_has_measured(number: signal.Signals, only: list[str], tmp_path: Path) -> None:
    records = tmp_path / "records.json"
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, "compare", "--json", str(records), *only],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        process.send_signal(number)
        said = process.stdout.read().splitlines()
        assert process.wait(60) == 130
    assert said[0] == "and leaves nothing behind"
    shown = [" ".join(line.split()) for line in said]
    told = "no pair was measured before" if only else "this is what was measured before"
    assert f"NOT COMPLETE: it was interrupted in endless; {told}." in shown
    assert ("fast M ids/s 20 peer 2 10 >= 10 yes" in shown) is not bool(only)
    report = Report.read(records)
    assert (report.interrupted, [record.name for record in report.records]) == ("endless", [] if only else ["fast"])


def test_without_the_dev_extra_it_says_what_it_needs() -> None:
    code = "import runpy, sys; sys.modules['hdrh'] = None; runpy.run_module('loadtest', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"loadtest: no module hdrh\S*: it needs the dev extra: make setup\n", done.stderr)


def test_report_survives_the_file(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report.write(path)
    again = Report.read(path)
    again.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == path.read_text()
    assert markdown(again) == markdown(report)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"records": [{"name": "x"}]}'])
def test_another_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json is not a file that"):
        Report.read(path)


def test_table_shows_every_pair_and_remark(report: Report) -> None:
    out = StringIO()
    print_report(report, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    fast = next(line for line in lines if "fast" in line)
    assert " ".join(fast.split()) == "fast M ids/s 20 peer 2 10 >= 10 yes"
    assert any("slow" in line and "NO" in line for line in lines)
    assert any("gone" in line and "peer (absent)" in line for line in lines)
    assert lines[-1] == "gone: peer absent: no such server"


def test_page_has_table_command_and_machine(report: Report) -> None:
    page = markdown(report)
    assert "| fast | M ids/s | 20 | peer | 2 | 10 | >= 10 | yes |" in page
    assert "| gone | M ids/s | 4.5 | peer (absent) | - | - | >= 1 | - |" in page
    assert "    python -m loadtest compare --only 'a b'" in page
    assert "- `gone`: What gone measures. Peer absent: no such server." in page
    assert f"| python | {report.machine['python']} |" in page


def test_docs_command_writes_the_page_and_its_picture(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, page = tmp_path / "report.json", tmp_path / "page.md"
    report.write(source)
    done = CliRunner().invoke(app, ["docs", str(source), "--out", str(page)])
    assert done.exit_code == 2
    assert "it lacks" in done.output  # most of the pairs
    monkeypatch.setattr(registry, "ALL", (FAST, SLOW, LONE, GONE))
    done = CliRunner().invoke(app, ["docs", str(source), "--out", str(page)])
    assert done.exit_code == 0, done.output
    assert page.read_text() == markdown(report, picture="page.svg")
    assert "(page.svg)" in page.read_text()
    assert (tmp_path / "page.svg").read_text() == bars(report.records)


def test_bars_reach_as_far_as_their_records(report: Report) -> None:
    fast, slow, lone, gone = report.records
    assert (share_of_goal(fast), share_of_goal(slow), share_of_goal(gone)) == (1.0, 0.75, None)
    assert share_of_goal(lone) == pytest.approx(5 / 4.5)
    picture = ElementTree.fromstring(bars([replace(fast, name="a<b", ratio=40.0), slow, gone]))
    drawn = [each for each in picture if each.tag.endswith("rect")]
    goal = float(next(each for each in picture if each.text == "goal").attrib["x"])
    assert [each.attrib["class"] for each in drawn] == ["yes", "no"]
    assert float(drawn[0].attrib["x"]) == pytest.approx(goal, abs=1)  # to the right of the goal, and to its left
    assert float(drawn[1].attrib["x"]) + float(drawn[1].attrib["width"]) == pytest.approx(goal, abs=1)
    assert "a<b" in [each.text for each in picture]
    assert "gone" not in [each.text for each in picture]


def test_unknown_pair_is_named_with_those_there_are() -> None:
    done = CliRunner().invoke(app, ["compare", "--only", "warm-lookup", "--only", "nope"])
    assert done.exit_code == 2
    assert "no pair is called nope" in done.output
    assert "http-small" in done.output


def test_selection_keeps_the_order_of_all() -> None:
    names = [chosen.name for chosen in selected(["memory", "warm-lookup"])]
    assert names == ["warm-lookup", "memory"]
    assert len(selected([])) == len(ALL)
    assert len({one.name for one in ALL}) == len(ALL)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.012345, "0.0123"), (12.34, "12.3"), (1234.5, "1,234"), (0.0, "0")]
)
def test_figures_have_three_digits(value: float | None, text: str) -> None:
    assert figure(value) == text
