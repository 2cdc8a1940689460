"""What people see: pages that need nothing else, plots with their points where they belong, two runs side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from loadtest.cli import app
from loadtest.load.fleet import Outcome
from loadtest.load.page import comparison, page
from loadtest.load.plots import percentile_curve, run_plots
from loadtest.load.result import write_report
from loadtest.load.series import Series
from loadtest.load.sidebyside import difference, differences_in_setting
from loadtest.load.svg import Line, Plot, figure, linear, logarithmic, nines, percentiles, svg
from loadtest.load.tally import Tally
from loadtest.load.terminal import print_run, view_of
from tests.loadtest.load import made

VOID = {"meta", "circle", "path", "br"}


class Strict(HTMLParser):
    """Holds that tags are closed in order, and collects what could be fetched, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[tuple[str, str | None]] = []
        self.count: dict[str, int] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.fetched += [(name, value) for name, value in attributes if name in {"src", "href", "data", "action"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


PAGES: dict[str, Callable[[], str]] = {
    "run": lambda: page(made.run()),
    "lookups": lambda: page(made.run(made.outcome(updates=False))),
    "search": lambda: page(made.search()),
    "two runs": lambda: comparison(("a", made.run()), ("b", made.run(made.outcome(3.0), made.frame(seed=2)))),
    "two searches": lambda: comparison(("a", made.search()), ("b", made.search(900.0))),
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_whole_and_need_nothing_else(name: str) -> None:
    text = PAGES[name]()
    parsed = Strict(text.replace(" hidden", ""))
    assert parsed.fetched == []
    assert "script" not in parsed.count
    assert "url(" not in text
    assert "@import" not in text
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert parsed.count["svg"] >= 2
    assert "nan" not in re.findall(r"[a-z]+", " ".join(re.findall(r' (?:d|x|y|cx|cy)="([^"]*)"', text)))


def test_a_run_shows_all_that_it_must() -> None:
    text = PAGES["run"]()
    for plot in (
        "Offered and answered",
        "Response times by percentile",
        "Service times by percentile",
        "Response times over time: lookup",
        "Response times over time: add",
        "Where rows came from",
        "Bytes moved",
        "Until updates are visible",
    ):
        assert f"<figcaption>{plot}</figcaption>" in text
    for fact in (
        "p99.99",
        "timeout",
        made.frame().data["sha256"],
        "a processor",
        "0.1.0",
        "python -m loadtest run zipf",
    ):
        assert fact in text
    assert "Until updates are visible" not in PAGES["lookups"]()


def test_what_users_name_is_no_markup() -> None:
    evil = "<script>alert(1)</script>"
    text = page(made.run(framed=made.frame(table=evil, command=f"run {evil}")))
    assert evil not in text
    assert text.count("&lt;script&gt;") >= 2
    assert evil not in comparison((evil, made.run()), ("b", made.run()))


def points(text: str, colour: int) -> list[tuple[float, float]]:
    path = re.search(rf'<path class="line c{colour}[^"]*" d="([^"]*)"', text)
    assert path is not None
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path.group(1))]


def test_points_lie_where_their_values_say() -> None:
    xs, ys = [0.0, 2.0, 10.0], [0.0, 50.0, 100.0]
    text = svg(Plot("t", linear("s", xs), linear("v", ys), xs, [Line("a", ys, 0)]))
    (left, bottom), (middle, half), (right, top) = points(text, 0)
    assert middle == pytest.approx(left + (right - left) * 0.2, abs=0.2)
    assert half == pytest.approx((bottom + top) / 2, abs=0.2)
    ticks = dict(re.findall(r'y="([\d.]+)" text-anchor="end">(\w+)<', text))
    assert {"0", "50", "100"} <= set(ticks.values())
    for y, said in ticks.items():
        assert float(y) - 4 == pytest.approx(bottom + (top - bottom) * float(said) / 100, abs=0.2)


def test_logarithmic_axes_give_each_ten_the_same_room() -> None:
    axis = logarithmic("ms", [0.1, 1000.0])
    places = [axis.share(value) for value in (0.1, 1.0, 10.0, 100.0, 1000.0)]
    assert places == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    assert logarithmic("ms", []).share(1.0) == 0.0
    close = logarithmic("ms", [3.0, 3.1])
    assert close.low <= 3.0
    assert close.high >= 3.1


def test_percentile_axes_give_each_nine_the_same_room() -> None:
    axis = percentiles("p", 99.99)
    assert [axis.share(p) for p in (0.0, 90.0, 99.0, 99.9)] == pytest.approx([0.0, 0.25, 0.5, 0.75])
    assert [round(nines(p), 6) for p in (90.0, 99.0, 99.9)] == [1.0, 2.0, 3.0]


def test_gaps_are_left_open() -> None:
    xs = [0.0, 1.0, 2.0, 3.0]
    text = svg(Plot("t", linear("s", xs), linear("v", [5.0]), xs, [Line("a", [1.0, None, 3.0, 5.0], 0)]))
    path = re.search(r'class="line c0" d="([^"]*)"', text)
    assert path is not None
    assert re.sub(r"[\d. ]+", "", path.group(1)) == "MML"


def test_areas_stand_on_one_another() -> None:
    xs = [0.0, 1.0]
    lines = [Line("a", [1.0, 1.0], 0), Line("b", [2.0, 3.0], 1)]
    text = svg(Plot("t", linear("s", xs), linear("v", [4.0]), xs, lines, stacked=True))
    outlines = [
        [float(y) for _, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]
        for path in re.findall(r'class="area c\d" d="([^"]*)Z"', text)
    ]
    (a1, a2, zero, _), (b1, b2, on_a2, on_a1) = outlines
    assert (on_a1, on_a2) == (a1, a2)
    unit = zero - a1
    assert (zero - b1, zero - b2) == pytest.approx((3 * unit, 4 * unit), abs=0.3)


def test_legends_name_every_line() -> None:
    for plot in run_plots([("a", made.run()), ("b", made.run())]):
        text = figure(plot)
        for line in plot.lines:
            assert f">{line.name}</li>" in text


def test_percentile_curves_end_where_times_do() -> None:
    seen = made.run()["result"]["ops"]["lookup"]
    xs, ys = percentile_curve(seen["response_histogram"])
    assert nines(xs[-1]) <= math.log10(seen["offered"])
    assert list(ys) == sorted(y for y in ys if y is not None)
    at_99 = min(range(len(xs)), key=lambda place: abs(xs[place] - 99))
    assert ys[at_99] == pytest.approx(seen["response_ms"]["p99"], rel=0.05)


def test_two_runs_side_by_side() -> None:
    first, second = made.run(), made.run(made.outcome(2.0))
    rows = {name: cells for name, *cells in difference(first, second)}
    assert float(rows["lookup p99 ms"][2]) == pytest.approx(2.0, rel=0.05)
    assert float(rows["offered/s"][2]) == 1.0
    assert differences_in_setting(first, second) == []
    other = made.run(framed=made.frame(seed=2))
    hashes = "They did not ask for the same: their data's hashes differ."
    assert differences_in_setting(first, other) == [hashes, "seed differs: 1 and 2."]
    other["settings"]["rate"], other["machine"]["cores"] = 7.0, "64"
    assert "rate differs: 100 and 7." in differences_in_setting(first, other)
    assert "The machines differ: cores 2 and 64." in differences_in_setting(first, other)


def test_all_that_was_asked_and_of_whom_is_set_side_by_side() -> None:
    first, second = made.run(), made.run()
    asked, target = second["settings"]["workload"], second["target"]
    asked |= {"kind": "latest", "alpha": 0.5, "ids": 16, "dtype": "q8", "mix": {"lookup": 0.75, "add": 0.25}}
    asked["tables"] = [{"name": "item", "dim": 8, "rows": 2_000, "hot": 1}]
    asked["tables"] += [{"name": f"t{number}", "dim": 4, "rows": 10, "hot": 3} for number in range(5)]
    second["settings"] |= {"processes": 3, "deadline_ms": 20}
    target |= {"url": "http://10.0.0.5:7070", "served": False, "version": "0.2.0"}
    second["versions"] = {"embcache": "0.1.0", "numpy": "2.4.0"}
    assert differences_in_setting(first, second) == [
        "workload differs: zipf and latest.",
        "alpha differs: 0.99 and 0.5.",
        "ids differs: 256 and 16.",
        "mix differs: lookup 1 and lookup 0.75, add 0.25.",
        "dtype differs: f32 and q8.",
        "table item differs: 1,000 rows of 8, 1 a sample and 2,000 rows of 8, 1 a sample.",
        "table t0 differs: none and 10 rows of 4, 3 a sample.",
        "table t1 differs: none and 10 rows of 4, 3 a sample.",
        "Tables that differ besides: 3.",
        "processes differs: 2 and 3.",
        "deadline_ms differs: none and 20.",
        "The services differ: one of its own and http://10.0.0.5:7070.",
        "The versions differ: service 0.1.0 and 0.2.0.",
        "The versions differ: numpy none and 2.4.0.",
    ]


def test_services_of_their_own_differ_by_no_address() -> None:
    first, second = made.run(), made.run()
    second["target"]["url"] = "http://127.0.0.1:2"
    assert differences_in_setting(first, second) == []
    for report in (first, second):
        report["target"]["served"] = False
    assert differences_in_setting(first, second) == ["The services differ: http://127.0.0.1:1 and http://127.0.0.1:2."]


def printed(report: dict[str, object], width: int = 80) -> str:
    out = StringIO()
    print_run(report, Console(file=out, width=width))
    return out.getvalue()


def test_the_terminal_says_what_casts_doubt() -> None:
    said = printed(made.run())
    assert re.search(r"lookup +[\d,]+ +\d+ +[\d.]+ +[\d.]+ +[\d.]+", said)
    assert "Tiers: warm 90.00%, cold 10.00%" in said
    assert "NOT" not in printed(made.run(made.outcome(rate=1000.0, seed=3), lookups=10)).replace("NOT STABLE", "")
    late = made.outcome()
    late.interrupted, late.cpu_shares = True, [0.99]
    said = printed(made.run(late))
    assert "NOT COMPLETE" in said
    assert "NOT KEPT UP: the generators were slow themselves: the busiest generator used 99%" in said.replace("\n", " ")
    assert "The service counted 10 lookups meanwhile" in printed(made.run(lookups=10))


@pytest.mark.parametrize("terminal", [True, False])
def test_what_goes_on_is_said_while_it_does(terminal: bool) -> None:
    out = StringIO()
    with view_of(Console(file=out, width=150, force_terminal=terminal)) as view:
        view(made.outcome(), 9.0)
        view(made.outcome(), 20.0)  # too soon after the last
    said = out.getvalue()
    assert "warm 90.0% cold 10.0%" in said
    assert "draining" not in said
    assert re.search(r"offered +100/s +1,000" if terminal else r"9\.0 s window +offered 100/s", said)
    assert ("last second" in said) == terminal


def test_a_run_that_ended_before_its_window_is_shown_as_one() -> None:
    nothing = Outcome(made.PLAN, Tally(), Tally(), Series(made.PLAN.step_s), interrupted=True)
    report = made.run(nothing)
    assert report["result"]["offered_per_s"] == 0.0
    assert "NOT COMPLETE" in printed(report)
    Strict(page(report))
    Strict(comparison(("a", made.run()), ("b", report)))


def test_report_prints_one_or_two_and_writes_their_page(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.json", "b.json", "s.json")]
    for path, report in zip(paths, (made.run(), made.run(made.outcome(2.0)), made.search()), strict=True):
        write_report(report, path)
    run = CliRunner().invoke
    html = tmp_path / "out.html"
    one = run(app, ["report", str(paths[0]), "--html", str(html)])
    assert one.exit_code == 0, one.output
    assert html.read_text() == page(made.run())
    two = run(app, ["report", str(paths[0]), str(paths[1]), "--html", str(html)])
    assert two.exit_code == 0, two.output
    assert re.search(r"lookup p99 ms +[\d.]+ +[\d.]+ +(1\.9|2)", two.output)
    assert "<figcaption>a: Where rows came from" in html.read_text()
    found = run(app, ["report", str(paths[2])])
    assert "p99 stays within 10 ms at 800/s, and does not at 840/s." in found.output
    odd = run(app, ["report", str(paths[0]), str(paths[2])])
    assert odd.exit_code == 2
    assert "a run and a search have nothing to compare" in re.sub(r"[\s│]+", " ", odd.output)
