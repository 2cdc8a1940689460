"""Training through a real service: what is predicted there, and what stands there, is what the oracle says."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from embcache_client.errors import ClientError
from loadtest.datasets import DataError
from loadtest.load.asking import Target
from loadtest.processes import ProcessFailed
from loadtest.train.model import Model
from loadtest.train.page import page
from loadtest.train.predictor import Duty, predictor_of
from loadtest.train.ratings import made_ratings
from loadtest.train.rows import Place, Tables
from loadtest.train.run import Wanted, run
from loadtest.train.steps import Step
from tests.loadtest.interrupted import leftovers, loadtest
from tests.loadtest.load.test_page import Strict
from tests.loadtest.train.oracle import Rating, expected, id_of, rmse
from tests.loadtest.train.test_ratings import MOVIELENS
from tests.service.running import Running, running

COUNT = 1200  # their last tenth is 120: the report has the RMSE after each one of them
PASSES, BATCH = 2, 64


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("service")) as shared:
        yield shared


def trained(service: Running, *, terminal: bool = False, **wanted: Any) -> tuple[dict[str, Any], str]:
    """The report of a run, and what it said on the console."""
    out = StringIO()
    asked = {"made": COUNT, "url": service.url, "passes": PASSES, "factors": 4, "batch": BATCH, **wanted}
    return run(Wanted(**asked), Console(file=out, width=160, force_terminal=terminal)), out.getvalue()


def made(count: int = COUNT) -> list[Rating]:
    ratings = made_ratings(count, 1)
    places = zip(ratings.user.tolist(), ratings.item.tolist(), ratings.rating.tolist(), strict=True)
    return [Rating(ratings.users[user], ratings.items[item], value) for user, item, value in places]


def table_names(service: Running) -> set[str]:
    with service.client() as client:
        return {table["spec"]["name"] for table in client.tables()}


@pytest.mark.parametrize("ahead", [1, 50])
def test_every_rating_is_predicted_as_the_oracle_does(service: Running, ahead: int) -> None:
    report, said = trained(service, ahead=ahead)
    right = expected(made(), PASSES, BATCH)
    so_far = [rmse(right.last[:after]) for after in range(1, 121)]
    assert report["series"]["last"]["after"] == list(range(1, 121))
    np.testing.assert_allclose(report["series"]["last"]["rmse"], so_far, atol=1e-5)
    assert report["served"] == {"rmse": pytest.approx(so_far[-1], abs=1e-5), "ratings": 120, "of": 120}
    rmses = [phase["rmse"] for phase in report["phases"]]
    np.testing.assert_allclose(rmses, [*right.passes, so_far[-1]], atol=1e-5)
    assert report["alone"]["rmse"] == pytest.approx(so_far[-1], abs=1e-9)
    assert report["alone"]["largest_difference"] < 1e-5
    assert "MADE UP" in said
    assert table_names(service) == set()


def test_kept_tables_hold_the_model_and_are_never_overwritten(service: Running) -> None:
    report, said = trained(service, terminal=True, keep=True, name="kept", alone=False)
    assert re.search(rf"last tenth.*120/120 .*RMSE {report['served']['rmse']:.4f}", said)
    assert (report["alone"], report["interrupted"]) == (None, False)
    check_lags(report)
    check_rows(service, "kept")
    with pytest.raises(DataError, match="the service has a table kept_user already"):
        trained(service, name="kept")
    with service.client() as client:
        client.drop_table("kept_user")
    with pytest.raises(DataError, match="the service has a table kept_item already"):
        trained(service, name="kept")
    assert table_names(service) == {"kept_item"}  # what was made is gone, what was there is not
    with service.client() as client:
        client.drop_table("kept_item")


def check_lags(report: dict[str, Any]) -> None:
    """There is one of every update but the last, which nobody looks up any more."""
    told, lags = report["visible_ms"], report["series"]["visible_ms"]
    assert told["count"] == sum(phase["steps"] for phase in report["phases"]) - 1
    assert 0 < told["p50"] <= told["p90"] <= told["max"]
    assert max(lag for lag in lags["max"] if lag) == pytest.approx(told["max"], rel=0.01)


def check_rows(service: Running, name: str) -> None:
    """The tables hold the oracle's model, and nothing else."""
    right = expected(made(), PASSES, BATCH).model
    with service.client() as client:
        for feature, rows in (("user", right.users), ("item", right.items)):
            pages = list(client.pages(f"{name}_{feature}"))
            there = dict(zip(pages[0].ids.tolist(), pages[0].rows, strict=True))
            assert there.keys() == {id_of(feature, value) for value in rows}
            for value, (factors, bias) in rows.items():
                np.testing.assert_allclose(there[id_of(feature, value)], [*factors, bias], atol=1e-5)


@pytest.mark.skipif(not MOVIELENS.is_file(), reason=f"no MovieLens 100K in {MOVIELENS}")
def test_real_ratings(service: Running, tmp_path: Path) -> None:
    lines = MOVIELENS.read_text().splitlines()
    header, rows = lines[0], sorted((line.split("\t") for line in lines[1:]), key=lambda row: float(row[3]))[:1000]
    path = tmp_path / "part.inter"
    path.write_text("\n".join([header, *("\t".join(row) for row in rows)]))
    right = expected([Rating(row[0], row[1], float(row[2])) for row in rows], PASSES, BATCH)
    report, _ = trained(service, file=path)
    assert report["served"]["rmse"] == pytest.approx(rmse(right.last), abs=1e-5)
    assert report["alone"]["rmse"] == pytest.approx(rmse(right.last), abs=1e-9)


def test_a_model_that_runs_away_is_stopped(service: Running) -> None:
    with pytest.raises(DataError, match=r"the model runs away by rating [0-9,]+: try a smaller --rate"):
        trained(service, rate=50.0)
    assert table_names(service) == set()


def test_a_predicting_process_that_fails_says_why(service: Running) -> None:
    ratings = made_ratings(20, 1)
    model = Model(3.5, 2, 0.05, 0.05, 1)
    duty = Duty(Target(service.url), model, Tables.named("gone"), ratings.users, ratings.items)
    with predictor_of(duty) as predictor:
        predictor.ask(Step.of(ratings, np.arange(4)), Place())
        with pytest.raises(ProcessFailed, match=r"the predicting process failed: unknown_table: .*gone_"):
            predictor.answer()
        predictor.ask(Step.of(ratings, np.arange(4)), Place())  # it is gone, and says so
        with pytest.raises(ProcessFailed, match="the predicting process ended with status 0"):
            predictor.answer()


def test_nobody_there() -> None:
    with pytest.raises(ClientError, match="no connection to http://127"):
        run(Wanted(url="http://127.0.0.1:9", made=20), Console(file=StringIO()))


# --- as a process ----------------------------------------------------------------------------------------------------


def test_it_serves_by_itself_and_ends_with_the_figure(tmp_path: Path) -> None:
    out, html = tmp_path / "t.json", tmp_path / "t.html"
    arguments = ("--made", "400", "--passes", "1", "--json", str(out), "--html", str(html), "--token", "secret")
    with loadtest(tmp_path, "train", *arguments) as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    report = json.loads(out.read_text())
    assert said.splitlines()[-1] == f"served RMSE {report['served']['rmse']:.4f}"
    assert re.search(r"pass 1 of 1 +360 of 360 +RMSE \d\.\d{4}", said)
    assert f"in NumPy alone, a rating at a time: RMSE {report['alone']['rmse']:.4f}" in said
    assert report["target"]["served"] is True
    assert "secret" not in out.read_text() + html.read_text() + said
    parsed = Strict(html.read_text())
    assert parsed.fetched == []
    assert parsed.count["svg"] == 3
    assert html.read_text() == page(report)
    assert leftovers(tmp_path) == []


def test_ctrl_c_ends_it_with_what_was_seen(service: Running, tmp_path: Path) -> None:
    out, html = tmp_path / "t.json", tmp_path / "t.html"
    arguments = ("--made", "5000", "--passes", "1", "--ahead", "1", "--json", str(out), "--html", str(html))
    with loadtest(tmp_path, "train", "--url", service.url, *arguments) as process:
        assert process.stdout is not None
        while "last tenth" not in (line := process.stdout.readline()):
            assert line
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the group
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    report = json.loads(out.read_text())
    assert report["interrupted"] is True
    assert 0 < report["served"]["ratings"] < 500
    assert f"NOT COMPLETE: it was interrupted; {report['served']['ratings']} of the last 500 ratings" in said
    assert said.splitlines()[-1] == f"served RMSE {report['served']['rmse']:.4f}"
    assert "Traceback" not in said
    Strict(html.read_text())
    assert table_names(service) == set()
    assert leftovers(tmp_path) == []
