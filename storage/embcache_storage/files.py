"""Embedding tables in files: .npy, where the row number is the feature ID, and .npz with `ids` and `rows`.

    source = open_table("items.npz")              # source.count, source.dim, source.dtype
    for ids, rows in source.sorted_chunks(4096):  # uint64 [n], ascending; float32 [n, dim]
        ...
    with TableWriter("copy.npz", dim, "f32") as writer:
        writer.write(ids, rows)

Memory stays at a chunk or two, plus 16 bytes for each id of an .npz whose ids are not in order.
"""

from __future__ import annotations

from embcache_storage.files_arrays import FileError
from embcache_storage.files_read import TableFile, open_table
from embcache_storage.files_write import TableWriter

__all__ = ["FileError", "TableFile", "TableWriter", "open_table"]
