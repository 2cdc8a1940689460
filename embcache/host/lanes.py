"""Loops over values, eight at a time: conversions between f32 and the narrower dtypes, and sums, as LLVM's vectors.

LLVM makes no vectors of loops over addresses, so these say what they want; the last few values go through the same
operations, in shorter vectors. They hold no branch and nothing that only some processors have: integer operations do
what x86's F16C and Arm's FCVT would, NaN and saturation as rows.py says them, with one addition or subtraction each
(F. Giesen, "Float->half variants", 2012). No product is fused with a sum.

All take addresses, which need not be aligned: first of what is written, then of what is read, and how many values that
is. lanes_python.py has the same as plain Python, for NUMBA_DISABLE_JIT=1.
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
_WIDTHS = (8, 4, 2, 1)

_F32, _I64 = ir.FloatType(), ir.IntType(64)
_BYTE, _HALF, _WORD = (ir.IntType(bits) for bits in (8, 16, 32))

Convert = Callable[[Any, Any], Any]


def _as(element: Any, like: Any) -> Any:
    """The type of as many elements as `like` has."""
    return ir.VectorType(element, like.type.count)


def _all(value: float, like: Any) -> Any:
    """A constant in all lanes, in the type of `like`."""
    return ir.Constant(like.type, [value] * like.type.count)


def _floats(value: float, like: Any) -> Any:
    """A constant f32 in as many lanes as `like` has."""
    return ir.Constant(_as(_F32, like), [value] * like.type.count)


def _load(builder: Any, address: Any, element: Any, lanes: int) -> Any:
    return builder.load(builder.inttoptr(address, ir.VectorType(element, lanes).as_pointer()), align=1)


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def _spread(builder: Any, value: Any, lanes: int) -> Any:
    """A scalar in so many lanes."""
    spread = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    for lane in range(lanes):
        spread = builder.insert_element(spread, value, _WORD(lane))
    return spread


def _at(builder: Any, address: Any, index: Any, size: int) -> Any:
    return builder.add(address, builder.mul(index, _I64(size)))


def _loop(builder: Any, count: Any, body: Callable[[Any, int], None]) -> None:
    """Do body(index, lanes) for all of `count` values: by LANES, and the rest by four, two and one."""
    whole = builder.and_(count, _I64(-LANES))
    with cgutils.for_range_slice(builder, _I64(0), whole, _I64(LANES), _I64) as (index, _):
        body(index, LANES)
    for lanes in _WIDTHS[1:]:
        is_left = builder.icmp_unsigned("!=", builder.and_(count, _I64(lanes)), _I64(0))
        with builder.if_then(is_left):
            body(builder.and_(count, _I64(-2 * lanes)), lanes)


def _variable(builder: Any, value: Any) -> Any:
    """A place for a value that a loop changes."""
    return cgutils.alloca_once_value(builder, value)  # type: ignore[no-untyped-call]


def _chosen(builder: Any, sign: str, held: Any, value: Any) -> Any:
    """`value` where it compares so with what is held, which stays otherwise, as with a NaN or another zero."""
    return builder.select(builder.fcmp_ordered(sign, value, held), value, held)


def _widened_f16(builder: Any, halves: Any) -> Any:
    bits = builder.zext(halves, _as(_WORD, halves))
    sign = builder.shl(builder.and_(bits, _all(0x8000, bits)), _all(16, bits))
    magnitude = builder.shl(builder.and_(bits, _all(0x7FFF, bits)), _all(13, bits))
    normal = builder.add(magnitude, _all(0x38000000, bits))
    least = _floats(2.0**-14, bits)  # a subnormal is added to it as bits, and it is subtracted as a number
    above = builder.bitcast(builder.add(magnitude, _all(0x38800000, bits)), least.type)
    subnormal = builder.bitcast(builder.fsub(above, least), bits.type)
    is_subnormal = builder.icmp_unsigned("<", magnitude, _all(0x00800000, bits))
    is_finite = builder.icmp_unsigned("<", magnitude, _all(0x0F800000, bits))
    other = builder.or_(magnitude, _all(0x7F800000, bits))
    value = builder.select(is_finite, builder.select(is_subnormal, subnormal, normal), other)
    return builder.bitcast(builder.or_(sign, value), least.type)


def _widened_bf16(builder: Any, halves: Any) -> Any:
    bits = builder.zext(halves, _as(_WORD, halves))
    return builder.bitcast(builder.shl(bits, _all(16, bits)), _as(_F32, bits))


def _narrowed(infinity: int, quiet: int, rounded: Convert, builder: Any, values: Any) -> Any:
    """Values in 16 bits: finite ones as `rounded` makes them of their magnitudes, NaN as a quiet one of its sign."""
    bits = builder.bitcast(values, _as(_WORD, values))
    sign = builder.and_(builder.lshr(bits, _all(16, bits)), _all(0x8000, bits))
    magnitude = builder.and_(bits, _all(0x7FFFFFFF, bits))
    is_nan = builder.icmp_unsigned(">", magnitude, _all(0x7F800000, bits))
    other = builder.select(is_nan, _all(infinity | quiet, bits), _all(infinity, bits))
    is_finite = builder.icmp_unsigned("<", magnitude, _all(0x7F800000, bits))
    narrow = builder.select(is_finite, rounded(builder, magnitude), other)
    return builder.trunc(builder.or_(sign, narrow), _as(_HALF, bits))


def _at_most(builder: Any, words: Any, limit: int) -> Any:
    return builder.select(builder.icmp_unsigned("<", words, _all(limit, words)), words, _all(limit, words))


def _to_even(builder: Any, magnitude: Any, dropped: int) -> Any:
    """Magnitudes without their lowest bits, rounded to nearest, ties to even."""
    odd = builder.and_(builder.lshr(magnitude, _all(dropped, magnitude)), _all(1, magnitude))
    nearly_half = builder.add(odd, _all((1 << (dropped - 1)) - 1, magnitude))
    return builder.lshr(builder.add(magnitude, nearly_half), _all(dropped, magnitude))


def _rounded_f16(builder: Any, magnitude: Any) -> Any:
    magnitude = _at_most(builder, magnitude, 0x477FEFFF)  # the last that rounds to 65,504
    half = _floats(0.5, magnitude)  # adding 0.5 shifts and rounds in one
    shifted = builder.bitcast(builder.fadd(builder.bitcast(magnitude, half.type), half), magnitude.type)
    subnormal = builder.sub(shifted, _all(0x3F000000, magnitude))
    normal = _to_even(builder, builder.sub(magnitude, _all(0x38000000, magnitude)), 13)
    is_subnormal = builder.icmp_unsigned("<", magnitude, _all(0x38800000, magnitude))
    return builder.select(is_subnormal, subnormal, normal)


def _rounded_bf16(builder: Any, magnitude: Any) -> Any:
    return _at_most(builder, _to_even(builder, magnitude, 16), 0x7F7F)


def _converter(source: Any, source_bytes: int, target_bytes: int, convert: Convert) -> Any:
    @intrinsic
    def converted(_context: Any, _target: Any, _source: Any, _count: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            target, values, count = arguments

            def body(index: Any, lanes: int) -> None:
                loaded = _load(builder, _at(builder, values, index, source_bytes), source, lanes)
                _store(builder, convert(builder, loaded), _at(builder, target, index, target_bytes))

            _loop(builder, count, body)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    return converted


widen_f16 = _converter(_HALF, 2, 4, _widened_f16)
widen_bf16 = _converter(_HALF, 2, 4, _widened_bf16)
narrow_f16 = _converter(_F32, 4, 2, partial(_narrowed, 0x7C00, 0x0200, _rounded_f16))
narrow_bf16 = _converter(_F32, 4, 2, partial(_narrowed, 0x7F80, 0x0040, _rounded_bf16))


@intrinsic
def widen_codes(_context: Any, _target: Any, _codes: Any, _count: Any, _scale: Any, _bias: Any) -> Any:
    """The f32 values of u8 codes: code * scale + bias."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        target, codes, count, scale, bias = arguments

        def body(index: Any, lanes: int) -> None:
            loaded = _load(builder, builder.add(codes, index), _BYTE, lanes)
            scaled = builder.fmul(builder.uitofp(loaded, _as(_F32, loaded)), _spread(builder, scale, lanes))
            value = builder.fadd(scaled, _spread(builder, bias, lanes))
            _store(builder, value, _at(builder, target, index, 4))

        _loop(builder, count, body)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.float32, types.float32), generate


@intrinsic
def narrow_codes(_context: Any, _codes: Any, _values: Any, _count: Any, _low: Any, _scale: Any, _limit: Any) -> Any:
    """The u8 codes of f32 values cut to +-limit: (value - low) / scale to nearest even, at most 255; of a NaN, 0."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        codes, values, count = arguments[:3]

        def body(index: Any, lanes: int) -> None:
            low, scale, limit = (_spread(builder, each, lanes) for each in arguments[3:])
            value = _load(builder, _at(builder, values, index, 4), _F32, lanes)
            value = _chosen(builder, "<", _chosen(builder, ">", value, builder.fneg(limit)), limit)
            steps = builder.fdiv(builder.fsub(value, low), scale)
            whole = _all(2.0**23, steps)  # f32 has no fractions from there on
            steps = builder.fsub(builder.fadd(steps, whole), whole)
            steps = _chosen(builder, ">", _all(0.0, steps), steps)
            steps = _chosen(builder, "<", steps, _all(255.0, steps))
            code = builder.trunc(builder.fptoui(steps, _as(_WORD, steps)), _as(_BYTE, steps))
            _store(builder, code, builder.add(codes, index))

        _loop(builder, count, body)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 3, *(types.float32,) * 3), generate


@intrinsic
def bounds_of(_context: Any, _values: Any, _count: Any) -> Any:
    """(least, greatest) of f32 values, of one at least; of equal ones, any."""
    result: Any = types.UniTuple(types.float32, 2)  # type: ignore[no-untyped-call]

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        values, count = arguments
        first = builder.extract_element(_load(builder, values, _F32, 1), _WORD(0))
        held = {lanes: [_variable(builder, _spread(builder, first, lanes)) for _ in "<>"] for lanes in _WIDTHS}

        def body(index: Any, lanes: int) -> None:
            value = _load(builder, _at(builder, values, index, 4), _F32, lanes)
            for sign, place in zip("<>", held[lanes], strict=True):
                builder.store(_chosen(builder, sign, builder.load(place), value), place)

        _loop(builder, count, body)
        bounds = []
        for sign, *places in zip("<>", *held.values(), strict=True):
            vectors = [builder.load(place) for place in places]
            each = [builder.extract_element(lanes, _WORD(at)) for lanes in vectors for at in range(lanes.type.count)]
            bounds.append(reduce(partial(_chosen, builder, sign), each))
        return context.make_tuple(builder, result, bounds)

    return result(types.int64, types.int64), generate


def _combiner(combine: Callable[[Any, Any, Any, Any], Any]) -> Any:
    """A loop over totals, f32, each of which becomes combine(builder, total, value, number), values being f32."""

    @intrinsic
    def combined(_context: Any, _totals: Any, _values: Any, _count: Any, _number: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            totals, values, count, number = arguments

            def body(index: Any, lanes: int) -> None:
                at, of = (_at(builder, address, index, 4) for address in (totals, values))
                total, value = (_load(builder, address, _F32, lanes) for address in (at, of))
                _store(builder, combine(builder, total, value, _spread(builder, number, lanes)), at)

            _loop(builder, count, body)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 3, types.float32), generate

    return combined


def _with_product(builder: Any, total: Any, value: Any, weight: Any) -> Any:
    return builder.fadd(total, builder.fmul(value, weight))


def _quotient(builder: Any, _total: Any, value: Any, divisor: Any) -> Any:
    return builder.fdiv(value, divisor)


add_weighted = _combiner(_with_product)
divide_values = _combiner(_quotient)


if not JIT_ENABLED:
    from embcache.host import lanes_python as _python

    globals().update({name: getattr(_python, name) for name in _python.__all__})
