"""Whole runs against a real service: what the report says is what the service counted, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from loadtest.datasets import DataError
from loadtest.load.result import read_report, write_report
from loadtest.load.run import Pace, run
from loadtest.load.setup import Wanted
from loadtest.workloads import rows_from_ids
from tests.loadtest.interrupted import leftovers, loadtest
from tests.service.running import Running, running

PACE = Pace("constant", 150.0, clients=8, processes=2, warmup_s=0.5, duration_s=2.0, slo_ms=1000.0)
ONE = Pace("constant", 100.0, clients=4, processes=1, warmup_s=0.0, duration_s=1.0)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service over TCP and over a socket, with 3,000 rows of `there` whose ids are not 0 to 2,999."""
    folder = tmp_path_factory.mktemp("service")
    with running(folder) as shared:
        ids = np.sort(np.random.default_rng(1).choice(1 << 40, 3000, replace=False)).astype(np.uint64)
        with shared.client() as client, client.importing("there", {"name": "there", "dim": 8}) as filling:
            filling.write(ids, rows_from_ids(ids, 8))
        yield shared


def made(service: Running, **wanted: Any) -> tuple[dict[str, Any], str]:
    """The report of a run, and what it said on the console."""
    console = Console(file=StringIO(), width=120)
    pace = wanted.pop("pace", ONE)
    report = run(Wanted(**{"kind": "zipf", "url": service.url, "timeout_s": 30.0, **wanted}), pace, console)
    assert isinstance(console.file, StringIO)
    return report, console.file.getvalue()


def table_names(service: Running) -> set[str]:
    with service.client() as client:
        return {table["spec"]["name"] for table in client.tables()}


def test_the_service_counted_what_the_report_says(service: Running, tmp_path: Path) -> None:
    mix = "lookup=0.8,add=0.1,assign=0.1"
    report, said = made(service, fill=True, rows=2000, dim=8, ids=20, mix=mix, update_rows=10, pace=PACE)
    result, counted = report["result"], report["service"]["counted"]
    assert (result["offered"], result["errors"], result["not_sent"]) == (300, 0, 0)
    assert result["answered"] == sum(op["answered"] for op in result["ops"].values()) == 300
    assert report["service"]["answered_lookups"] == counted["lookups"]
    assert report["service"]["agree"] is True
    # The window is 300 of the 375 requests, and the service counted all of them: lookups of 20 ids, updates of 10, and
    # the tester's own lookups of 1 id, by which it sees updates.
    pushed = result["ops"]["add"]["answered"] + result["ops"]["assign"]["answered"]
    assert 10 * pushed <= counted["update_rows"] <= 10 * (375 - result["ops"]["lookup"]["answered"])
    probes, rest = divmod(20 * counted["lookups"] - sum(counted["tiers"].values()), 19)
    assert rest == 0
    assert probes >= result["visible_ms"]["count"] > 0
    assert result["tiers"]["warm"] == 20 * result["ops"]["lookup"]["answered"]
    assert counted["errors"] == {}
    assert result["ops"]["lookup"]["received_bytes"] > 300 * 0.7 * 20 * 8 * 4
    assert "loadtest" not in table_names(service)
    path = tmp_path / "report.json"
    write_report(report, path)
    assert read_report(path) == report
    assert "window" in said


def test_lookups_alone_agree_to_the_id(service: Running) -> None:
    report, _ = made(service, fill=True, rows=2000, dim=8, ids=20)
    assert report["result"]["answered"] == 100
    assert report["service"]["counted"]["lookups"] == 100
    assert report["service"]["counted"]["tiers"] == report["result"]["tiers"] == {"warm": 2000}


def test_tables_are_kept_if_asked_and_never_overwritten(service: Running) -> None:
    made(service, fill=True, keep=True, rows=500, dim=8, tables=("kept",))
    assert "kept" in table_names(service)
    with pytest.raises(DataError, match="the service has a table kept already"):
        made(service, fill=True, rows=500, tables=("kept",))
    report, _ = made(service, tables=("kept",))
    assert report["result"]["tiers"] == {"warm": 100 * 256}
    assert report["settings"]["workload"]["tables"] == [{"name": "kept", "dim": 8, "rows": 500, "hot": 1}]
    with service.client() as client:
        client.drop_table("kept")


def test_ids_of_a_table_that_is_there_can_be_read(service: Running) -> None:
    report, _ = made(service, tables=("there",), preload=True)
    assert report["result"]["tiers"] == {"missing": 100 * 256}
    report, _ = made(service, tables=("there",), keys="read", preload=True)
    assert report["result"]["tiers"] == {"warm": 100 * 256}
    assert report["settings"]["workload"]["tables"][0]["rows"] == 3000
    assert "there" in table_names(service)


@pytest.mark.parametrize("kind", ["npy", "txt"])
def test_traces_are_asked_and_their_rows_made(service: Running, tmp_path: Path, kind: str) -> None:
    trace = np.random.default_rng(4).integers(0, 2**63, 700).astype(np.uint64)
    path = tmp_path / f"trace.{kind}"
    np.save(path, trace) if kind == "npy" else path.write_text("\n".join(map(str, trace.tolist())))
    report, _ = made(service, kind="trace", file=path, fill=True, dim=4, ids=10)
    assert report["result"]["tiers"] == {"warm": 1000}
    assert report["result"]["trace_rounds"] == 1  # 70 lookups, 100 times
    assert "700 of them" in report["data"]["origin"]


def test_latest_finds_what_it_inserts(service: Running) -> None:
    mix = "lookup=0.7,assign=0.3"
    report, _ = made(service, kind="latest", fill=True, rows=1000, dim=4, ids=10, mix=mix, update_rows=5, pace=PACE)
    tiers = report["result"]["tiers"]
    assert report["result"]["errors"] == 0
    assert tiers.get("missing", 0) < 0.05 * sum(tiers.values())


def test_dlrm_queries_all_tables_at_once(service: Running) -> None:
    pace = Pace("constant", 4.0, clients=2, processes=1, warmup_s=0.0, duration_s=1.0)
    report, _ = made(service, kind="dlrm", fill=True, rows=50, dim=4, pace=pace)
    lookups = report["result"]["ops"]["lookup"]
    assert lookups["answered"] == 4
    assert lookups["ids"] % 214 == 0
    assert 4 * 100 * 214 <= lookups["ids"] <= 4 * 700 * 214
    assert report["service"]["counted"]["tiers"] == {"warm": lookups["ids"]}
    assert not any(name.startswith("dlrm") for name in table_names(service))


def test_over_a_unix_socket(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[server]\nport = 0\nuds = "s.sock"\n[warm]\ncapacity = "32MiB"\n[cold]\npath = "data"\n'
    )
    with running(tmp_path) as service:
        service.url = f"http+unix://{tmp_path}/s.sock"
        report, _ = made(service, fill=True, rows=500, dim=4)
    assert report["result"]["answered"] == 100
    assert report["service"]["agree"] is True


@pytest.mark.parametrize(
    ("wanted", "what"),
    [
        ({"serve": True}, "one of them, and not both"),
        ({"url": None}, "give --url of a service, or --serve to start one"),
        ({"url": "ftp://there"}, "--url: "),
        ({"kind": "trace"}, "`trace` takes a file of ids"),
        ({"file": Path("x")}, "the other workloads none"),
        ({"mix": "lookup=0.5"}, "--mix: the shares sum to 0.5, not to 1"),
        ({"kind": "latest", "keys": "read"}, "goes with --keys dense alone"),
        ({"pooling": "sum"}, "--pooling goes with `dlrm` alone"),
        ({"kind": "trace", "file": Path("gone.npy")}, "gone.npy: no such file"),
        ({"fill": True, "keys": "read"}, "tables that are filled have none yet"),
    ],
)
def test_what_cannot_be_right_is_said(service: Running, wanted: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError, match=what):
        made(service, **wanted)


# --- as a process ----------------------------------------------------------------------------------------------------


def test_it_serves_by_itself_and_ctrl_c_ends_it_with_a_report(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    page = tmp_path / "out.html"
    arguments = ("run", "zipf", "--serve", "--rows", "2000", "--dim", "8", "--rate", "100", "--warmup", "0.5")
    with loadtest(tmp_path, *arguments, "--duration", "300", "--json", str(out), "--html", str(page)) as process:
        assert process.stdout is not None
        said = ""
        while len(re.findall("s window", said)) < 2:
            line = process.stdout.readline()
            assert line, said
            said += line
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the group
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said + rest
    assert "NOT COMPLETE: it was interrupted" in rest
    report = read_report(out)
    assert report["interrupted"] is True
    assert 0 < report["result"]["answered"] < 30_000
    assert report["service"]["agree"] is True
    assert report["target"]["served"] is True
    assert "NOT COMPLETE" in page.read_text()
    assert leftovers(tmp_path) == []
    url = re.search(r"http://127\.0\.0\.1:\d+", said)
    assert url is not None
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url.group())


def test_ctrl_c_drops_the_tables_that_were_made(service: Running, tmp_path: Path) -> None:
    arguments = ("run", "zipf", "--url", service.url, "--fill", "--rows", "500", "--dim", "4", "--duration", "300")
    with loadtest(tmp_path, *arguments) as process:
        end = time.monotonic() + 60
        while "loadtest" not in table_names(service):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert process.stdout is not None
        while "warm-up" not in (line := process.stdout.readline()):
            assert line
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert "loadtest" not in table_names(service)
    assert leftovers(tmp_path) == []


def test_a_service_that_is_not_there_is_said(tmp_path: Path) -> None:
    with loadtest(tmp_path, "run", "zipf", "--url", "http://127.0.0.1:9") as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no connection to 127.0.0.1:9" in said.replace("http://", "")
    assert "Traceback" not in said


def test_a_search_reports_what_it_tried(service: Running, tmp_path: Path) -> None:
    out, page = tmp_path / "s.json", tmp_path / "s.html"
    arguments = ("search", "zipf", "--url", service.url, "--fill", "--rows", "500", "--dim", "4", "--ids", "4")
    fast = ("--warmup", "0", "--duration", "0.2", "--slo-ms", "2000", "--clients", "4", "--precision", "0.5")
    with loadtest(tmp_path, *arguments, *fast, "--json", str(out), "--html", str(page)) as process:
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    report = json.loads(out.read_text())
    assert report["kind"] == "search"
    assert report["found"]["peak_per_s"] > 0
    assert {step["purpose"] for step in report["steps"]} == {"search", "curve"}
    assert [step["factor"] for step in report["overload"]] == [2.0, 5.0]
    low, high = report["found"]["bracket"]
    assert f"{low:,.0f}/s" in said
    assert high is None or high > low
    assert report["settings"]["rate"] is None
    assert page.read_text().count("<svg") == 2
    assert "loadtest" not in table_names(service)


def test_a_search_that_is_interrupted_reports_what_it_tried(service: Running, tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    arguments = ("search", "zipf", "--url", service.url, "--table", "there", "--clients", "2", "--slo-ms", "5000")
    fast = ("--warmup", "0.1", "--duration", "0.2", "--json", str(out))
    with loadtest(tmp_path, *arguments, *fast) as process:
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith("search "):
            assert line
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "NOT COMPLETE: it was interrupted." in said
    report = read_report(out)
    assert report["interrupted"] is True
    assert report["steps"]
