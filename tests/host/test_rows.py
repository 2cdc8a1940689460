"""Row dtypes against NumPy and ml_dtypes, bit by bit where that can be asked for."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embcache.host.convert import decode_rows, encode_rows, first_nonfinite
from embcache.host.memory import address_of
from embcache.host.rows import BF16, F16, F32, Q8, convert_rows
from embcache.host.segment import COLD, HOT, MISSING, WARM
from embcache_client.rowtypes import to_q8
from tests.naive import rounded

NAMES = ["f32", "f16", "bf16", "q8"]
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def test_every_f16_decodes_as_numpy_says() -> None:
    bits = np.arange(65536, dtype=np.uint16).reshape(-1, 64)
    ours = decode_rows(bits.view(np.uint8), F16, 64)
    np.testing.assert_array_equal(ours, bits.view(np.float16).astype(np.float32))


def special_values() -> NDArray[np.uint32]:
    """Bits of f32 of all kinds, about the limits of the narrow dtypes too."""
    drawn = np.random.default_rng(11).integers(0, 2**32, 4000, dtype=np.uint32)
    limits = [0, 1, 0x33000000, 0x33000001, 0x387FE000, 0x38800000, 0x477FEFFF, 0x477FF000, 0x7F7F7FFF, 0x7F7F8000]
    other = [0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FFFFFFF]
    bits = np.concatenate([drawn, np.array(limits + other, np.uint32), drawn & 0x007FFFFF, drawn >> 3 | 0x30000000])
    return np.concatenate([bits, bits ^ np.uint32(0x80000000)])


@pytest.mark.parametrize(("code", "narrow", "nan"), [(F16, np.float16, 0x7E00), (BF16, ml_dtypes.bfloat16, 0x7FC0)])
@pytest.mark.parametrize("dim", [1, 7, 8, 29])
def test_any_bits_are_rounded_as_numpy_does_but_finite_ones_saturate(
    code: int, narrow: type, nan: int, dim: int
) -> None:
    bits = special_values()
    bits = bits[: bits.size // dim * dim].reshape(-1, dim)
    values = bits.view(np.float32)
    largest = np.float32(65504) if code == F16 else np.float32(3.3895314e38)
    with np.errstate(all="ignore"):
        wanted = np.where(np.isfinite(values), values.clip(-largest, largest), values).astype(narrow).view(np.uint16)
    wanted = np.where(np.isnan(values), nan | (bits >> 16 & 0x8000), wanted)
    encoded, _ = encode_rows(values, code)
    np.testing.assert_array_equal(encoded.view(np.uint16), wanted)


@pytest.mark.parametrize("dim", [8, 9])
def test_narrow_bits_come_back_from_f32_a_nan_as_a_quiet_one(dim: int) -> None:
    every = np.arange(65536 // dim * dim, dtype=np.uint16).reshape(-1, dim)
    for code, infinity, quiet in ((F16, 0x7C00, 0x7E00), (BF16, 0x7F80, 0x7FC0)):
        values = decode_rows(every.view(np.uint8), code, dim)
        again, _ = encode_rows(values, code)
        is_nan = every & 0x7FFF > infinity
        np.testing.assert_array_equal(np.isnan(values), is_nan)
        wanted = np.where(is_nan, every & 0x8000 | quiet, every)
        np.testing.assert_array_equal(again.view(np.uint16), wanted)


def test_every_bf16_decodes_as_ml_dtypes_says() -> None:
    bits = np.arange(65536, dtype=np.uint16).reshape(-1, 64)
    ours = decode_rows(bits.view(np.uint8), BF16, 64)
    np.testing.assert_array_equal(ours, bits.view(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize(("code", "narrow"), [(F16, np.float16), (BF16, ml_dtypes.bfloat16)])
def test_values_between_two_narrow_ones_round_to_even(code: int, narrow: type) -> None:
    steps = np.arange(0, 0x7B00 if code == F16 else 0x7F00, dtype=np.uint16).view(narrow).astype(np.float32)
    middle = (steps[:-1] + steps[1:]) / np.float32(2)
    values = np.concatenate([middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))])
    values = np.concatenate([values, -values])
    encoded, saturated = encode_rows(values[None, :], code)
    np.testing.assert_array_equal(encoded.view(np.uint16)[0], values.astype(narrow).view(np.uint16))
    assert saturated == 0


@pytest.mark.parametrize("code", [F16, BF16])
def test_values_out_of_range_saturate_and_are_counted(code: int) -> None:
    largest = np.float32(3.4028235e38)
    encoded, saturated = encode_rows(np.array([[largest, -largest, 1.0]], np.float32), code)
    row = decode_rows(encoded, code, 3)[0]
    np.testing.assert_array_equal(row, rounded(np.array([[largest, -largest, 1.0]], np.float32), NAMES[code])[0])
    assert saturated == 2
    assert np.isfinite(row).all()


@pytest.mark.parametrize("code", [F32, F16, BF16, Q8])
@given(row=st.lists(finite.filter(lambda value: abs(value) < 1e37), min_size=1, max_size=70))
def test_any_row_survives_as_the_oracle_says(code: int, row: list[float]) -> None:
    values = np.array([row], np.float32)
    encoded, _ = encode_rows(values, code)
    with np.errstate(under="ignore"):
        np.testing.assert_array_equal(decode_rows(encoded, code, len(row))[0], rounded(values, NAMES[code])[0])


@pytest.mark.parametrize("scale", [1.0, 1e38, 1e-38, 1e-40, 1e-44])
def test_q8_is_the_clients_also_for_rows_wider_than_f32s_range_and_subnormal_ones(scale: float) -> None:
    largest = float(np.finfo(np.float32).max)
    drawn = np.random.default_rng(3).standard_normal((500, 7)) * scale
    drawn[0] = (-3e38, 3e38, 0, 1, 3.4e38, -3.4e38, 1e38)
    rows = drawn.clip(-largest, largest).astype(np.float32)
    wanted = to_q8(rows)
    encoded, _ = encode_rows(rows, Q8)
    assert wanted.scale is not None
    assert wanted.bias is not None
    np.testing.assert_array_equal(encoded[:, 8:], wanted.values)
    np.testing.assert_array_equal(encoded[:, :4].copy().view("<f4")[:, 0], wanted.scale)
    np.testing.assert_array_equal(encoded[:, 4:8].copy().view("<f4")[:, 0], wanted.bias)
    assert np.isfinite(decode_rows(encoded, Q8, 7)).all()


@pytest.mark.parametrize("dim", [7, 8, 21])
def test_q8_of_zeros_of_both_signs_keeps_the_first_ones(dim: int) -> None:
    random = np.random.default_rng(12)
    rows = random.choice(np.array([0.0, -0.0, 1.0], np.float32), (200, dim))
    rows[:100] = np.copysign(0, rows[:100] - 0.5) * random.choice([-1, 1], (100, dim))
    rows[150:] = -rows[150:]
    encoded, _ = encode_rows(rows, Q8)
    bias = encoded[:, 4:8].copy().view(np.uint32)[:, 0]
    np.testing.assert_array_equal(bias, rows[np.arange(200), rows.argmin(axis=1)].view(np.uint32))
    assert (encoded[:100, :4] == 0).all()


@pytest.mark.parametrize("stored", [F32, F16, BF16, Q8])
@pytest.mark.parametrize("wire", [F32, F16, BF16, Q8])
@pytest.mark.parametrize("skip", [HOT, 255, None])
def test_rows_that_are_in_the_wires_form_already_are_left_alone(stored: int, wire: int, skip: int | None) -> None:
    random, dim = np.random.default_rng(4), 21
    rows = random.standard_normal((40, dim)).astype(np.float32)
    status = random.choice(np.array([HOT, WARM, COLD, MISSING], np.uint8), 40)
    encoded, _ = encode_rows(rows, stored)
    out = np.full((40, dim * (4, 2, 2, 1)[wire]), 0xEE, np.uint8)
    scale, bias = np.full(40, -7, np.float32), np.full(40, -8, np.float32)
    status_at, skipped = (0, HOT) if skip is None else (address_of(status), skip)
    addresses = (address_of(out), address_of(scale), address_of(bias))
    convert_rows(stored, wire, dim, address_of(encoded), 40, *addresses, status_at, skipped)
    kept = (status == HOT) & (skip == HOT)
    assert kept.any() == (skip == HOT)
    assert (out[kept] == 0xEE).all()
    assert (scale[kept] == -7).all()
    assert (bias[kept] == -8).all()
    if wire == Q8:
        out = np.concatenate([scale[:, None].view(np.uint8), bias[:, None].view(np.uint8), out], axis=1)
    found = decode_rows(np.ascontiguousarray(out[~kept]), wire, dim)
    wanted = rounded(rows, NAMES[stored])[~kept]
    np.testing.assert_array_equal(found, wanted if stored == wire else rounded(wanted, NAMES[wire]))


def test_rows_that_are_not_finite_are_found() -> None:
    rows = np.zeros((4, 3), np.float32)
    assert first_nonfinite(rows) == -1
    rows[2, 1] = np.nan
    rows[3, 0] = np.inf
    assert first_nonfinite(rows) == 2
