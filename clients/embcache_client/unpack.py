"""msgpack -> Python values, where `bin` stays a view into the message instead of a copy.

msgpack-python copies every bin, and a reply is nearly all bin. This reads what a reply holds and nothing more: maps
with string keys, arrays, strings, bins, integers, floats, booleans, nil; no extension types, at most MAX_DEPTH deep.
https://github.com/msgpack/msgpack/blob/master/spec.md

A slice past the end of a message is shorter than it should be and raises nothing. That is seen all the same: what is
read next lies past the end and raises, and if nothing is read next, the end that unpack() is told lies past the end.
"""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error
from typing import Any, Final

from embcache_client.errors import ProtocolError

MAX_DEPTH: Final = 8

_U8, _U16, _U32 = Struct(">B"), Struct(">H"), Struct(">I")
_CONSTANTS: Final = {0xC0: None, 0xC2: False, 0xC3: True}
_BIN_LENGTHS: Final = {0xC4: _U8, 0xC5: _U16, 0xC6: _U32}
_STR_LENGTHS: Final = {0xD9: _U8, 0xDA: _U16, 0xDB: _U32}
_ARRAY_LENGTHS: Final = {0xDC: _U16, 0xDD: _U32}
_MAP_LENGTHS: Final = {0xDE: _U16, 0xDF: _U32}
_NUMBERS: Final = {
    0xCA: Struct(">f"),
    0xCB: Struct(">d"),
    0xCC: _U8,
    0xCD: _U16,
    0xCE: _U32,
    0xCF: Struct(">Q"),
    0xD0: Struct(">b"),
    0xD1: Struct(">h"),
    0xD2: Struct(">i"),
    0xD3: Struct(">q"),
}


def unpack(message: memoryview) -> Any:
    """The one value that `message` (of bytes, C-contiguous) holds; every bin in it is a memoryview of `message`.

    Raises ProtocolError for anything else.
    """
    try:
        value, end = _value(message, 0, MAX_DEPTH)
    except (IndexError, struct_error):
        value, end = None, len(message) + 1
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a msgpack string is not UTF-8: {error.object[:40]!r}") from None
    if end > len(message):
        raise ProtocolError(f"msgpack ends in the middle of a value, after {len(message)} bytes")
    if end < len(message):
        raise ProtocolError(f"{len(message) - end} bytes follow the msgpack value, from byte {end}")
    return value


def _value(message: memoryview, at: int, depth: int) -> tuple[Any, int]:  # noqa: PLR0911, the most frequent come first
    """The value that begins at byte `at`, and where it ends."""
    first = message[at]
    if first < 0x80:
        return first, at + 1
    if 0xA0 <= first < 0xC0:
        end = at + 1 + (first & 0x1F)
        return str(message[at + 1 : end], "utf-8"), end
    if first in _BIN_LENGTHS:
        start, end = _extent(message, at, _BIN_LENGTHS[first])
        return message[start:end], end
    if first < 0x90:
        return _map(message, at + 1, first & 0x0F, depth)
    if first < 0xA0:
        return _array(message, at + 1, first & 0x0F, depth)
    if first in _NUMBERS:
        number = _NUMBERS[first]
        return number.unpack_from(message, at + 1)[0], at + 1 + number.size
    return _rare_value(message, at, first, depth)


def _rare_value(message: memoryview, at: int, first: int, depth: int) -> tuple[Any, int]:
    if first in _STR_LENGTHS:
        start, end = _extent(message, at, _STR_LENGTHS[first])
        return str(message[start:end], "utf-8"), end
    if first in _MAP_LENGTHS:
        start, end = _extent(message, at, _MAP_LENGTHS[first])
        return _map(message, start, end - start, depth)
    if first in _ARRAY_LENGTHS:
        start, end = _extent(message, at, _ARRAY_LENGTHS[first])
        return _array(message, start, end - start, depth)
    if first >= 0xE0:
        return first - 0x100, at + 1
    if first in _CONSTANTS:
        return _CONSTANTS[first], at + 1
    raise ProtocolError(f"msgpack type 0x{first:02x} at byte {at} has no place in a reply")


def _extent(message: memoryview, at: int, length: Struct) -> tuple[int, int]:
    """Where the content of the value at `at` starts, and where it ends if a unit of its length is a byte."""
    start = at + 1 + length.size
    return start, start + length.unpack_from(message, at + 1)[0]


def _array(message: memoryview, at: int, length: int, depth: int) -> tuple[list[Any], int]:
    _check_depth(at, depth)
    items = []
    for _ in range(length):
        item, at = _value(message, at, depth - 1)
        items.append(item)
    return items, at


def _map(message: memoryview, at: int, length: int, depth: int) -> tuple[dict[str, Any], int]:
    _check_depth(at, depth)
    items: dict[str, Any] = {}
    for _ in range(length):
        key, end = _value(message, at, depth - 1)
        if type(key) is not str:
            raise ProtocolError(f"the msgpack map key at byte {at} is not a string")
        items[key], at = _value(message, end, depth - 1)
    if len(items) != length:
        raise ProtocolError(f"a msgpack map that ends at byte {at} has a key twice")
    return items, at


def _check_depth(at: int, depth: int) -> None:
    if depth == 0:
        raise ProtocolError(f"msgpack is nested more than {MAX_DEPTH} deep at byte {at}")
