"""The calls of CUDA's driver."""

# ruff: noqa: N802 - the names are CUDA's
from __future__ import annotations

from . import runtime

CU_FUNC_ATTRIBUTE_NUM_REGS = 4


def funcGetAttribute(attribute: int, f: int) -> int:
    assert f
    runtime.check_context()
    return 72
