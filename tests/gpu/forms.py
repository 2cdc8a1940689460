"""Rows that prove themselves in every dtype: each element follows from id and writing, and is exact in all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embcache.host.rows import BF16, F16, F32, Q8

Ids = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Elements = NDArray[np.float32]

NAMES = {F32: "f32", F16: "f16", BF16: "bf16", Q8: "q8"}
_WIDTH = {F32: 4, F16: 2, BF16: 2, Q8: 1}
_MIX = np.array(0x9E3779B97F4A7C15, np.uint64)


@dataclass(frozen=True)
class Form:
    """Rows of `dim` elements, at least two, of a stored dtype, and the wire's dtype that they are asked for in."""

    stored: int
    wire: int
    dim: int

    def __str__(self) -> str:
        return f"{NAMES[self.stored]} to {NAMES[self.wire]} x {self.dim}"

    @property
    def row_bytes(self) -> int:
        """Of an encoded row."""
        return self.dim * _WIDTH[self.stored] + (8 if self.stored == Q8 else 0)

    @property
    def out_bytes(self) -> int:
        """Of a row in the wire's form, beside the scale and bias of q8."""
        return self.dim * _WIDTH[self.wire]

    def encoded(self, ids: Ids, writing: int) -> Bytes:
        """Rows u8 [n, row_bytes] as they are stored."""
        return _joined(_in_dtype(self.stored, _codes(ids, writing, self.dim), _affine(self, ids, writing)))

    def answer(self, ids: Ids, writing: int) -> Bytes:
        """Rows u8 [n] of the wire's form; of q8 the scale and the bias stand before the codes."""
        codes, (scale, bias) = _codes(ids, writing, self.dim), _affine(self, ids, writing)
        if self.wire == Q8:
            return _joined(_in_dtype(Q8, codes, (scale, bias)))
        values = codes * scale + bias if self.stored == Q8 else codes
        return _joined(_in_dtype(self.wire, values, (scale, bias)))


def _codes(ids: Ids, writing: int, dim: int) -> Elements:
    """Whole numbers of 0 to 255, f32 [n, dim]; each row has both of these, so that they are their own codes in q8."""
    words = (ids[:, None] * 1000 + writing) * _MIX + np.arange(1, dim + 1, dtype=np.uint64) * (_MIX >> 7)
    codes = ((words ^ words >> 31) * _MIX >> 56).astype(np.float32)
    codes[:, 0], codes[:, -1] = 0, 255
    return codes


def _affine(form: Form, ids: Ids, writing: int) -> tuple[Elements, Elements]:
    """Scale and bias f32 [n, 1] that a row has, or gets, in q8. Stored as q8 they tell its id and writing."""
    if form.stored != Q8:
        return np.ones((ids.size, 1), np.float32), np.zeros((ids.size, 1), np.float32)
    scale = np.full((ids.size, 1), 2.0**writing, np.float32)
    return scale, (ids[:, None] % 4096).astype(np.float32) + np.float32(writing)


def _in_dtype(dtype: int, values: Elements, affine: tuple[Elements, Elements]) -> list[Bytes]:
    """Parts of rows, u8 [n, ...] each."""
    if dtype == Q8:
        return [part.view(np.uint8) for part in affine] + [values.astype(np.uint8)]
    if dtype == BF16:
        return [(values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)]
    return [np.ascontiguousarray(values.astype(np.float32 if dtype == F32 else np.float16)).view(np.uint8)]


def _joined(parts: list[Bytes]) -> Bytes:
    return np.concatenate(parts, axis=1)


AS_STORED = (Form(F32, F32, 64), Form(F32, F32, 33))  # in pieces of 16 bytes, and of 4
EXPRESSED = (
    *(Form(F16, F32, 40), Form(F32, F16, 34), Form(F32, BF16, 32), Form(BF16, F32, 30), Form(Q8, F32, 50)),
    *(Form(Q8, Q8, 61), Form(F32, Q8, 64)),
)
