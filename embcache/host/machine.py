"""The few machine operations that Numba lacks, by address: prefetch, ordered words, wide compare and copy, pause.

Each has two bodies: LLVM instructions here, and ctypes in machine_python.py for NUMBA_DISABLE_JIT=1, so that
the same kernels run as plain Python in tests. Addresses and byte counts are int64, words are uint64.

x86 keeps plain loads in order, but the compiler does not, and Arm keeps neither. So a stamp is loaded with
acquire, changed between a relaxed store with a release fence and a release store, and compared again after
an acquire fence (H.-J. Boehm, "Can seqlocks get along with programming language memory models?", 2012).
What is read in between may be torn; it is thrown away when the stamps differ.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from embcache.host.jit import JIT_ENABLED

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_LANES = ir.VectorType(_I64, 8)  # one cache line
_IS_X86 = platform.machine() in ("x86_64", "AMD64")


def _pointer(builder: Any, address: Any, to: Any) -> Any:
    return builder.inttoptr(address, to.as_pointer())


def _loader(result: Any, width: int, ordering: str | None = None) -> Any:
    @intrinsic
    def load(_context: Any, _address: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            pointer = _pointer(builder, arguments[0], ir.IntType(width))
            if ordering:
                return builder.load_atomic(pointer, ordering, align=width // 8)
            return builder.load(pointer, align=1)

        return result(types.int64), generate

    return load


def _storer(value: Any, width: int, ordering: str | None = None) -> Any:
    @intrinsic
    def store(_context: Any, _address: Any, _value: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            pointer = _pointer(builder, arguments[0], ir.IntType(width))
            if ordering:
                builder.store_atomic(arguments[1], pointer, ordering, align=width // 8)
            else:
                builder.store(arguments[1], pointer, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, value), generate

    return store


def _fence(ordering: str) -> Any:
    @intrinsic
    def fence(_context: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
            builder.fence(ordering)
            return context.get_dummy_value()

        return types.void(), generate

    return fence


def _pauser() -> Any:
    @intrinsic
    def pause(_context: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
            if _IS_X86:
                function_type = ir.FunctionType(ir.VoidType(), [])
                builder.call(cgutils.get_or_insert_function(builder.module, function_type, "llvm.x86.sse2.pause"), [])
            return context.get_dummy_value()

        return types.void(), generate

    return pause


def _bitcaster(source: Any, target: Any, to: Any) -> Any:
    @intrinsic
    def cast(_context: Any, _value: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], to)

        return target(source), generate

    return cast


load_u8 = _loader(types.uint8, 8)
load_u16 = _loader(types.uint16, 16)
load_u32 = _loader(types.uint32, 32)
load_i32 = _loader(types.int32, 32)
load_i64 = _loader(types.int64, 64)
load_u64 = _loader(types.uint64, 64)
load_acquire = _loader(types.uint64, 64, "acquire")
load_acquire_u32 = _loader(types.uint32, 32, "acquire")
load_relaxed = _loader(types.uint64, 64, "monotonic")
store_u8 = _storer(types.uint8, 8)
store_u16 = _storer(types.uint16, 16)
store_u32 = _storer(types.uint32, 32)
store_i32 = _storer(types.int32, 32)
store_i64 = _storer(types.int64, 64)
store_u64 = _storer(types.uint64, 64)
store_relaxed = _storer(types.uint64, 64, "monotonic")
store_release = _storer(types.uint64, 64, "release")
fence_acquire = _fence("acquire")
fence_release = _fence("release")
pause = _pauser()  # tells an x86 core that its thread spins; elsewhere nothing
float_bits = _bitcaster(types.float32, types.uint32, _I32)
bits_float = _bitcaster(types.uint32, types.float32, ir.FloatType())


@intrinsic
def prefetch(_context: Any, _address: Any) -> Any:
    """Ask for the cache line at an address to come into the second level.

    More requests can wait there than at the first level, whose few places would be taken by a row or two.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = _pointer(builder, arguments[0], ir.IntType(8))
        function_type = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        builder.call(function, [pointer, _I32(0), _I32(2), _I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def match_line(_context: Any, _address: Any, _key: Any) -> Any:
    """Bits 0..7: which of the eight words of a cache line equal `key`."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        wanted = ir.Constant(_LANES, ir.Undefined)
        for lane in range(8):
            wanted = builder.insert_element(wanted, arguments[1], _I32(lane))
        found = builder.load(_pointer(builder, arguments[0], _LANES), align=8)
        return builder.zext(builder.bitcast(builder.icmp_unsigned("==", found, wanted), ir.IntType(8)), _I64)

    return types.uint64(types.int64, types.uint64), generate


@intrinsic
def lowest_bit(_context: Any, _mask: Any) -> Any:
    """The index of the lowest set bit; 64 for none."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(0))

    return types.int64(types.uint64), generate


@intrinsic
def copy_line(_context: Any, _target: Any, _source: Any) -> Any:
    """Copy 64 bytes as one vector; neither side need be aligned."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        target, source = (_pointer(builder, address, _LANES) for address in arguments)
        builder.store(builder.load(source, align=1), target, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def copy_bytes(_context: Any, _target: Any, _source: Any, _count: Any) -> Any:
    """Copy bytes between places that do not overlap, by the C library: a loop would be compiled wherever it stands."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        target, source = (_pointer(builder, address, ir.IntType(8)) for address in arguments[:2])
        cgutils.raw_memcpy(builder, target, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def move_bytes(_context: Any, _target: Any, _source: Any, _count: Any) -> Any:
    """The same between places that may overlap."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        target, source = (_pointer(builder, address, ir.IntType(8)) for address in arguments[:2])
        cgutils.raw_memmove(builder, target, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def call_at(_context: Any, _address: Any, _1: Any, _2: Any, _3: Any, _4: Any, _5: Any, _6: Any, _7: Any) -> Any:
    """Call what jit.compiled_at has compiled, a function of seven int64; -> an int64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        function = builder.inttoptr(arguments[0], ir.FunctionType(_I64, [_I64] * 7).as_pointer())
        return builder.call(function, arguments[1:])

    return types.int64(*(types.int64,) * 8), generate


@intrinsic
def claim(_context: Any, _address: Any, _count: Any) -> Any:
    """Add to a word atomically (relaxed) and return what it held."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = _pointer(builder, arguments[0], _I64)
        return builder.atomic_rmw("add", pointer, arguments[1], "monotonic")

    return types.uint64(types.int64, types.uint64), generate


if not JIT_ENABLED:
    from embcache.host import machine_python as _python

    globals().update({name: getattr(_python, name) for name in _python.__all__})
