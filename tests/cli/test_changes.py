"""`embcache export --since` and `embcache apply`: what changed, from one service to another, each change once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from embcache.cli import changes
from embcache.cli.pushing import LocalPush, RemotePush
from embcache.cli.tables import RemoteTables, Since, Tables, opened
from embcache.cli.transfer import TableFormat
from embcache.errors import Conflict
from embcache_client import TableRows, Trainer
from embcache_client.errors import ConnectionLost
from tests.commands import Ran, Run
from tests.naive import NaiveTable
from tests.service.running import Running, running

IDS = np.arange(300, dtype=np.uint64) * np.uint64(3)
TABLES = """
[[table]]
name = "item"
dim = 4
[[table]]
name = "copy"
dim = 4
[[table]]
name = "half"
dim = 4
dtype = "bf16"
add = true
[[table]]
name = "limited"
dim = 4
max_norm = 0.5
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("source"), TABLES) as service:
        yield service


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("target"), TABLES) as service:
        yield service


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "config.toml").write_text(f'[warm]\ncapacity = "4MiB"\n{TABLES}')
    return ["--config", folder / "config.toml"]


def rows_at(ids: NDArray[np.uint64], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng([seed, len(ids)]).normal(size=(len(ids), 4)).astype(np.float32)


def imported(run: Run, service: Running, table: str, folder: Path, seed: int = 0) -> None:
    np.savez(folder / "whole.npz", ids=IDS, rows=rows_at(IDS, seed))
    assert run("import", table, folder / "whole.npz", "--url", service.url).code == 0


def since_of(ran: Ran) -> list[str]:
    """The options of the next export, as a command printed them."""
    assert ran.code == 0, ran.err
    found = re.search(r"; go on with (--since \d+ --history \w+)$", ran.out.strip())
    assert found, ran.out
    return found[1].split()


def contents(run: Run, table: str, folder: Path, *place: object) -> dict[int, list[float]]:
    assert run("export", table, folder / "contents.npz", *place).code == 0
    with np.load(folder / "contents.npz") as there:
        return dict(zip(there["ids"].tolist(), there["rows"].tolist(), strict=True))


@pytest.mark.parametrize("table", ["item", "half"])
def test_two_services_stay_equal(run: Run, service: Running, target: Running, tmp_path: Path, table: str) -> None:
    """Random updates here, their files applied there; an import here makes it begin with the whole table again."""
    here, there = ["--url", service.url], ["--url", target.url]
    model, random = NaiveTable(4, "bf16" if table == "half" else "f32", add=True), np.random.default_rng(1)
    since: list[str] = []
    with Trainer(service.url, producer=f"random-{table}") as trainer:
        for step, ending in enumerate(("npz", "whole", "parquet", "safetensors", "whole", "arrow")):
            file = tmp_path / f"{step}.{ending.replace('whole', 'npz')}"
            if ending == "whole" or not since:
                imported(run, service, table, tmp_path, step)
                model.load(IDS.tolist(), rows_at(IDS, step))
            for at in range(20):
                op = ("assign", "add", "delete")[random.integers(3)]
                ids = random.integers(0, 1000, random.integers(1, 9)).astype(np.uint64)
                values = rows_at(ids, at)
                model.change(op, ids.tolist(), np.zeros_like(values) if op == "delete" else values)
                getattr(trainer, op)(table, ids, *([] if op == "delete" else [values]))
                trainer.flush()  # a batch each: what a trainer puts together is another sum
            look_up(service, table, trainer.flush())
            if since and ending == "whole":
                refused = run("export", table, file, *since, *here)
                assert (refused.code, file.exists()) == (1, False)
                assert "has got all its rows anew at position" in refused.err
            if ending == "whole" or not since:
                since = since_of(run("export", table, file, *here))
                assert run("import", table, file, *there).code == 0
            else:
                since = since_of(run("export", table, file, *since, *here))
                applied = run("apply", table, file, *there)
                assert applied.code == 0, applied.err
                assert f"as of position {since[1]} of history {since[3]}" in applied.out
            expected = {identifier: row.tolist() for identifier, row in model.rows.items()}
            assert contents(run, table, tmp_path, *here) == expected
            assert contents(run, table, tmp_path, *there) == expected


@pytest.fixture
def some(run: Run, service: Running, tmp_path: Path) -> Path:
    """A file with 40 rows and 20 deletions of `item`, which `copy` is to get; both have the rows of IDS before."""
    for table in ("item", "copy"):
        imported(run, service, table, tmp_path)
    since = since_of(run("export", "item", tmp_path / "whole.npz", "--url", service.url))
    with Trainer(service.url, producer="some") as trainer:
        trainer.assign("item", IDS[:40], np.ones((40, 4), np.float32))
        trainer.delete("item", IDS[100:120])
        look_up(service, "item", trainer.flush())
    since_of(run("export", "item", tmp_path / "some.npz", *since, "--url", service.url))
    return tmp_path / "some.npz"


def look_up(service: Running, table: str, position: int = 0) -> TableRows:
    """The rows of IDS once a position is applied."""
    with service.client() as client:
        return client.lookup({table: IDS}, min_position=position)[table]


class Interrupted(BaseException):
    """As Ctrl-C is, and no error."""


def interrupted(tables: Tables, file: Path, after: int, accepted: bool) -> None:
    """Apply a file to `copy` until the push number `after`: before it was sent, or when it was accepted."""
    count = 0

    def pushes(push: Callable[..., None], *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count < after or accepted:
            push(*arguments)
        if count == after:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        for kind in (LocalPush, RemotePush):
            push = kind.push
            patch.setattr(kind, "push", lambda *arguments, push=push: pushes(push, *arguments))
        with pytest.raises(Interrupted):
            changes.apply_file(tables, "copy", file, TableFormat(), False, Console(quiet=True))


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("after", [1, 2, 4, 6])
def test_an_interrupted_apply_goes_on(
    service: Running, some: Path, monkeypatch: pytest.MonkeyPatch, after: int, accepted: bool
) -> None:
    """What was pushed is not pushed again: a trainer's newer row of it stays."""
    monkeypatch.setattr(changes, "BATCH_ROWS", 10)
    console = Console(quiet=True)
    with opened(None, service.url, None) as tables:
        interrupted(tables, some, after, accepted)
        before = 10 * (after - 1 + accepted)
        with Trainer(service.url, producer="newer") as trainer:
            trainer.assign("copy", np.append(IDS[100], IDS[:20:10]), np.full((3, 4), 7, np.float32))
        done = changes.apply_file(tables, "copy", some, TableFormat(), False, console)
        assert (done.before, done.rows + done.gone) == (before, 60 - before)
        assert (done.rows, done.gone) == (40 - max(0, before - 20), max(0, 20 - before))
        again = changes.apply_file(tables, "copy", some, TableFormat(), False, console)
        assert (again.before, again.rows, again.gone) == (60, 0, 0)
    found = look_up(service, "copy")
    gone = set(range(100, 120)) - ({100} if before >= 10 else set())
    assert {at for at in range(300) if not found.found[at]} == gone
    newer = {at for at, done in ((0, 30), (10, 40)) if before >= done} | ({100} if before >= 10 else set())
    assert {at for at in (0, 10, 100) if found.rows[at, 0] == 7} == newer
    assert (np.delete(found.rows[:40], sorted({0, 10} & newer), axis=0) == 1).all()
    assert (found.rows[120:] == rows_at(IDS, 0)[120:]).all()


def test_an_apply_into_stopped_data_goes_on(
    run: Run, stopped: list[object], some: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("import", "copy", some.with_name("whole.npz"), *stopped).code == 0
    monkeypatch.setattr(changes, "BATCH_ROWS", 10)
    with opened(Path(str(stopped[1])), None, None) as tables:
        interrupted(tables, some, 3, accepted=True)
    since = since_of(run("export", "copy", some.with_name("stopped.npz"), *stopped))
    applied = run("apply", "copy", some, *stopped)
    assert re.match(r"copy: 30 rows and 0 deletions in .* applied, 30 were before; as of", applied.out)
    exported = run("export", "copy", some.with_name("rest.npz"), *since, *stopped)
    assert re.match(r"copy: 30 rows and 0 deletions in .* since \d+ written to .*; go on with --since", exported.out)
    with np.load(some.with_name("rest.npz")) as there:
        assert (there["ids"].tolist(), (there["rows"] == 1).all()) == (IDS[10:40].tolist(), True)


def test_files_are_applied_in_order(run: Run, service: Running, some: Path, tmp_path: Path) -> None:
    here = ["--url", service.url]

    def change(position: int, name: str, first: int) -> list[str]:
        with Trainer(service.url, producer="order") as trainer:
            trainer.assign("item", IDS[first : first + 1], np.full((1, 4), first, np.float32))
            look_up(service, "item", trainer.flush())
        return since_of(run("export", "item", tmp_path / name, "--since", position, *here))

    with np.load(some) as there:
        first = int(re.search(r'"position": "(\d+)"', str(there["changes"]))[1])  # type: ignore[index]
    second = change(first, "second.npz", 1)
    change(int(second[1]), "third.npz", 2)
    assert run("apply", "copy", some, *here).code == 0
    gap = run("apply", "copy", tmp_path / "third.npz", *here)
    assert gap.code == 1
    assert f"is up to position {first}, and this file begins at {second[1]}: what changed between" in gap.err
    for name in ("second.npz", "third.npz"):
        assert run("apply", "copy", tmp_path / name, *here).code == 0
    assert run("apply", "copy", tmp_path / "third.npz", *here).out.startswith("copy: 0 rows and 0 deletions")
    older = run("apply", "copy", some, *here)
    assert (older.code, "rows would go back in time; --again applies it" in older.err) == (1, True)
    assert contents(run, "copy", tmp_path, *here)[int(IDS[1])] == [1] * 4
    assert run("apply", "copy", some, "--again", *here).out.startswith("copy: 40 rows and 20 deletions")
    imported(run, service, "copy", tmp_path)
    assert run("apply", "copy", some, *here).out.startswith("copy: 40 rows and 20 deletions"), "other rows, none of it"


def test_a_file_that_was_applied_in_part_comes_first(
    run: Run, service: Running, some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ["--url", service.url]
    with np.load(some) as there:
        position = re.search(r'"position": "(\d+)"', str(there["changes"]))[1]  # type: ignore[index]
    empty = run("export", "item", tmp_path / "empty.npz", "--since", position, *here)
    assert empty.out.startswith("item: 0 rows and 0 deletions")
    monkeypatch.setattr(changes, "BATCH_ROWS", 10)
    with opened(None, service.url, None) as tables:
        interrupted(tables, some, 2, accepted=True)
    refused = run("apply", "copy", tmp_path / "empty.npz", *here)
    assert f"up to position {position} was applied in part: apply that first" in refused.err
    assert run("apply", "copy", some, *here).code == 0
    for _ in range(2):
        assert run("apply", "copy", tmp_path / "empty.npz", *here).code == 0
    assert "rows would go back in time" in run("apply", "copy", some, *here).err, "the empty one is as new"


@pytest.mark.parametrize("stops", [False, True])
def test_what_is_set_aside_is_said(run: Run, service: Running, stopped: list[object], some: Path, stops: bool) -> None:
    """A table with a limit takes the file, and says that not all of it is there."""
    place = stopped if stops else ["--url", service.url]
    done = run("apply", "limited", some, *place)
    assert (done.code, "set aside: 1 batch of producer apply.limited" in done.err) == (0, True), done
    assert run("quarantine", "list", *place).out.splitlines()[1].split()[3] == "apply.limited"


def test_a_lost_answer_is_asked_for_again(service: Running, some: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that dies with the answer on its way: the very same batch goes out again, and counts once."""
    from embcache_client.transport import Connection

    lost, answer = 3, Connection.answer

    def loses(self: Connection, deadline: float) -> Any:
        nonlocal lost
        response = answer(self, deadline)
        lost -= 1
        if lost == 0:
            raise ConnectionLost("the answer did not come")
        return response

    with opened(None, service.url, None) as tables:
        monkeypatch.setattr(Connection, "answer", loses)
        done = changes.apply_file(tables, "copy", some, TableFormat(), False, Console(quiet=True))
        assert (done.rows, done.gone, lost < 0) == (40, 20, True)
        assert (look_up(service, "copy").rows[:40] == 1).all()


@pytest.mark.parametrize("what", ["export", "apply"])
def test_a_table_that_is_filled_anew_meanwhile(
    run: Run, service: Running, some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """By a switch there and back, which gives the version its name again: it is not the same rows for that."""
    table = "item" if what == "export" else "copy"
    fetch, push = RemoteTables.fetch, RemotePush.push
    since = Since(int(since_of(run("export", "item", tmp_path / "x.npz", "--url", service.url))[1]), "")
    with Trainer(service.url, producer="meanwhile") as trainer:
        trainer.delete("item", IDS[:1])
        look_up(service, "item", trainer.flush())

    def after_a_switch(call: Callable[..., Any], *arguments: Any) -> Any:
        monkeypatch.undo()
        with service.client() as client:
            version = client.table(table)["version"]
            client.stage(table, "beside")
            client.switch({table: "beside"}, warm_s=0)
            client.switch({table: version}, warm_s=0)
            client.drop_version(table, "beside")
        return call(*arguments)

    monkeypatch.setattr(RemoteTables, "fetch", lambda *arguments: after_a_switch(fetch, *arguments))
    monkeypatch.setattr(RemotePush, "push", lambda *arguments: after_a_switch(push, *arguments))
    console = Console(quiet=True)
    with opened(None, service.url, None) as tables:
        export = partial(changes.export_changes, tables, "item", tmp_path / "y.npz", TableFormat(), since, console)
        apply = partial(changes.apply_file, tables, "copy", some, TableFormat(), False, console)
        with pytest.raises(Conflict, match="got other rows as a whole meanwhile"):
            (export if what == "export" else apply)()
    assert not (tmp_path / "y.npz").exists()


def test_what_cannot_be_done_is_said(run: Run, service: Running, some: Path, tmp_path: Path) -> None:
    here = ["--url", service.url]
    np.savez(tmp_path / "wide.npz", ids=IDS, rows=np.ones((300, 5), np.float32))
    assert run("import", "wide", tmp_path / "wide.npz", *here).code == 0
    since = since_of(run("export", "item", tmp_path / "item.npz", *here))
    for arguments, code, words in (
        (["import", "copy", some], 1, "an import replaces all its rows: `embcache apply` is for such a file"),
        (["apply", "copy", tmp_path / "whole.npz"], 1, "holds no changes since a position"),
        (["apply", "wide", some], 1, "table 'wide' has rows of 5, .*some.npz has rows of 4"),
        (["apply", "copi", some], 1, "there is no table 'copi'; the nearest is copy"),
        (["export", "item", tmp_path / "x.npy", *since], 1, "npy has no place for ids that are gone"),
        (["export", "item", tmp_path / "x.npz", "--since", 1], 1, "has got all its rows anew at position"),
        (["export", "item", tmp_path / "x.npz", "--since", 10**9], 1, "beyond what is applied, which is"),
        (["export", "item", tmp_path / "x.npz", "--since", 1, "--history", "h"], 1, "is not this service's"),
        (["export", "item", tmp_path / "x.npz", "--history", "h"], 2, "needs --since"),
    ):
        ran = run(*arguments, *here)
        assert (ran.code, ran.out) == (code, ""), ran
        assert re.search(words, ran.err), ran.err
    assert not list(tmp_path.glob("x.*"))
