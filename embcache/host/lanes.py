"""Eight values at a time: conversions between f32 and the narrower dtypes, and sums, as vectors of LLVM's.

LLVM makes no vectors of loops over addresses, so these say what they want. They hold no branch and nothing that only
some processors have: integer operations do what x86's F16C and Arm's FCVT would, NaN and saturation as rows.py says
them, with one addition or subtraction each (F. Giesen, "Float->half variants", 2012). No product is fused with a sum.

All take addresses, which need not be aligned: first of what is written, then of what is read. lanes_python.py has the
same as plain Python, for NUMBA_DISABLE_JIT=1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from embcache.host.jit import JIT_ENABLED

LANES = 8

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_WORDS = ir.VectorType(ir.IntType(32), LANES)
_HALVES = ir.VectorType(ir.IntType(16), LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)

Convert = Callable[[Any, Any], Any]


def _all(value: int) -> Any:
    return ir.Constant(_WORDS, [value] * LANES)


def _floats(value: float) -> Any:
    return ir.Constant(_FLOATS, [value] * LANES)


def _load(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def _spread(builder: Any, value: Any) -> Any:
    """A scalar f32 in all lanes."""
    lanes = ir.Constant(_FLOATS, ir.Undefined)
    for lane in range(LANES):
        lanes = builder.insert_element(lanes, value, ir.IntType(32)(lane))
    return lanes


def _widened_f16(builder: Any, halves: Any) -> Any:
    bits = builder.zext(halves, _WORDS)
    sign = builder.shl(builder.and_(bits, _all(0x8000)), _all(16))
    magnitude = builder.shl(builder.and_(bits, _all(0x7FFF)), _all(13))
    normal = builder.add(magnitude, _all(0x38000000))
    least = builder.bitcast(_all(0x38800000), _FLOATS)  # 2**-14: a subnormal is as much above it as it is itself
    above = builder.bitcast(builder.add(magnitude, _all(0x38800000)), _FLOATS)
    subnormal = builder.bitcast(builder.fsub(above, least), _WORDS)
    finite = builder.select(builder.icmp_unsigned("<", magnitude, _all(0x00800000)), subnormal, normal)
    other = builder.or_(magnitude, _all(0x7F800000))
    value = builder.select(builder.icmp_unsigned("<", magnitude, _all(0x0F800000)), finite, other)
    return builder.bitcast(builder.or_(sign, value), _FLOATS)


def _widened_bf16(builder: Any, halves: Any) -> Any:
    return builder.bitcast(builder.shl(builder.zext(halves, _WORDS), _all(16)), _FLOATS)


def _narrowed(builder: Any, values: Any, infinity: int, rounded: Convert) -> Any:
    """Values in 16 bits: finite ones as `rounded` makes them of their magnitudes, NaN as a quiet one of its sign."""
    bits = builder.bitcast(values, _WORDS)
    sign = builder.and_(builder.lshr(bits, _all(16)), _all(0x8000))
    magnitude = builder.and_(bits, _all(0x7FFFFFFF))
    quiet = 0x0200 if infinity == 0x7C00 else 0x0040  # the bit that makes a NaN a quiet one
    is_nan = builder.icmp_unsigned(">", magnitude, _all(0x7F800000))
    other = builder.select(is_nan, _all(infinity | quiet), _all(infinity))
    is_finite = builder.icmp_unsigned("<", magnitude, _all(0x7F800000))
    narrow = builder.select(is_finite, rounded(builder, magnitude), other)
    return builder.trunc(builder.or_(sign, narrow), _HALVES)


def _at_most(builder: Any, words: Any, limit: int) -> Any:
    return builder.select(builder.icmp_unsigned("<", words, _all(limit)), words, _all(limit))


def _to_even(builder: Any, magnitude: Any, dropped: int) -> Any:
    """Magnitudes without their lowest bits, rounded to nearest, ties to even."""
    odd = builder.and_(builder.lshr(magnitude, _all(dropped)), _all(1))
    nearly_half = builder.add(odd, _all((1 << (dropped - 1)) - 1))
    return builder.lshr(builder.add(magnitude, nearly_half), _all(dropped))


def _rounded_f16(builder: Any, magnitude: Any) -> Any:
    magnitude = _at_most(builder, magnitude, 0x477FEFFF)  # the last that rounds to 65,504
    half = builder.bitcast(_all(0x3F000000), _FLOATS)  # adding 0.5 shifts and rounds in one
    shifted = builder.bitcast(builder.fadd(builder.bitcast(magnitude, _FLOATS), half), _WORDS)
    subnormal = builder.sub(shifted, _all(0x3F000000))
    normal = _to_even(builder, builder.sub(magnitude, _all(0x38000000)), 13)
    return builder.select(builder.icmp_unsigned("<", magnitude, _all(0x38800000)), subnormal, normal)


def _rounded_bf16(builder: Any, magnitude: Any) -> Any:
    return _at_most(builder, _to_even(builder, magnitude, 16), 0x7F7F)


def _narrowed_f16(builder: Any, values: Any) -> Any:
    return _narrowed(builder, values, 0x7C00, _rounded_f16)


def _narrowed_bf16(builder: Any, values: Any) -> Any:
    return _narrowed(builder, values, 0x7F80, _rounded_bf16)


def _converter(source: Any, convert: Convert) -> Any:
    @intrinsic
    def converted(_context: Any, _target: Any, _source: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            target, at = arguments
            _store(builder, convert(builder, _load(builder, at, source)), target)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return converted


widen_f16 = _converter(_HALVES, _widened_f16)
widen_bf16 = _converter(_HALVES, _widened_bf16)
narrow_f16 = _converter(_FLOATS, _narrowed_f16)
narrow_bf16 = _converter(_FLOATS, _narrowed_bf16)


@intrinsic
def widen_codes(_context: Any, _target: Any, _codes: Any, _scale: Any, _bias: Any) -> Any:
    """The f32 values of u8 codes: code * scale + bias."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        target, codes, scale, bias = arguments
        values = builder.uitofp(_load(builder, codes, _BYTES), _FLOATS)
        scaled = builder.fmul(values, _spread(builder, scale))
        _store(builder, builder.fadd(scaled, _spread(builder, bias)), target)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, types.float32), generate


def _variable(builder: Any, value: Any) -> Any:
    """A place for a value that a loop changes."""
    return cgutils.alloca_once_value(builder, value)  # type: ignore[no-untyped-call]


def _chosen(builder: Any, sign: str, value: Any, held: Any) -> Any:
    """`value` where it compares so with what is held, which stays otherwise, as with a NaN or another zero."""
    return builder.select(builder.fcmp_ordered(sign, value, held), value, held)


@intrinsic
def narrow_codes(_context: Any, _codes: Any, _source: Any, _low: Any, _scale: Any, _limit: Any) -> Any:
    """The u8 codes of f32 values cut to +-limit: (value - low) / scale to nearest even, at most 255; of a NaN, 0."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        low, scale, limit = (_spread(builder, argument) for argument in arguments[2:])
        value = _chosen(builder, ">", builder.fneg(limit), _load(builder, arguments[1], _FLOATS))
        value = _chosen(builder, "<", limit, value)
        steps = builder.fdiv(builder.fsub(value, low), scale)
        whole = builder.bitcast(_all(0x4B000000), _FLOATS)  # 2**23, beyond which f32 has no fractions
        steps = builder.fsub(builder.fadd(steps, whole), whole)
        steps = builder.select(builder.fcmp_ordered(">", steps, _floats(0.0)), steps, _floats(0.0))
        steps = _chosen(builder, "<", _floats(255.0), steps)
        _store(builder, builder.trunc(builder.fptoui(steps, _WORDS), _BYTES), arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, types.float32, types.float32), generate


@intrinsic
def bounds_of_lanes(_context: Any, _values: Any, _groups: Any) -> Any:
    """(least, greatest) of eight times `groups` f32 values, 1 or more; of equal ones, any."""
    result: Any = types.UniTuple(types.float32, 2)  # type: ignore[no-untyped-call]

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        first = _load(builder, arguments[0], _FLOATS)
        lanes = {sign: _variable(builder, first) for sign in "<>"}
        with cgutils.for_range(builder, arguments[1]) as loop:
            offset = builder.mul(loop.index, ir.IntType(64)(4 * LANES))
            value = _load(builder, builder.add(arguments[0], offset), _FLOATS)
            for sign, held in lanes.items():
                builder.store(_chosen(builder, sign, value, builder.load(held)), held)
        bounds = []
        for sign, held in lanes.items():
            each = [builder.extract_element(builder.load(held), ir.IntType(32)(lane)) for lane in range(LANES)]
            bounds.append(reduce(partial(_chosen, builder, sign), each))
        return context.make_tuple(builder, result, bounds)

    return result(types.int64, types.int64), generate


@intrinsic
def add_lanes(_context: Any, _totals: Any, _values: Any) -> Any:
    """Add f32 values to totals."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        totals, values = (_load(builder, address, _FLOATS) for address in arguments)
        _store(builder, builder.fadd(totals, values), arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def add_weighted_lanes(_context: Any, _totals: Any, _values: Any, _weight: Any) -> Any:
    """Add f32 values, each multiplied by a weight, to totals."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        totals, values = (_load(builder, address, _FLOATS) for address in arguments[:2])
        weighted = builder.fmul(values, _spread(builder, arguments[2]))
        _store(builder, builder.fadd(totals, weighted), arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), generate


if not JIT_ENABLED:
    from embcache.host import lanes_python as _python

    globals().update({name: getattr(_python, name) for name in _python.__all__})
