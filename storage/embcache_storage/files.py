"""Embedding tables in files: NumPy, safetensors, Parquet, Arrow, word2vec, PyTorch state dicts, HugeCTR HPS folders.

    source = open_table("items.npz")              # source.count, source.dim, source.dtype
    for ids, rows in source.sorted_chunks(4096):  # uint64 [n], ascending; float32 [n, dim]
        ...
    with TableWriter("copy.npz", dim, "f32") as writer:
        writer.write(ids, rows)

Memory stays at some chunks and what sorting is given, whatever the file's size and order. docs/files.md says what is
read of each format.
"""

from __future__ import annotations

from embcache_storage.files_changes import Changes
from embcache_storage.files_formats import FORMATS
from embcache_storage.files_read import TableFile, open_table
from embcache_storage.files_source import NUMBERED, FileError, Names
from embcache_storage.files_write import TableWriter

__all__ = ["FORMATS", "NUMBERED", "Changes", "FileError", "Names", "TableFile", "TableWriter", "open_table"]
