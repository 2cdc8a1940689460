"""A look at a msgpack body before it is decoded: is it whole, how deep, how many elements?

msgpack.unpackb turns 10 MiB of empty arrays into 725 MB of Python objects, so a body is measured first: one compiled
pass over its bytes, which creates no object and reads no payload. Touches nothing but the bytes it is given.
Format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import numpy as np

from embcache.errors import MalformedRequest, TooLarge
from embcache.host.jit import kernel

FINE, TRUNCATED, TOO_DEEP, TOO_MANY, EXTENSION, RESERVED, TRAILING = range(7)

_PROBLEMS = {
    TRUNCATED: "the msgpack body ends in the middle of a value: what begins at byte {0} needs more bytes than follow",
    TOO_DEEP: "the msgpack body is nested too deeply at byte {0}: at most {1} levels of maps and arrays are allowed",
    EXTENSION: "the msgpack body holds an extension type at byte {0}: only plain values, arrays and maps are allowed",
    RESERVED: "the msgpack body holds the byte 0xc1 at byte {0}, which msgpack never uses",
    TRAILING: "the msgpack body goes on after its one value: it should end at byte {0}",
}

# What the first byte of a value says: a length that counts bytes, values or pairs, and stands either in that byte
# itself (_FIXED) or in so many bytes after it (_WIDTH, big-endian).
_BYTES, _VALUES, _PAIRS = 0, 1, 2
_UNIT = np.zeros(256, np.int64)
_FIXED = np.zeros(256, np.int64)
_WIDTH = np.zeros(256, np.int64)

_UNIT[0x80:0x90], _FIXED[0x80:0x90] = _PAIRS, range(16)  # short map
_UNIT[0x90:0xA0], _FIXED[0x90:0xA0] = _VALUES, range(16)  # short array
_FIXED[0xA0:0xC0] = range(32)  # short str
_UNIT[0xC1] = -RESERVED
_WIDTH[0xC4:0xC7] = 1, 2, 4  # bin
_UNIT[0xC7:0xCA] = -EXTENSION
_FIXED[0xCA:0xD4] = 4, 8, 1, 2, 4, 8, 1, 2, 4, 8  # two floats, four unsigned, four signed
_UNIT[0xD4:0xD9] = -EXTENSION
_WIDTH[0xD9:0xE0] = 1, 2, 4, 2, 4, 2, 4  # three of str, two of array, two of map
_UNIT[0xDC:0xDE] = _VALUES
_UNIT[0xDE:0xE0] = _PAIRS


@kernel
def scan(body: bytes, max_depth: int, max_elements: int) -> tuple[int, int, int]:  # noqa: PLR0911  (one for each finding)
    """Walk over the one msgpack value that should fill `body`.

    Returns (problem, where, pairs): FINE or what is wrong, the byte at which it is, and the pairs in all maps together,
    which tells a caller who adds up the sizes of the decoded maps that no key was repeated. Elements are values at any
    depth, keys included. The outermost map or array is level 1.
    """
    left = np.empty(max_depth + 1, np.int64)  # values still to come, for each open level
    left[0] = 1
    depth, elements, pairs, at, size = 0, 0, 0, 0, len(body)
    while depth >= 0:
        if left[depth] == 0:
            depth -= 1
            continue
        left[depth] -= 1
        elements += 1
        if elements > max_elements:
            return TOO_MANY, at, pairs
        if at >= size:
            return TRUNCATED, at, pairs
        start, code = at, body[at]
        unit, length, width = _UNIT[code], _FIXED[code], _WIDTH[code]
        at += 1 + width
        if unit < 0:
            return -unit, start, pairs
        if at > size:
            return TRUNCATED, start, pairs
        for i in range(at - width, at):
            length = (length << 8) | np.int64(body[i])
        if unit == _PAIRS:
            pairs += length
            length *= 2
        if length > size - at:  # a value is a byte at least
            return TRUNCATED, start, pairs
        if unit == _BYTES:
            at += length
            continue
        depth += 1
        if depth > max_depth:
            return TOO_DEEP, start, pairs
        left[depth] = length
    return (FINE if at == size else TRAILING), at, pairs


def measure(body: bytes, max_depth: int, max_elements: int) -> int:
    """Pass a body that is safe to decode, and return the pairs in all its maps together.

    Raises MalformedRequest, or TooLarge where there are more than `max_elements` elements.
    """
    problem, where, pairs = scan(body, max_depth, max_elements)
    if problem == FINE:
        return int(pairs)
    if problem == TOO_MANY:
        raise TooLarge(
            f"the msgpack body holds more than {max_elements} elements: ask for less in one request",
            {"max_elements": max_elements},
        )
    raise MalformedRequest(_PROBLEMS[problem].format(where, max_depth), {"byte": int(where)})


def warm_up() -> None:
    """Compile `scan`, or load it from Numba's cache, before the first request needs it."""
    measure(b"\x80", 1, 1)
