"""The formats of table files: what they are called, how a file of each is known, and who reads and writes it.

What reads or writes a format is imported when it is asked for, so that its library need not be there before.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final

from embcache_storage.files_source import FileError, Names, Source


@dataclass(frozen=True, slots=True)
class Format:
    """A format by its name. A suffix says what to write, and what a file should be whose contents do not tell."""

    name: str
    suffixes: tuple[str, ...]
    reader: str
    """module:function (path, names) -> Source"""
    sink: str | None
    """module:class, see files_write; None where a table's rows cannot be written so."""
    why_not: str = ""
    changes: bool = False
    """Whether it holds changes, too: rows, and ids of those that are gone."""

    def open(self, path: Path, names: Names) -> Source:
        source: Source = _loaded(self.reader)(path, names)
        return source

    def sink_class(self) -> Any:
        assert self.sink is not None
        return _loaded(self.sink)


_WORDS: Final = "word2vec files hold words, and of its words a table keeps the hashes alone"

FORMATS: Final = (
    Format("npy", (".npy",), "files_arrays:open_npy", "files_write:NpySink"),
    Format("npz", (".npz",), "files_arrays:open_npz", "files_write:NpzSink", changes=True),
    Format("safetensors", (".safetensors",), "files_safetensors:open_file", "files_safetensors:Sink", changes=True),
    Format("parquet", (".parquet", ".pq"), "files_parts:open_parquet", "files_arrow_write:ParquetSink", changes=True),
    Format("arrow", (".arrow", ".feather", ".ipc"), "files_arrow:open_ipc", "files_arrow_write:IpcSink", changes=True),
    Format("torch", (".pt", ".pth"), "files_torch:open_file", "files_torch:Sink"),
    Format("hps", (), "files_hps:open_folder", "files_hps:Sink"),
    Format("word2vec-text", (".vec",), "files_word2vec:open_text", None, _WORDS),
    Format("word2vec-binary", (), "files_word2vec:open_binary", None, _WORDS),
)
_FOLDERS: Final = ("hps", "parquet")
BY_NAME: Final = {format.name: format for format in FORMATS}
_BY_SUFFIX: Final = {suffix: format for format in FORMATS for suffix in format.suffixes}


PART_SUFFIXES: Final = (".parquet", ".pq")
"""What the files of a table in parts end in."""


def parts_in(folder: Path) -> list[Path]:
    """What a folder of parts holds, by name, but for what its writer keeps for itself, whose names begin with _ or ."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(("_", ".")))


def named(name: str) -> Format:
    """The format of that name, or FileError."""
    if name not in BY_NAME:
        raise FileError(f"there is no format {name!r}; there are {', '.join(BY_NAME)}")
    return BY_NAME[name]


def to_write(path: Path, format: str | None, changes: bool = False) -> Format:
    """The format of a table, or of changes, to be written: `format`, or what the ending of the name says. FileError."""
    chosen = named(format) if format is not None else _BY_SUFFIX.get(path.suffix)
    writable = [each for each in FORMATS if each.sink is not None]
    if chosen is None:
        endings = ", ".join(suffix for each in writable for suffix in each.suffixes)
        raise FileError(f"{path}: the ending of its name tells no format; end it in one of {endings}, or use --format")
    if chosen.sink is None:
        names = ", ".join(each.name for each in writable)
        raise FileError(f"{path}: {chosen.why_not}; export it as one of {names}")
    if changes and not chosen.changes:
        names = ", ".join(each.name for each in writable if each.changes)
        raise FileError(f"{path}: {chosen.name} has no place for ids that are gone; export changes as one of {names}")
    return chosen


def recognised(path: Path, format: str | None) -> Format:
    """The format of a file or folder: `format`, or what its contents show, or else its suffix. FileError, OSError."""
    if format is not None:
        chosen = named(format)
        if path.is_dir() and chosen.name not in _FOLDERS:
            raise FileError(
                f"{path} is a folder: hps takes one, with the files `key` and `emb_vector`, and parquet one of parts"
            )
        if chosen.name == "hps" and not path.is_dir():
            raise FileError(f"{path} is no folder: hps takes one, with the files `key` and `emb_vector`")
        return chosen
    if path.is_dir():
        parts = any(part.suffix in PART_SUFFIXES or "=" in part.name for part in parts_in(path))
        return BY_NAME["parquet" if parts else "hps"]
    with path.open("rb") as file:
        shown = _shown(file)
    if shown is not None:
        return BY_NAME[shown]
    if path.suffix in _BY_SUFFIX:
        return _BY_SUFFIX[path.suffix]
    raise FileError(
        f"{path} is neither an .npy nor any other format known here ({', '.join(BY_NAME)}), as far as its contents and "
        "its name tell; --format says which it is"
    )


def _shown(file: IO[bytes]) -> str | None:
    """The name of the format that a file's contents show."""
    head = file.read(64)
    for magic, known in _MAGIC.items():
        if head.startswith(magic):
            return known
    return next(filter(None, (shows(file, head) for shows in _SHOWN_BY)), None)


_MAGIC: Final = {
    b"\x93NUMPY": "npy",
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"FEA1": "arrow",
    b"\xff\xff\xff\xff": "arrow",  # an Arrow stream
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.": "torch",  # as torch saved before 1.6
}


def _zip(file: IO[bytes], head: bytes) -> str | None:
    """torch saves a zip archive with a pickle in it, as NumPy does without one."""
    if not head.startswith(b"PK"):
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error):
        return None
    return "torch" if any(name.endswith("/data.pkl") for name in members) else "npz"


def _safetensors(file: IO[bytes], head: bytes) -> str | None:
    """An 8-byte length, then as much JSON."""
    if len(head) < 10 or head[8:9] != b"{":
        return None
    return "safetensors" if int.from_bytes(head[:8], "little") <= file.seek(0, 2) - 8 else None


def _word2vec(file: IO[bytes], head: bytes) -> str | None:
    """A line of two numbers; what follows it is text, or it is not."""
    line, found, _ = head.partition(b"\n")
    numbers = line.split()
    if not found or len(numbers) != 2 or not all(number.isdigit() for number in numbers):
        return None
    file.seek(len(line) + 1)
    sample = file.read(4096)
    text = not any(byte < 32 and byte not in b"\t\r\n" for byte in sample)
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        text = text and error.start > len(sample) - 4  # a letter that the sample cuts
    return "word2vec-text" if text else "word2vec-binary"


_SHOWN_BY: Final[tuple[Callable[[IO[bytes], bytes], str | None], ...]] = (_zip, _safetensors, _word2vec)


def _loaded(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f"embcache_storage.{module}"), name)
