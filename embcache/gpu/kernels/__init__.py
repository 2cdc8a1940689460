"""The kernels' source: CUDA C++ in .cu files, made one text, since a cached module does not see what it includes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from embcache.gpu.layout import DEFINES

FILES = (
    *("memory.cu", "table.cu", "rows.cu", "find.cu", "bags.cu", "lookup.cu", "moves.cu"),
    *("queues.cu", "write.cu", "audit.cu"),
)


def source(defines: Mapping[str, int] = {}) -> str:
    """The whole text: layout.py's constants and `defines` as #defines, then the files in their order."""
    values = {**DEFINES, **defines}
    head = "".join(f"#define {name} {value}u\n" for name, value in values.items())
    texts = [(Path(__file__).parent / name).read_text() for name in FILES]
    return head + "".join(f'#line 1 "{name}"\n{text}' for name, text in zip(FILES, texts, strict=True))
