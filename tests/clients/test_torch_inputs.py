"""Which ids and bags a module's input means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from embcache_client import Values

torch = pytest.importorskip("torch", reason="torch is not installed")
from embcache_client.torch.inputs import bags_of, items_of  # noqa: E402 - it needs torch

LAST = 2**64 - 1


def ids(given: Any) -> list[int]:
    flat = items_of("t", given).flat
    assert isinstance(flat, np.ndarray)
    assert flat.dtype == np.uint64
    return list(flat.tolist())


def values(given: Any) -> list[object]:
    flat = items_of("t", given).flat
    assert isinstance(flat, Values)
    return list(flat.values)


def test_an_int64_tensor_is_taken_by_its_bits() -> None:
    assert ids(torch.tensor([0, 7, -1, -(2**63)])) == [0, 7, LAST, 2**63]
    hashed = np.random.default_rng(1).integers(0, LAST, 1000, np.uint64, endpoint=True)
    assert ids(torch.from_numpy(hashed.view(np.int64))) == hashed.tolist()


def test_a_uint64_tensor_is_its_ids() -> None:
    assert ids(torch.tensor([0, 7, LAST, 2**63], dtype=torch.uint64)) == [0, 7, LAST, 2**63]


@pytest.mark.parametrize("name", ["int8", "int16", "int32", "uint8", "uint16", "uint32"])
def test_narrower_tensors_are_their_numbers_and_never_negative(name: str) -> None:
    dtype = getattr(torch, name)
    most = torch.iinfo(dtype).max
    assert ids(torch.tensor([0, most], dtype=dtype)) == [0, most]
    if name.startswith("int"):
        with pytest.raises(ValueError, match=rf"id -3 at 1 of a tensor of torch\.{name} is negative; only int64"):
            items_of("t", torch.tensor([5, -3], dtype=dtype))


@pytest.mark.parametrize("dtype", ["float32", "bool", "complex64"])
def test_other_tensors_are_no_ids(dtype: str) -> None:
    with pytest.raises(TypeError, match=rf"table t: the input is torch\.{dtype}; ids are int64 or uint64"):
        items_of("t", torch.ones(2, dtype=getattr(torch, dtype)))


def test_shapes_are_kept_and_views_are_read_in_their_order() -> None:
    given = torch.arange(24).reshape(2, 3, 4).transpose(0, 2)
    items = items_of("t", given)
    assert items.shape == (4, 3, 2)
    assert ids(given) == given.reshape(-1).tolist()
    assert items_of("t", torch.tensor(5)).shape == ()
    assert items_of("t", np.zeros((0, 3), np.int64)).shape == (0, 3)


def test_arrays_and_lists_are_as_in_a_client() -> None:
    assert ids(np.array([[1, LAST]], np.uint64)) == ids([[1, LAST]]) == ids([1, LAST]) == [1, LAST]
    assert ids([[], []]) == []
    with pytest.raises(ValueError, match="id -1 at 0 is negative; raw integer values go in as Values"):
        items_of("t", np.array([-1]))
    with pytest.raises(TypeError, match="float64, not integers"):
        items_of("t", np.array([1.5]))
    with pytest.raises(TypeError, match="the input is dict, not a tensor"):
        items_of("t", {})
    with pytest.raises(TypeError, match="the input is str, not a tensor"):
        items_of("t", "red")


def test_strings_bytes_and_wrapped_integers_are_raw_values() -> None:
    assert values(["a", b"b\0"]) == ["a", b"b\0"]
    assert values(np.array([["a", "b"]])) == values([["a", "b"]]) == ["a", "b"]
    assert values(Values([1, -2])) == values(Values(np.array([[1], [-2]]))) == [1, -2]
    assert values([["a"], [], ["b", "c"]]) == ["a", "b", "c"]
    with pytest.raises(TypeError, match="'a' is no list, among lists"):
        items_of("t", [["b"], "a"])
    with pytest.raises(TypeError, match="3 at 1 is int, among str or bytes"):
        items_of("t", ["a", 3])


def lengths(given: Any, offsets: Any = None, **options: Any) -> list[int]:
    bags = bags_of("t", given, offsets, None, **{"include_last_offset": False} | options)
    return list(bags.lengths.tolist())


def test_bags_begin_at_offsets_or_are_rows() -> None:
    five = torch.arange(5)
    assert lengths(five, torch.tensor([0, 2, 2, 4])) == [2, 0, 2, 1]
    assert lengths(five, [0, 2, 5]) == [2, 3, 0]
    assert lengths(five, [0, 2, 5], include_last_offset=True) == [2, 3]
    assert lengths(five[:0], []) == lengths(five[:0], [0], include_last_offset=True) == []
    assert lengths(five[:0], [0, 0]) == [0, 0]
    assert lengths(torch.zeros(3, 4, dtype=torch.int64)) == [4, 4, 4]
    assert lengths([["a"], [], ["b", "c"]]) == lengths(Values([[1], [], [2, 3]])) == [1, 0, 2]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("given", "offsets", "options", "words"),
    [
        (torch.arange(3), None, {}, "a 1-D input needs offsets"),
        (torch.zeros(1, 1, dtype=torch.int64), [0], {}, "offsets go with a 1-D input"),
        ([["a"], []], [0], {}, "offsets go with a 1-D input"),
        (torch.zeros(1, 1, 1, dtype=torch.int64), None, {}, "bags come in 1 or 2 dimensions"),
        (torch.arange(3), [1, 2], {}, "the first offset is 1, not 0"),
        (torch.arange(3), [0, 2, 1], {}, "offsets ascend, up to the 3 ids"),
        (torch.arange(3), [0, 4], {}, "offsets ascend, up to the 3 ids"),
        (torch.arange(3), [], {}, "no offsets for 3 ids"),
        (torch.arange(3), [0, 2], {"include_last_offset": True}, "the last of the offsets is 3"),
        (torch.arange(3), [[0, 2]], {}, r"offsets are int64 of shape \[1, 2\], not integers"),
        (torch.arange(3), [0.0, 2.0], {}, "offsets are float32 of shape"),
    ],
)
def test_bags_that_cannot_be(given: Any, offsets: Any, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        lengths(given, offsets, **options)


def test_weights_have_the_inputs_shape() -> None:
    bags = bags_of(
        "t", torch.zeros(2, 2, dtype=torch.int64), None, torch.ones(2, 2).double(), include_last_offset=False
    )
    assert bags.weights is not None
    assert (bags.weights.dtype, bags.weights.shape) == (torch.float32, (4,))
    for given in ([[1, 2], [3, 4]], [[1, 2], [3, 4, 5]]):
        with pytest.raises(ValueError, match=r"per_sample_weights have shape \[3\], and the input \[(2, 2|5)\]"):
            bags_of("t", given, None, torch.ones(3), include_last_offset=False)


def test_some_of_the_bags_places() -> None:
    bags = bags_of("t", [["a"], [], ["b", "c"]], None, torch.tensor([1.0, 2.0, 3.0]), include_last_offset=False)
    some = bags.at(np.array([0, 2]))
    assert isinstance(some.flat, Values)
    assert some.weights is not None
    assert (some.flat.values, some.lengths.tolist(), some.weights.tolist()) == (["a", "c"], [1, 0, 1], [1.0, 3.0])
