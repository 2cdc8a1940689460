"""Learned through a real service, a model scores as the same model with torch.nn.EmbeddingBag does."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from loadtest.criteo_data import FEATURES
from loadtest.datasets import DataError
from tests.loadtest.criteo_rows import line, write_lines, write_rows
from tests.loadtest.interrupted import leftovers, loadtest
from tests.service.running import Running, running

torch = pytest.importorskip("torch", reason="torch is not installed")
from loadtest.criteo_model import Settings  # noqa: E402 - they need torch
from loadtest.criteo_run import Wanted, print_outcome, run  # noqa: E402

SETTINGS = Settings(epochs=4, batch=32, dim=4, lr=2.0, dense_lr=0.01, seed=3)
ROWS = 300


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("service")) as shared:
        yield shared


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "clicks.csv", ROWS)


def table_names(service: Running) -> set[str]:
    with service.client() as client:
        return {table["spec"]["name"] for table in client.tables()}


def test_both_learn_the_same(service: Running, data: Path) -> None:
    wanted = Wanted(data, SETTINGS, url=service.url, name="same", keep=True)
    out = StringIO()
    outcome = run(wanted, Console(file=out))
    np.testing.assert_allclose(outcome.through.scores, outcome.alone.scores, atol=1e-5)
    np.testing.assert_allclose(outcome.through.losses, outcome.alone.losses, rtol=1e-5)
    assert outcome.aucs[0] == pytest.approx(outcome.aucs[1], abs=0.01)
    assert outcome.aucs[0] > 0.7  # it learned something: what clicks depend on is in the rows
    assert outcome.through.losses[-1] < outcome.through.losses[0]
    assert 0 < outcome.unseen < 1
    columns = np.array([row.split(",")[15:] for row in data.read_text().splitlines()[1:241]])
    learned = [set(columns[:, feature]) - {""} for feature in range(26)]
    assert outcome.rows == sum(map(len, learned))
    with service.client() as client:  # under the ids of their features' values
        for feature, values in zip(FEATURES, learned, strict=True):
            name = f"same_{feature.lower()}"
            assert client.lookup({name: sorted(values)})[name].found.all()
    print_outcome(outcome, wanted, Console(file=out, width=120))
    assert "clicks.csv: the first 240 rows learned, 4 epochs in batches of 32; the last 60 held out" in out.getvalue()


def test_another_seed_learns_something_else(service: Running, data: Path) -> None:
    results = [
        run(Wanted(data, SETTINGS._replace(epochs=1, seed=seed), service.url, name="seed"), Console(file=StringIO()))
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(results[0].alone.scores, results[1].alone.scores)
    assert np.abs(results[0].alone.scores - results[2].alone.scores).max() > 1e-3
    assert not any(name.startswith("seed") for name in table_names(service))


def test_tables_that_are_there_and_rows_that_do_not_do_are_refused(
    service: Running, data: Path, tmp_path: Path
) -> None:
    with service.client() as client:
        client.create_table({"name": "taken_c3", "dim": 4})
    with pytest.raises(DataError, match="has a table taken_c3 already: drop it, or give others a --name"):
        run(Wanted(data, SETTINGS, service.url, name="taken"), Console(file=StringIO()))
    assert {name for name in table_names(service) if name.startswith("taken")} == {"taken_c3"}
    alike = write_lines(tmp_path / "alike.csv", *[line("0")] * 8, *[line("1")] * 2)
    with pytest.raises(DataError, match="the last 2 of 10 rows, which are held out, need a click and one that is none"):
        run(Wanted(alike, SETTINGS, service.url), Console(file=StringIO()))
    with pytest.raises(DataError, match="--url: "):
        run(Wanted(data, SETTINGS, "ftp://nowhere"), Console(file=StringIO()))


def test_the_command_serves_by_itself_and_leaves_nothing(tmp_path: Path, data: Path) -> None:
    with loadtest(tmp_path, "criteo", "--data", str(data), "--epochs", "1", "--dim", "2") as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert re.search(r"the service +│ 0\.\d{4}", said), said
    assert re.search(r"torch\.nn\.EmbeddingBag +│ 0\.\d{4}", said), said
    assert "No score of a held-out row is further apart than" in said
    assert leftovers(tmp_path) == []


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with loadtest(tmp_path, "criteo", "--data", "nowhere.csv") as process:
        said, _ = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (1, "loadtest: nowhere.csv: No such file or directory")


def test_ctrl_c_ends_it(tmp_path: Path, data: Path) -> None:
    with loadtest(tmp_path, "criteo", "--data", str(data), "--epochs", "100000") as process:
        assert process.stdout is not None
        while "through the service" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert leftovers(tmp_path) == []
