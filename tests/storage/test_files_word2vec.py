"""word2vec files, written here by hand as their format says; Python's own parsing is the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from embcache_storage import files_word2vec
from embcache_storage.files import FileError, Names, open_table
from tests.storage.tablefiles import expect_error, make_rows, read_all

WORDS = ["the", "</s>", "naïve", "日本", "a-b_c", "nbsp\u00a0d", "1.5", "x"]


def hashed(words: list[bytes]) -> npt.NDArray[np.uint64]:
    """A stand-in for a feature's hash, which can be read back: a word's last eight bytes."""
    return np.array([int.from_bytes(word[-8:], "big") for word in words], np.uint64)


NAMES = Names(hashed=hashed)


def text_file(words: list[str], rows: npt.NDArray[np.float32], end: str = "\n") -> bytes:
    lines = [f"{word} " + " ".join(map(repr, row)) + end for word, row in zip(words, rows.tolist(), strict=True)]
    return (f"{rows.shape[0]} {rows.shape[1]}\n" + "".join(lines)).encode()


def binary_file(words: list[str], rows: npt.NDArray[np.float32], end: bytes = b"\n") -> bytes:
    body = b"".join(
        word.encode() + b" " + row.astype("<f4").tobytes() + end for word, row in zip(words, rows, strict=True)
    )
    return f"{rows.shape[0]} {rows.shape[1]}\n".encode() + body


def assert_reads(path: Path, words: list[str], rows: npt.NDArray[np.float32], format: str) -> None:
    source = open_table(path, names=NAMES)
    assert (source.format, source.count, source.dim, source.dtype) == (format, len(words), rows.shape[1], "f32")
    ids = hashed([word.encode() for word in words])
    read_ids, read_rows = read_all(source, 3)
    np.testing.assert_array_equal(read_ids, np.sort(ids))
    np.testing.assert_array_equal(read_rows, rows[np.argsort(ids)])


@pytest.mark.parametrize("end", ["\n", " \n", "\r\n"])
@pytest.mark.parametrize("block", [1, 7, 40, 1 << 20])
@pytest.mark.parametrize("dim", [1, 5])
def test_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, block: int, dim: int) -> None:
    monkeypatch.setattr(files_word2vec, "_BLOCK_BYTES", block)
    rows = make_rows(len(WORDS), dim)
    data = text_file(WORDS, rows, end)
    (tmp_path / "t").write_bytes(data)
    assert_reads(tmp_path / "t", WORDS, rows, "word2vec-text")
    (tmp_path / "t").write_bytes(data.removesuffix(b"\n"))
    assert_reads(tmp_path / "t", WORDS, rows, "word2vec-text")


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize("block", [1, 7, 40, 1 << 20])
@pytest.mark.parametrize("dim", [1, 5])
def test_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: bytes, block: int, dim: int) -> None:
    monkeypatch.setattr(files_word2vec, "_BLOCK_BYTES", block)
    rows = make_rows(len(WORDS), dim)
    (tmp_path / "t").write_bytes(binary_file(WORDS, rows, end))
    assert_reads(tmp_path / "t", WORDS, rows, "word2vec-binary")


def test_vectors_may_hold_spaces_and_newlines(tmp_path: Path) -> None:
    rows = np.frombuffer(b"    \n\n\n\n  \n \n \n a b c d 1\n"[:24] * 2, "<f4").reshape(4, 3).copy()
    for end in (b"\n", b""):
        (tmp_path / "t").write_bytes(binary_file(WORDS[:4], rows, end))
        source = open_table(tmp_path / "t", "word2vec-binary", NAMES)
        ids = hashed([word.encode() for word in WORDS[:4]])
        np.testing.assert_array_equal(read_all(source)[1], rows[np.argsort(ids)])


def test_numbers_are_those_that_python_reads(tmp_path: Path) -> None:
    numbers = ["1e-3", "-.5", "+7", "0.1", "123456789.123456789", "1E5", "-0.0", "3.4028234e38"]
    (tmp_path / "t").write_text(f"1 {len(numbers)}\nw {' '.join(numbers)}\n")
    rows = read_all(open_table(tmp_path / "t", names=NAMES))[1]
    np.testing.assert_array_equal(rows[0], np.array([float(number) for number in numbers]).astype(np.float32))


def test_many_words_in_small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_word2vec, "_BLOCK_BYTES", 1000)
    words = [f"w{at * 37 % 2000}" for at in range(2000)]
    rows = make_rows(2000, 3)
    (tmp_path / "t").write_bytes(text_file(words, rows))
    assert_reads(tmp_path / "t", words, rows, "word2vec-text")
    (tmp_path / "t").write_bytes(binary_file(words, rows))
    assert_reads(tmp_path / "t", words, rows, "word2vec-binary")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2 2\nthe 1 2\nof 3\n", ("line 3", "1 numbers")),
        ("2 2\nthe 1 2 3\nof 3\n", ("line 2", "3 numbers")),
        ("2 2\nthe 1 2\n\nof 3 4\n", ("line 3", "word and a space")),
        ("2 2\nthe 1 2\n 3 4\n", ("line 3", "word and a space")),
        ("2 2\nthe 1 2\nof\n", ("line 3", "word and a space")),
        ("2 2\nthe 1 2\nof 3 x4\n", ("line 3", "no number", "3 x4")),
        ("2 2\nthe 1 2\nof 3 0x4\n", ("line 3", "no number")),
        ("2 2\nthe 1 2\nof 3 1-2\n", ("line 3", "no number")),
        ("3 2\nthe 1 2\nof 3 4\n", ("truncated", "after 2 words", "tells of 3")),
        ("1 2\nthe 1 2\nof 3 4\n", ("goes on after the 1 words",)),
        ("2 2\nthe 1 2\nthe 3 4\n", ("line 2 and again in line 3", "unique")),
        ("2 2\nthe 1 2\nof 3 nan\n", ("(line 3) has nan in column 1",)),
        ("2 2\nthe 1 2\nof 3 1e39\n", ("(line 3) has 1e+39 in column 1", "too large")),
        ("2 0\nthe\nof\n", ("dim of 0",)),
        ("2 65537\nthe 1 2\n", ("dim of 65537",)),
    ],
)
def test_text_that_is_no_table_is_said_with_its_line(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    for block in (10, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files_word2vec, "_BLOCK_BYTES", block)
            (tmp_path / "t.vec").write_text(text)
            expect_error(tmp_path / "t.vec", *words, names=NAMES)


def test_binary_that_is_no_table_is_said_with_its_row(tmp_path: Path) -> None:
    rows = make_rows(5, 3)
    data = binary_file(WORDS[:5], rows)
    path = tmp_path / "t"

    def refused(changed: bytes, *words: str) -> None:
        path.write_bytes(changed)
        expect_error(path, *words, format="word2vec-binary", names=NAMES)

    refused(data.replace(b"5 3\n", b"6 3\n"), "truncated", "after 5 words", "tells of 6")
    refused(data.replace(b"5 3\n", b"4 3\n"), "goes on after the 4 words")
    refused(data + b"more", "goes on after the 5 words")
    refused(data.replace(b"5 3\n", b"5 2\n"), "row ", "word")
    refused(data.replace(b"the ", b" "), "row 0", "does not begin with a word")
    refused(data.replace(b"the ", b"t\x01e "), "row 0", "word-text".replace("word-", "word2vec-"))
    refused(data.replace(b"</s> ", b"the "), "row 0 and again in row 1")
    refused(b"5 3\n" + b"x" * (1 << 17), "row 0", "does not begin with a word")
    for length in range(len(data) - 2, 4, -5):
        refused(data[:length], "truncated")


def test_a_line_without_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_word2vec, "_BLOCK_BYTES", 1000)
    (tmp_path / "t").write_bytes(b"9 2\nthe 1 2\nof " + b"1" * 1_000_000)
    expect_error(tmp_path / "t", "line 3", "longer than a line can be", names=NAMES)


def test_what_begins_otherwise_is_no_word2vec(tmp_path: Path) -> None:
    for text in ("the 1 2\n", "2\n", "2 2", "2 2 2\n", "-2 2\n", "2 2.0\n"):
        (tmp_path / "t.vec").write_text(text)
        expect_error(tmp_path / "t.vec", "two numbers, COUNT DIM", names=NAMES)


def test_words_need_a_hash_and_have_no_names(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("1 2\nthe 1 2\n")
    expect_error(tmp_path / "t", "without a feature")
    for names in (Names(ids="words"), Names(rows="x"), Names(ids="-")):
        with pytest.raises(FileError, match="leave out --ids and --rows"):
            open_table(tmp_path / "t", names=names)
