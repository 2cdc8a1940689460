"""What backward() pushes through a Trainer leaves the rows that torch's own modules have after a step of SGD."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache.errors import EmbcacheError
from embcache_client import Client, LookupResult, TableRows, Trainer, hash_values
from embcache_client.errors import HistoryChanged
from tests.clients.torch_served import COUNT, DIM, UNIFORM, refill, served, source_of, weight
from tests.naive import default_row
from tests.service.running import Running

torch = pytest.importorskip("torch", reason="torch is not installed")
from embcache_client.torch import Embedding, EmbeddingBag  # noqa: E402 - they need torch

ALL = np.arange(COUNT + 10, dtype=np.uint64)
LR = 0.5


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served(tmp_path_factory.mktemp("torch-learning")) as service:
        yield service


@pytest.fixture
def client(serving: Running) -> Iterator[Client]:
    """Of a service whose tables are as they began."""
    with serving.client() as client:
        refill(client)
        yield client


@pytest.fixture(params=["client", "cache"])
def source(request: pytest.FixtureRequest, serving: Running, client: Client) -> Iterator[Any]:
    with source_of(request.param, serving) as opened:
        yield opened


@pytest.fixture
def trainer(serving: Running, client: Client) -> Iterator[Trainer]:
    with Trainer(serving.url, producer="torch") as trainer:
        yield trainer


def random_ids(*shape: int, seed: int) -> Any:
    """Of rows that are there and of rows that are not, with many repeats."""
    return torch.randint(COUNT - 10, len(ALL), shape, generator=torch.Generator().manual_seed(seed))


def table_rows(client: Client, trainer: Trainer, table: str = "item", ids: Any = ALL) -> Any:
    position = trainer.flush()
    found = client.lookup({table: ids}, min_position=position, history=trainer.history, deadline_ms=20_000)
    return torch.from_numpy(found[table].rows)


def trained(module: Any, batches: list[tuple[Any, ...]], optimizer: Any = None) -> Any:
    """Steps of a model whose gradients differ from element to element; -> the module."""
    target = torch.linspace(-1, 1, DIM)
    for batch in batches:
        loss = (module(*batch) - target).square().mean(-1).sum()
        if optimizer is not None:
            optimizer.zero_grad()
        loss.backward()
        if optimizer is not None:
            optimizer.step()
    return module


def torchs(kind: str, batches: list[tuple[Any, ...]], **options: Any) -> Any:
    """The weight after torch's module and optimizer took the same steps."""
    module = getattr(torch.nn, kind).from_pretrained(torch.from_numpy(weight(ALL)), freeze=False, **options)
    return trained(module, batches, torch.optim.SGD(module.parameters(), lr=LR)).weight.detach()


@pytest.mark.parametrize("options", [{}, {"scale_grad_by_freq": True}, {"padding_idx": COUNT - 3}])
def test_embedding_learns_as_torchs(source: Any, client: Client, trainer: Trainer, options: dict[str, Any]) -> None:
    batches = [(random_ids(4, 6, seed=seed),) for seed in range(5)]
    expected = torchs("Embedding", batches, **options)
    if options.get("padding_idx"):  # ours gives zeros for it, torch's the row: neither changes it
        batches = [(ids[ids != options["padding_idx"]],) for (ids,) in batches]
        expected = torchs("Embedding", batches)
    trained(Embedding(source, "item", trainer=trainer, lr=LR, own_writes=True, **options), batches)
    rows = table_rows(client, trainer)
    torch.testing.assert_close(rows, expected)
    assert not torch.equal(rows, torch.from_numpy(weight(ALL)))


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("options", [{}, {"padding_idx": COUNT - 3}])
def test_bags_learn_as_torchs(
    source: Any, client: Client, trainer: Trainer, mode: str, options: dict[str, Any]
) -> None:
    batches: list[tuple[Any, ...]] = [(random_ids(4, 6, seed=seed),) for seed in range(4)]
    batches.append((random_ids(30, seed=9), torch.tensor([0, 0, 7, 29])))
    expected = torchs("EmbeddingBag", batches, mode=mode, **options)
    trained(EmbeddingBag(source, "item", mode=mode, trainer=trainer, lr=LR, own_writes=True, **options), batches)
    torch.testing.assert_close(table_rows(client, trainer), expected)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_gradients_of_bags_are_divided_by_frequency(source: Any, client: Client, trainer: Trainer, mode: str) -> None:
    """As torch's Embedding does; its EmbeddingBag (2.13, CPU) divides those of all ids by the count of one of them."""
    batches = [(random_ids(4, 6, seed=seed),) for seed in range(3)]
    theirs = torch.nn.Embedding.from_pretrained(torch.from_numpy(weight(ALL)), freeze=False, scale_grad_by_freq=True)
    trained(lambda ids: getattr(theirs(ids), mode)(1), batches, torch.optim.SGD(theirs.parameters(), lr=LR))
    options = {"scale_grad_by_freq": True, "own_writes": True}
    trained(EmbeddingBag(source, "item", mode=mode, trainer=trainer, lr=LR, **options), batches)
    torch.testing.assert_close(table_rows(client, trainer), theirs.weight.detach())


@pytest.mark.parametrize("of_weights", [False, True])
def test_weighted_bags_learn_as_torchs(source: Any, client: Client, trainer: Trainer, of_weights: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    sizes = [torch.randn(4, 6, generator=generator).requires_grad_(of_weights) for _ in range(4)]
    batches = [(random_ids(4, 6, seed=seed), None, weights) for seed, weights in enumerate(sizes)]
    expected = torchs("EmbeddingBag", batches, mode="sum")
    theirs = [weights.grad for weights in sizes]
    for weights in sizes:
        weights.grad = None
    trained(EmbeddingBag(source, "item", mode="sum", trainer=trainer, lr=LR, own_writes=True), batches)
    torch.testing.assert_close(table_rows(client, trainer), expected)
    torch.testing.assert_close([weights.grad for weights in sizes], theirs)


def test_missing_rows_that_are_skipped_are_not_learned(source: Any, client: Client, trainer: Trainer) -> None:
    options: dict[str, Any] = {"missing": "skip", "trainer": trainer, "lr": LR}
    trained(EmbeddingBag(source, "item", mode="mean", **options), [(torch.tensor([[1, 55], [56, 57]]),)])
    trained(Embedding(source, "item", **options), [(torch.tensor([2, 58]),)])
    rows = table_rows(client, trainer)
    changed = (rows != torch.from_numpy(weight(ALL))).any(1)
    assert changed.nonzero().flatten().tolist() == [1, 2]
    target = torch.linspace(-1, 1, DIM)
    first = torch.from_numpy(weight(ALL))[1]
    torch.testing.assert_close(rows[1], first - LR * 2 / DIM * (first - target))  # the mean was of that one row


@pytest.mark.parametrize("given", [["red", "blue", "red"], [["red", "blue"], [], ["red"]]])
def test_raw_values_are_learned_under_the_ids_that_lookups_ask(
    source: Any, client: Client, trainer: Trainer, given: list[Any]
) -> None:
    module = EmbeddingBag if isinstance(given[0], list) else Embedding
    options: dict[str, Any] = {"mode": "sum"} if module is EmbeddingBag else {}
    out = module(source, "color", trainer=trainer, lr=LR, **options)(given)
    out.sum().backward()
    ids = hash_values("paint", ["red", "blue"])
    defaults = np.array([default_row(identifier, DIM, UNIFORM) for identifier in ids.tolist()])
    expected = torch.from_numpy(defaults) - LR * torch.tensor([[2.0], [1.0]])
    torch.testing.assert_close(table_rows(client, trainer, "color", ["red", "blue"]), expected)
    assert client.lookup({"color": ["red", "blue", "green"]})["color"].found.tolist() == [True, True, False]


def test_a_model_reads_from_a_position_on(source: Any, trainer: Trainer) -> None:
    module = Embedding(source, "item", trainer=trainer, lr=LR)
    frozen = Embedding(source, "item", trainer=trainer, lr=LR, own_writes=True)
    frozen.trainer = None
    before = frozen([7])
    assert not before.requires_grad
    module([7]).sum().backward()
    module.read_from(trainer.flush(), trainer.history)
    torch.testing.assert_close(module([7]).detach(), before - LR)
    module.read_from(0, "another")
    with pytest.raises((HistoryChanged, EmbcacheError), match="another"):
        module([7])


class Recording:
    """A trainer that keeps what it is given."""

    def __init__(self) -> None:
        self.added: list[tuple[str, list[int], NDArray[np.float32]]] = []

    def add(self, table: str, ids: NDArray[np.uint64], deltas: NDArray[np.float32]) -> None:
        assert (ids.dtype.name, deltas.dtype.name) == ("uint64", "float32")
        self.added.append((table, ids.tolist(), deltas))


def test_without_a_trainer_or_grad_nothing_is_wanted(source: Any) -> None:
    assert not Embedding(source, "item")([1]).requires_grad
    recording = Recording()
    module = Embedding(source, "item", trainer=recording, lr=LR)
    with torch.no_grad():
        assert not module([1]).requires_grad
    model = torch.nn.Sequential(module, torch.nn.Linear(DIM, 1))
    model([1]).sum().backward()
    assert len(recording.added) == 1
    module.trainer = None
    model([1]).sum().backward()
    assert len(recording.added) == 1
    module.trainer, module.lr = recording, None
    with pytest.raises(ValueError, match="a trainer goes with lr=, or with step="):
        module([1])


def test_repeated_ids_are_one_delta_and_each_backward_counts(source: Any) -> None:
    recording = Recording()
    module = EmbeddingBag(source, "item", mode="sum", trainer=recording, lr=0.25)
    loss = module([[3, 3, 1], [3]]).sum()
    loss.backward(retain_graph=True)
    module.lr = 1.0
    loss.backward()
    (table, ids, first), (_, _, second) = recording.added
    assert (table, ids) == ("item", [1, 3])
    np.testing.assert_array_equal(first, [[-0.25] * DIM, [-0.75] * DIM])
    np.testing.assert_array_equal(second, [[-1.0] * DIM, [-3.0] * DIM])


def test_a_step_of_ones_own_says_what_is_added(source: Any) -> None:
    recording, seen = Recording(), []

    def signs(ids: NDArray[np.uint64], gradients: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append((ids.tolist(), gradients[:, 0].tolist()))
        return -np.sign(gradients)

    module = Embedding(source, "item", trainer=recording, step=signs)
    (module([5, 2, 5]) * torch.tensor([[3.0], [-2.0], [1.0]])).sum().backward()
    assert seen == [([2, 5], [-2.0, 4.0])]
    np.testing.assert_array_equal(recording.added[0][2], [[1.0] * DIM, [-1.0] * DIM])


def test_gradients_come_through_other_dtypes_and_copies(source: Any) -> None:
    recording = Recording()
    module = copy.deepcopy(Embedding(source, "item", trainer=recording, lr=LR).double())
    out = module(torch.tensor([[4]]))
    assert out.dtype == torch.float64
    out.sum().backward()
    np.testing.assert_array_equal(recording.added[0][2], [[-LR] * DIM])
    nothing = EmbeddingBag(source, "item", trainer=recording, lr=LR)(torch.zeros(2, 0, dtype=torch.int64))
    nothing.sum().backward()
    assert len(recording.added) == 1


class Scripted:
    """A source that answers with the statuses and versions it is told; rows of ones, and default rows of twos."""

    def __init__(self, *answers: tuple[list[int], str]) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []

    def lookup(self, tables: dict[str, Any], **_: Any) -> LookupResult:
        self.asked.append(tables["item"].tolist())
        status, version = self._next()
        rows = np.where(np.isin(status, [0, 4, 5])[:, None], 2, np.ones((len(status), 2)))
        return LookupResult([TableRows("item", version, "f32", rows.astype(np.float32), status)], 1, "h")

    def lookup_bags(self, tables: dict[str, Any], *, pooling: str, **_: Any) -> LookupResult:
        self.asked.append("bags")
        status, version = self._next()
        found = ~np.isin(status, [0, 4, 5])
        bags = np.split(found, np.cumsum(tables["item"][1])[:-1])
        sums = [part.sum() / (max(part.sum(), 1) if pooling == "mean" else 1) for part in bags]
        rows = np.repeat(np.array(sums, np.float32)[:, None], 2, axis=1)
        return LookupResult([TableRows("item", version, "f32", rows, status)], 1, "h")

    def _next(self) -> tuple[NDArray[np.uint8], str]:
        status, version = self.answers.pop(0)
        return np.array(status, np.uint8), version


def test_rows_that_came_late_or_damaged_get_no_gradient() -> None:
    recording = Recording()
    module = Embedding(Scripted(([2, 4, 0, 5], "1")), "item", trainer=recording, lr=1.0)
    out = module([10, 11, 12, 13])
    assert out[:, 0].tolist() == [1, 2, 2, 2]
    out.sum().backward()
    assert recording.added[0][1] == [10, 12]
    weights = torch.ones(1, 4, requires_grad=True)
    bag = EmbeddingBag(Scripted(([2, 4, 0, 5], "1")), "item", mode="sum", trainer=recording, lr=1.0)
    weighed = bag([[10, 11, 12, 13]], per_sample_weights=weights)
    assert weighed.tolist() == [[3, 3]]
    weighed.sum().backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [[2, 0, 4, 0]]
    assert recording.added[1][1] == [10, 12]


@pytest.mark.parametrize(("mode", "expected"), [("sum", [[3, 3], [2, 2]]), ("mean", [[1.5, 1.5], [2, 2]])])
def test_default_rows_are_added_to_what_was_pooled(mode: str, expected: Any) -> None:
    source = Scripted(([2, 4, 0, 0, 0], "1"), ([0, 0, 4], "1"))
    recording = Recording()
    module = EmbeddingBag(source, "item", mode=mode, trainer=recording, lr=1.0)
    out = module([[10, 11, 12], [13, 14]])
    assert source.asked == ["bags", [12, 13, 14]]
    assert out.tolist() == expected
    assert module.last is not None
    assert module.last.status.tolist() == [2, 4, 0, 0, 4]
    out.sum().backward()
    assert recording.added[0][1] == [10, 12, 13]
    deltas = recording.added[0][2][:, 0].tolist()
    assert deltas == ([-0.5, -0.5, -1.0] if mode == "mean" else [-1.0] * 3)


def test_a_table_that_is_filled_anew_in_between_is_asked_again() -> None:
    source = Scripted(([2, 0], "1"), ([0], "2"), ([2, 2], "2"))
    module = EmbeddingBag(source, "item", mode="sum")
    assert module([[10, 11]]).tolist() == [[2, 2]]
    assert source.asked == ["bags", [11], "bags"]
    assert module.last is not None
    assert module.last.version == "2"
