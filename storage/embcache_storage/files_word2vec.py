"""word2vec files, text and binary: words and their vectors. A word's feature ID is its hash, as of any raw value.

    text:    "COUNT DIM\\n", then for each word "WORD NUMBER NUMBER ...\\n"
    binary:  "COUNT DIM\\n", then for each word "WORD ", DIM float32 little-endian, and perhaps "\\n"

As T. Mikolov's word2vec.c writes them (with the newline after each vector, and a space before each line's end) and
gensim does (without). Blocks of a file are taken apart as a whole: text by NumPy, binary by a compiled kernel.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from embcache_storage.files_source import MAX_DIM, FileError, Names, Source, U64Array

_BLOCK_BYTES: Final = 1 << 20
_WORD_BYTES: Final = 1 << 16
"""Most of a word."""
_NUMBER_BYTES: Final = 64
"""Most of a number in text, on average over a line."""
_NEWLINE, _SPACE, _TAB, _RETURN = b"\n \t\r"

_Piece = tuple[list[bytes], npt.NDArray[Any]]


class _Words(Source):
    """What text and binary have in common: the first line, and words that are hashed."""

    dtype = "f32"
    form: str
    other: str

    def __init__(self, path: Path, names: Names) -> None:
        if names.ids is not None or names.rows is not None:
            raise FileError(f"{path}: a word2vec file has no names for its ids and rows; leave out --ids and --rows")
        self.path = path
        self._hashed = names.hashed
        with path.open("rb") as file:
            line = file.readline(64)
        numbers = line.split()
        if len(numbers) != 2 or not all(number.isdigit() for number in numbers) or not line.endswith(b"\n"):
            raise FileError(f"{path} begins with {line!r}; word2vec files begin with a line of two numbers, COUNT DIM")
        self.count, self.dim = map(int, numbers)
        self._start = len(line)
        if not 1 <= self.dim <= MAX_DIM:
            raise FileError(f"{path}: its first line tells of a dim of {self.dim}; it must be 1 to {MAX_DIM}")

    def pieces(self, items: int) -> Iterator[tuple[U64Array, npt.NDArray[Any]]]:
        if self._hashed is None:
            raise FileError(f"{self.path} holds words; without a feature to hash them for they are no ids")
        for words, rows in self._parsed():
            for start in range(0, len(words), items):
                piece = words[start : start + items]
                yield self._hashed(piece), rows[start : start + items]

    def _parsed(self) -> Iterator[_Piece]:
        """Words and vectors, n of both, checked against the count of the first line."""
        done = 0
        with self.path.open("rb") as file:
            file.seek(self._start)
            for words, rows in self._blocks(file):
                done += len(words)
                if done > self.count:
                    raise FileError(f"{self.path} goes on after the {self.count:,} words that its first line tells of")
                yield words, rows
        if done < self.count:
            raise FileError(
                f"{self.path} is truncated: it ends after {done:,} words, its first line tells of {self.count:,}"
            )

    @abstractmethod
    def _blocks(self, file: IO[bytes]) -> Iterator[_Piece]: ...

    def _wrong(self, number: int, problem: str) -> FileError:
        return FileError(
            f"{self.path}: {self.place(number)} {problem}; it is damaged, or no {self.form} of {self.dim} numbers "
            f"a word (--format says which it is: {self.other} is the other)"
        )


class _Text(_Words):
    form = "word2vec-text"
    other = "word2vec-binary"

    def place(self, number: int) -> str:
        return f"line {number + 2}"

    def _blocks(self, file: IO[bytes]) -> Iterator[_Piece]:
        done, rest = 0, b""
        longest = _WORD_BYTES + _NUMBER_BYTES * self.dim
        while block := file.read(_BLOCK_BYTES):
            whole, newline, tail = block.rpartition(b"\n")
            if not newline:
                rest += block
            else:
                words, rows = self._lines(rest + whole + newline, done)
                yield words, rows
                done, rest = done + len(words), tail
            if len(rest) > longest:
                raise self._wrong(done, "is longer than a line can be")
        if rest:
            yield self._lines(rest + b"\n", done)

    def _lines(self, block: bytes, first: int) -> _Piece:
        """Words [n] and rows [n, dim] of whole lines."""
        text = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(text == _NEWLINE)
        starts = np.concatenate([[0], ends[:-1] + 1])
        spaces = np.flatnonzero(text == _SPACE)
        place = np.searchsorted(spaces, starts)
        after = np.append(spaces, len(text))[place]  # where each line's word ends
        self._refuse((after >= ends) | (after == starts), first, "does not begin with a word and a space")
        edges = np.zeros(len(text), np.int8)
        edges[starts], edges[after] = 1, -1
        in_word = np.cumsum(edges, dtype=np.int8).view(bool)
        blank = (text == _SPACE) | (text == _NEWLINE) | (text == _TAB) | (text == _RETURN)
        number = ~(blank | in_word)
        begins = np.flatnonzero(number[1:] & ~number[:-1]) + 1
        counts = np.diff(np.append(np.searchsorted(begins, starts), len(begins)))
        bad = counts != self.dim
        if bad.any():
            at = int(np.argmax(bad))
            raise self._wrong(first + at, f"has {counts[at]} numbers after its word")
        words = text[in_word | (text == _NEWLINE)].tobytes().split(b"\n")[:-1]
        rows = self._numbers(np.where(in_word, np.uint8(_SPACE), text).tobytes(), len(words), first)
        return words, rows

    def _numbers(self, text: bytes, lines: int, first: int) -> npt.NDArray[np.float64]:
        rows = _floats(text)
        if rows is None or rows.size != lines * self.dim:
            for at, line in enumerate(text.split(b"\n")):
                found = _floats(line)
                if found is None or (line.strip() and found.size != self.dim):
                    raise self._wrong(first + at, f"has what is no number: {line.strip()[:60]!r}")
        assert rows is not None
        return rows.reshape(lines, self.dim)

    def _refuse(self, bad: npt.NDArray[np.bool_], first: int, problem: str) -> None:
        if bad.any():
            raise self._wrong(first + int(np.argmax(bad)), problem)


class _Binary(_Words):
    form = "word2vec-binary"
    other = "word2vec-text"

    def _blocks(self, file: IO[bytes]) -> Iterator[_Piece]:
        from embcache_storage.files_word2vec_kernel import take_apart

        row_bytes = 4 * self.dim
        done, rest = 0, b""
        size = _BLOCK_BYTES + row_bytes
        while done < self.count:
            block = file.read(size)
            data = np.frombuffer(rest + block, np.uint8)
            most = min(self.count - done, len(data) // (row_bytes + 2) + 1)
            rows = np.empty((most, row_bytes), np.uint8)
            words = np.empty(len(data), np.uint8)
            n, used, word_bytes, problem = take_apart(data, row_bytes, most, _WORD_BYTES, rows, words)
            if problem:
                raise self._wrong(done + n, "does not begin with a word and a space")
            if n:
                yield words[: word_bytes - 1].tobytes().split(b"\n"), rows[:n].view("<f4")
            done, rest = done + n, data[used:].tobytes()
            if not block:
                return
        while rest:
            if rest.strip(b"\n"):
                raise FileError(f"{self.path} goes on after the {self.count:,} words that its first line tells of")
            rest = file.read(_BLOCK_BYTES)


def open_text(path: Path, names: Names) -> Source:
    """The table of a word2vec text file."""
    return _Text(path, names)


def open_binary(path: Path, names: Names) -> Source:
    """The table of a word2vec binary file."""
    return _Binary(path, names)


def _floats(text: bytes) -> npt.NDArray[np.float64] | None:
    """Numbers of a text; None where something in it is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(text, np.float64, sep=" ")
        except (DeprecationWarning, ValueError):
            return None
