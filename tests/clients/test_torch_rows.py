"""Embedding and EmbeddingBag give what torch's own give over the same rows, from a real service and in process."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from embcache.errors import EmbcacheError
from embcache_client import AsyncClient, Values, hash_values
from embcache_client.errors import MissingRows, UnknownTable
from tests.clients.torch_served import COUNT, DIM, UNIFORM, served, source_of, weight
from tests.naive import default_row
from tests.service.running import Running

torch = pytest.importorskip("torch", reason="torch is not installed")
from embcache_client.torch import NOT_ASKED, Embedding, EmbeddingBag  # noqa: E402 - they need torch

MISSING_IDS = 10
ALL = np.arange(COUNT + MISSING_IDS, dtype=np.uint64)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served(tmp_path_factory.mktemp("torch-rows")) as service:
        yield service


@pytest.fixture(params=["client", "cache"])
def source(request: pytest.FixtureRequest, serving: Running) -> Iterator[Any]:
    with source_of(request.param, serving) as opened:
        yield opened


def oracle(kind: str, **options: Any) -> Any:
    """torch's module over all rows of `item`, default rows of 10 missing ids included."""
    return getattr(torch.nn, kind).from_pretrained(torch.from_numpy(weight(ALL)), **options)


def random_ids(*shape: int, below: int = COUNT, seed: int = 1) -> Any:
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 4), (2, 3, 4)])
def test_embedding_is_torchs(source: Any, shape: tuple[int, ...]) -> None:
    ids = random_ids(*shape, below=len(ALL))
    ours = Embedding(source, "item")(ids)
    assert (ours.dtype, ours.requires_grad) == (torch.float32, False)
    assert torch.equal(ours, oracle("Embedding")(ids))


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("below", [COUNT, len(ALL)])
def test_bags_are_torchs(source: Any, mode: str, below: int) -> None:
    ours, theirs = EmbeddingBag(source, "item", mode=mode), oracle("EmbeddingBag", mode=mode)
    square, flat, offsets = random_ids(6, 5, below=below), random_ids(30, below=below), torch.tensor([0, 0, 4, 20, 30])
    torch.testing.assert_close(ours(square), theirs(square))
    torch.testing.assert_close(ours(flat, offsets), theirs(flat, offsets))
    last = EmbeddingBag(source, "item", mode=mode, include_last_offset=True)
    with_last = oracle("EmbeddingBag", mode=mode, include_last_offset=True)
    torch.testing.assert_close(last(flat, offsets), with_last(flat, offsets))
    assert ours(flat[:0], offsets[:0]).shape == (0, DIM)
    assert not ours(square).requires_grad


@pytest.mark.parametrize("below", [COUNT, len(ALL)])
def test_weighted_bags_are_torchs(source: Any, below: int) -> None:
    ours, theirs = EmbeddingBag(source, "item", mode="sum"), oracle("EmbeddingBag", mode="sum")
    ids, weights = random_ids(6, 5, below=below), torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours(ids, per_sample_weights=weights), theirs(ids, per_sample_weights=weights))
    flat, offsets = ids.reshape(-1), torch.tensor([0, 3, 3, 11])
    expected = theirs(flat, offsets, weights.reshape(-1))
    torch.testing.assert_close(ours(flat, offsets, weights.reshape(-1)), expected)


def test_weights_get_the_gradient_that_torch_gives_them(source: Any) -> None:
    ids, gradients = random_ids(4, 6, below=len(ALL)), []
    for module in (EmbeddingBag(source, "item", mode="sum"), oracle("EmbeddingBag", mode="sum")):
        weights = torch.linspace(-1, 1, 24).reshape(4, 6).requires_grad_()
        module(ids, per_sample_weights=weights).square().sum().backward()
        gradients.append(weights.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_padding_is_in_no_bag_and_zeros(source: Any, mode: str) -> None:
    ids = random_ids(6, 5, below=4)
    ours = EmbeddingBag(source, "item", mode=mode, padding_idx=2)
    torch.testing.assert_close(ours(ids), oracle("EmbeddingBag", mode=mode, padding_idx=2)(ids))
    assert ours.last is not None
    assert torch.equal(ours.last.status == NOT_ASKED, ids == 2)
    rows = Embedding(source, "item", padding_idx=-1)(torch.tensor([[3, -1], [-1, 4]]))
    expected = torch.from_numpy(weight(ALL))[torch.tensor([[3, 0], [0, 4]])]
    expected[0, 1] = expected[1, 0] = 0
    assert torch.equal(rows, expected)
    everything = EmbeddingBag(source, "item", mode=mode, padding_idx=2)(torch.full((2, 3), 2))
    assert torch.equal(everything, torch.zeros(2, DIM))


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_missing_ids_that_are_skipped_do_not_count(source: Any, mode: str) -> None:
    ids = random_ids(6, 5, below=len(ALL))
    skipping = EmbeddingBag(source, "item", mode=mode, missing="skip")
    lists = [[identifier for identifier in bag if identifier < COUNT] for bag in ids.tolist()]
    theirs = oracle("EmbeddingBag", mode=mode)
    expected = torch.cat([theirs(torch.tensor([bag], dtype=torch.int64)) for bag in lists])
    torch.testing.assert_close(skipping(ids), expected)
    assert skipping.last is not None
    assert skipping.last.missing == int((ids >= COUNT).sum()) > 0
    assert torch.equal(skipping.last.status == 0, ids >= COUNT)
    rows = Embedding(source, "item", missing="skip")(ids)
    assert torch.equal((rows == 0).all(-1), ids >= COUNT)


def test_what_was_seen_is_told(source: Any) -> None:
    module = Embedding(source, "item")
    assert module.last is None
    module(torch.tensor([[3, 55], [COUNT, 7]]))
    assert module.last is not None
    assert (module.last.status == 0).tolist() == [[False, True], [True, False]]
    assert set(module.last.status[[0, 1], [0, 1]].tolist()) <= {2, 3}
    told = source.lookup({"item": [3]})
    assert (module.last.history, module.last.version) == (told.history, told["item"].version)
    assert module.last.position == told.position
    assert module.last.missing == 2


def test_missing_ids_are_errors_if_they_are_to_be(source: Any) -> None:
    for module in (Embedding(source, "item", missing="error"), EmbeddingBag(source, "item", missing="error")):
        module(torch.tensor([[3, 4]]))
        with pytest.raises((MissingRows, EmbcacheError), match="55"):
            module(torch.tensor([[3, 55]]))


def test_hashed_ids_travel_in_both_tensors(source: Any) -> None:
    hashed = hash_values("paint", ["red", "green", "blue"])
    assert (hashed >= 2**63).any()
    expected = torch.from_numpy(np.array([default_row(identifier, DIM, UNIFORM) for identifier in hashed.tolist()]))
    module = Embedding(source, "color")
    for given in (
        torch.from_numpy(hashed),
        torch.from_numpy(hashed.view(np.int64)),
        hashed,
        hashed.tolist(),
        ["red", "green", "blue"],
        np.array(["red", "green", "blue"]),
        Values([b"red", "green", b"blue"]),
    ):
        assert torch.equal(module(given), expected)
    assert torch.equal(module([["red"], ["green"], ["blue"]]), expected[:, None])
    bags = EmbeddingBag(source, "color", mode="sum")([["red", "red"], [], ["blue"]])
    torch.testing.assert_close(bags, torch.stack([2 * expected[0], 0 * expected[0], expected[2]]))
    numbers = Embedding(source, "color")(Values([-3]))
    [identifier] = hash_values("paint", [-3]).tolist()
    assert numbers.numpy().tobytes() == default_row(identifier, DIM, UNIFORM).tobytes()


def test_rows_travel_in_other_dtypes(source: Any) -> None:
    ids = random_ids(20)
    exact = oracle("Embedding")(ids)
    for dtype, tolerance in (("f16", 1e-3), ("bf16", 1e-2), ("q8", 5e-3)):
        rows = Embedding(source, "item", dtype=dtype)(ids)
        torch.testing.assert_close(rows, exact, atol=tolerance, rtol=0)
        assert not torch.equal(rows, exact)


def test_the_output_moves_with_the_model(source: Any) -> None:
    model = torch.nn.Sequential(Embedding(source, "item"), torch.nn.Linear(DIM, 2))
    ids = random_ids(5)
    assert model.double()(ids).dtype == torch.float64
    assert model.bfloat16()[0](ids).dtype == torch.bfloat16
    assert Embedding(source, "item", device="meta")(ids).device.type == "meta"
    assert list(model.state_dict()) == ["1.weight", "1.bias"]
    assert len(list(model[0].parameters())) == 0


def test_a_copy_asks_the_same_source(source: Any) -> None:
    module = EmbeddingBag(source, "item", mode="sum")
    module.read_from(0)
    other = copy.deepcopy(module)
    other.missing, other.mode = "skip", "mean"
    assert module.mode == "sum"
    ids = random_ids(3, 4)
    torch.testing.assert_close(other(ids), oracle("EmbeddingBag", mode="mean")(ids))


def test_the_dimension_and_what_a_module_says(source: Any) -> None:
    module = Embedding(source, "color", padding_idx=-1)
    assert (module.embedding_dim, module.table) == (DIM, "color")
    assert repr(module) == f"Embedding('color', missing='default', padding_idx={2**64 - 1}, frozen)"
    with pytest.raises((UnknownTable, EmbcacheError), match="colours"):
        _ = Embedding(source, "colours").embedding_dim


def test_it_compiles(source: Any) -> None:
    model = torch.nn.Sequential(EmbeddingBag(source, "item", mode="sum"), torch.nn.Linear(DIM, 1))
    ids = random_ids(3, 4)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="eager")(ids), model(ids))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "max"}, "mode 'max' needs rows one by one: take the maximum"),
        ({"mode": "min"}, "mode 'min' is none of sum, mean"),
        ({"max_norm": 1.0}, "max_norm rewrites rows as they are read"),
        ({"missing": "no"}, "missing is 'no', none of default, skip, error"),
        ({"dtype": "f8"}, "dtype 'f8' is none of f32"),
        ({"padding_idx": 2**64}, "neither an int64 nor a u64"),
        ({"lr": 0.1}, "lr and step say nothing without a trainer"),
        ({"own_writes": True}, "own_writes needs the trainer"),
        ({"trainer": object()}, "a trainer goes with lr=, or with step="),
    ],
)
def test_settings_that_cannot_be(source: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EmbeddingBag(source, "item", **options)


def test_what_is_no_source_or_no_input_is_refused(serving: Running, source: Any) -> None:
    with pytest.raises(TypeError, match=r"dtype is torch\.float16; it names how rows travel"):
        Embedding(source, "item", dtype=torch.float16)
    with pytest.raises(TypeError, match="the source is str; a Client or an EmbeddingCache is one"):
        Embedding(serving.url, "item")
    with pytest.raises(TypeError, match="an AsyncClient, and modules are called without await: give a Client"):
        Embedding(AsyncClient(serving.url), "item")
    with pytest.raises(TypeError, match="a table's name is int, not str"):
        Embedding(source, 7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="padding_idx is str, not int"):
        Embedding(source, "item", padding_idx="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="padding_idx is an id, and the input are raw values"):
        Embedding(source, "color", padding_idx=0)(["red"])
    with pytest.raises(ValueError, match="the lists differ in length, which is for bags"):
        Embedding(source, "color")([["red"], []])
    with pytest.raises(ValueError, match="per_sample_weights go with mode 'sum', and the mode is 'mean'"):
        EmbeddingBag(source, "item")(torch.zeros(1, 1, dtype=torch.int64), None, torch.ones(1, 1))
