"""Ratings from files of every form that MovieLens comes in, damage told by its line, and ratings that are made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from loadtest.cli import app
from loadtest.datasets import DataError
from loadtest.train.ratings import Ratings, made_ratings, read_ratings

MOVIELENS = Path(__file__).parents[4] / "shared" / "data" / "ml-100k.inter"

ROWS = [(f"u{n % 3}", f"i{n % 4}", n % 5 + 0.5, 1000 - n // 2) for n in range(12)]
HEADERS = {
    "a.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n",
    "u.data": "",
    "ratings.csv": "userId,movieId,rating,timestamp\r\n",
    "ratings.dat": "",
}
SEPARATORS = {"a.inter": "\t", "u.data": "\t", "ratings.csv": ",", "ratings.dat": "::"}


def written(folder: Path, name: str = "a.inter", rows: list[tuple[object, ...]] | None = None) -> Path:
    path = folder / name
    lines = [SEPARATORS[name].join(map(str, row)) + "\n" for row in rows or ROWS]
    path.write_text(HEADERS[name] + "".join(lines), newline="")
    return path


def triples(ratings: Ratings) -> list[tuple[str, str, float]]:
    users = [ratings.users[place] for place in ratings.user.tolist()]
    items = [ratings.items[place] for place in ratings.item.tolist()]
    return list(zip(users, items, ratings.rating.tolist(), strict=True))


@pytest.mark.parametrize("name", HEADERS)
def test_every_form_is_read_the_oldest_first(tmp_path: Path, name: str) -> None:
    ratings = read_ratings(written(tmp_path, name))
    oldest_first = [row for time in sorted({row[3] for row in ROWS}) for row in ROWS if row[3] == time]
    assert triples(ratings) == [row[:3] for row in oldest_first]
    assert (ratings.users, len(ratings.items), ratings.first) == (("u1", "u2", "u0"), 4, 11)
    assert "12 ratings by 3 users of 4 items" in ratings.origin


def test_blank_lines_are_nothing(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text() + "\n\n")
    assert len(read_ratings(path)) == 12


@pytest.mark.parametrize(
    ("damaged", "what"),
    [
        ("u1\ti1\t3", "line 5: 3 columns, not 4 (user, item, rating, time)"),
        ("u1\ti1\t3\t7\t8", "line 5: 5 columns"),
        ("u1,i1,3,7", "line 5: 1 columns"),
        ("u1\ti1\tgood\t7", "line 5: the rating is 'good', which is no number"),
        ("u1\ti1\tnan\t7", "line 5: the rating is nan: it should be finite"),
        ("u1\ti1\t1e9\t7", "line 5: the rating is 1e9"),
        ("u1\ti1\t3\t", "line 5: the time is '', which is no number"),
        ("u1\ti1\t3\tinf", "line 5: the time is inf"),
        ("\ti1\t3\t7", "line 5: no user"),
        ("u1\t \t3\t7", "line 5: no item"),
        ("u\udcff\ti1\t3\t7", "line 5: 'utf-8' codec can't decode"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, damaged: str, what: str) -> None:
    path = written(tmp_path)
    lines = path.read_text().splitlines()
    lines[4] = damaged
    path.write_text("\n".join(lines), errors="surrogateescape")
    with pytest.raises(DataError) as raised:
        read_ratings(path)
    assert str(raised.value).startswith(f"{path}, {what}")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "has 0 ratings; 10 are the least"),
        ("u\ti\t3\t7\n" * 9, "has 9 ratings"),
        ("\x89PNG\r\n", "line 1: '\\x89PNG' is not user, item, rating and timestamp"),
        (
            "label,weight,when,what\n",
            "line 1: the columns are 'label, weight, when, what', not user, item, rating, time",
        ),
    ],
)
def test_what_is_no_file_of_ratings_is_refused(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "a.inter"
    path.write_text(content)
    with pytest.raises(DataError) as raised:
        read_ratings(path)
    assert what in str(raised.value)


def test_the_command_says_what_is_wrong_before_it_starts_anything(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text() + "u1\ti1")
    for file, what in ((path, "line 14: 2 columns, not 4"), (tmp_path / "gone", "no such file")):
        said = CliRunner().invoke(app, ["train", "--ratings", str(file)], env={"COLUMNS": "300"})
        assert said.exit_code == 1
        assert said.output.startswith("loadtest: ")
        assert what in said.output
    said = CliRunner().invoke(app, ["train", "--url", "ftp://there"])
    assert said.exit_code == 1
    assert said.output.startswith("loadtest: --url: ")
    said = CliRunner().invoke(app, ["train", "--ratings", str(path), "--made", "100"])
    assert said.exit_code == 2


def test_made_ratings_are_those_of_their_seed_and_say_so() -> None:
    one, same, other = made_ratings(2000, 1), made_ratings(2000, 1), made_ratings(2000, 2)
    assert triples(one) == triples(same) != triples(other)
    assert set(one.rating.tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert "MADE UP from hidden factors (seed 1)" in one.origin
    assert len(one) == 2000


@pytest.mark.skipif(not MOVIELENS.is_file(), reason=f"no MovieLens 100K in {MOVIELENS}")
def test_movielens() -> None:
    ratings = read_ratings(MOVIELENS)
    assert (len(ratings), len(ratings.users), len(ratings.items), ratings.first) == (100_000, 943, 1682, 90_000)
    table = np.loadtxt(MOVIELENS, skiprows=1)
    np.testing.assert_array_equal(ratings.rating, table[np.argsort(table[:, 3], kind="stable"), 2])
