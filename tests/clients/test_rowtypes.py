"""Row dtypes against ml_dtypes, NumPy, and arithmetic done value by value."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from embcache_client import rowtypes

EDGES = [0.0, -0.0, 1.0, -1.0, 1e-45, 65504.0, 65519.9, 65520.0, -65520.0, 1e5, 3.3e38, 3.4028235e38, -3.4028235e38]


def any_floats() -> NDArray[np.float32]:
    """[n, 4] of every kind of finite float32: all bit patterns are as likely."""
    bits = np.random.default_rng(1).integers(0, 2**32, 400_000, dtype=np.uint64).astype(np.uint32)
    values = np.concatenate([bits.view(np.float32), np.array(EDGES, np.float32)])
    finite: NDArray[np.float32] = values[np.isfinite(values)]
    return finite[: len(finite) // 4 * 4].reshape(-1, 4)


def test_sizes_are_the_protocols() -> None:
    assert [rowtypes.row_bytes(code, 10) for code in range(4)] == [40, 20, 20, 18]
    assert [rowtypes.code_of(name) for name in ("f32", "f16", "bf16", "q8")] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="'f64' is none of f32, f16, bf16, q8"):
        rowtypes.code_of("f64")


def test_f32_is_not_copied() -> None:
    rows = np.ones((3, 2), np.float32)
    assert np.shares_memory(rowtypes.encode(rows, rowtypes.F32).values, rows)
    assert np.shares_memory(rowtypes.decode(rows, rowtypes.F32), rows)


def test_f16_rounds_as_numpy_and_saturates() -> None:
    rows = any_floats()
    with np.errstate(over="ignore"):
        expected = rows.astype(np.float16)
    too_large = np.isinf(expected)
    expected[too_large] = np.copysign(np.float16(65504), rows[too_large]).astype(np.float16)
    np.testing.assert_array_equal(rowtypes.encode(rows, rowtypes.F16).values, expected)
    assert too_large.any()
    np.testing.assert_array_equal(rowtypes.decode(expected, rowtypes.F16), expected.astype(np.float32))


def test_bf16_rounds_as_ml_dtypes_and_saturates() -> None:
    rows = any_floats()
    expected = rows.astype(ml_dtypes.bfloat16)
    too_large = np.isinf(expected.astype(np.float32))
    largest = np.array(0x7F7F, np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    expected[too_large] = np.copysign(largest, rows[too_large]).astype(ml_dtypes.bfloat16)
    coded = rowtypes.encode(rows, rowtypes.BF16).values
    np.testing.assert_array_equal(coded, expected.view(np.uint16))
    assert too_large.any()
    np.testing.assert_array_equal(rowtypes.decode(coded, rowtypes.BF16), expected.astype(np.float32))


@pytest.mark.parametrize("code", [rowtypes.F16, rowtypes.BF16])
def test_infinity_and_nan_stay_what_they_are(code: int) -> None:
    odd = np.array([np.inf, -np.inf, np.nan], np.float32)
    nan_that_truncates_to_infinity = np.array([0x7F800001], np.uint32).view(np.float32)
    rows = np.concatenate([odd, nan_that_truncates_to_infinity]).reshape(1, 4)
    decoded = rowtypes.decode(rowtypes.encode(rows, code).values, code)
    np.testing.assert_array_equal(decoded, [[np.inf, -np.inf, np.nan, np.nan]])


def q8_by_hand(row: NDArray[np.float32]) -> tuple[list[int], np.float32, np.float32]:
    bias = min(row)
    scale = np.float32(np.float32(max(row) - bias) / np.float32(255))
    if scale == 0:
        return [0] * len(row), scale, bias
    codes = [int(np.clip(np.rint(np.float32(np.float32(x - bias) / scale)), 0, 255)) for x in row]
    return codes, scale, bias


def test_q8_is_the_formula() -> None:
    rows = np.random.default_rng(2).normal(size=(50, 7)).astype(np.float32) * np.float32(3)
    rows[0] = 1.5  # all equal: scale 0
    rows[1] = [1e-45, 0, 0, 0, 0, 0, 0]  # the scale underflows
    coded = rowtypes.encode(rows, rowtypes.Q8)
    assert coded.scale is not None
    assert coded.bias is not None
    for at, row in enumerate(rows):
        codes, scale, bias = q8_by_hand(row)
        assert (coded.values[at].tolist(), coded.scale[at], coded.bias[at]) == (codes, scale, bias)
    decoded = rowtypes.decode(coded.values, rowtypes.Q8, coded.scale, coded.bias)
    by_hand = [
        [np.float32(np.float32(np.float32(code) * scale) + bias) for code in codes]
        for codes, scale, bias in zip(coded.values, coded.scale, coded.bias, strict=True)
    ]
    np.testing.assert_array_equal(decoded, np.array(by_hand, np.float32))


def test_q8_of_a_span_beyond_float32_stays_finite() -> None:
    coded = rowtypes.encode(np.array([[-3.4e38, 0, 3.4e38]], np.float32), rowtypes.Q8)
    assert np.isfinite(rowtypes.decode(coded.values, rowtypes.Q8, coded.scale, coded.bias)).all()


@pytest.mark.parametrize("code", range(4))
def test_the_largest_values_are_held_beside_any_other(code: int) -> None:
    for other in (-1, 0, 1):
        rows = np.array([[rowtypes.LARGEST[code], other * rowtypes.LARGEST[code]]], np.float32)
        coded = rowtypes.encode(rows, code)
        np.testing.assert_allclose(rowtypes.decode(coded.values, code, coded.scale, coded.bias), rows, rtol=1e-6)


def test_q8_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ValueError, match="row 1 holds NaN or infinity"):
        rowtypes.encode(np.array([[1, 2], [1, np.nan]], np.float32), rowtypes.Q8)
    with pytest.raises(ValueError, match="scale and bias"):
        rowtypes.decode(np.zeros((1, 2), np.uint8), rowtypes.Q8)


@pytest.mark.parametrize("code", range(4))
def test_no_rows_are_no_trouble(code: int) -> None:
    coded = rowtypes.encode(np.empty((0, 5), np.float32), code)
    assert rowtypes.decode(coded.values, code, coded.scale, coded.bias).shape == (0, 5)
