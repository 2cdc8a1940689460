"""Embedding and EmbeddingBag: called as those of torch.nn, with rows of a table of a source in place of a weight."""

from __future__ import annotations

import copy
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from embcache_client.lookup import Values
from embcache_client.torch import learning
from embcache_client.torch.inputs import Bags, Flat, U64s, bags_of, count, items_of
from embcache_client.torch.source import NOT_ASKED, Found, Missing, Seen, Table

MODES: Final = ("sum", "mean")


class _Rows(torch.nn.Module):  # type: ignore[misc]
    """What both have in common: the table, what was seen last, and the way of a gradient."""

    def __init__(
        self,
        source: Any,
        table: str,
        *,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        missing: Missing = "default",
        trainer: Any = None,
        lr: float | None = None,
        step: learning.Step | None = None,
        own_writes: bool = False,
        dtype: str = "f32",
        deadline_ms: int | None = None,
        version: str | None = None,
        feature: str | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if max_norm is not None:
            raise ValueError(
                "max_norm rewrites rows as they are read, and a table's rows change by updates alone: clip them where "
                "they are made, or in step="
            )
        self._table = Table(source, table, missing, feature, dtype=dtype, deadline_ms=deadline_ms, version=version)
        self.padding_idx = None if padding_idx is None else _padding_id(padding_idx)
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        self.trainer, self.lr, self.step, self.own_writes = trainer, lr, step, own_writes
        self.last: Seen | None = None
        # Where outputs go, and as what: to(), cuda() and half() move this as they would a weight.
        self.register_buffer("_like", torch.empty(0, device=device), persistent=False)
        self._check()
        if trainer is None and own_writes:
            raise ValueError("own_writes needs the trainer whose writes they are")
        if trainer is None and (lr is not None or step is not None):
            raise ValueError("lr and step say nothing without a trainer: without one, the rows are frozen")

    @property
    def table(self) -> str:
        """The table's name."""
        return self._table.name

    @property
    def embedding_dim(self) -> int:
        """Elements of a row; asked of the source at the first use."""
        return self._table.dim

    def read_from(self, position: int, history: str | None = None) -> None:
        """Look up nothing older than this from now on, such as trainer.flush() and trainer.history.

        A lookup waits until the position is applied, for deadline_ms at most; HistoryChanged where it counts no more.
        """
        self._table.min_position, self._table.history = position, history

    def __deepcopy__(self, memo: dict[int, Any]) -> _Rows:
        """A copy has the same source and trainer."""
        made = type(self).__new__(type(self))
        memo[id(self)], memo[id(self.trainer)] = made, self.trainer
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    def extra_repr(self) -> str:
        said = f"{self.table!r}, missing={self._table.missing!r}"
        if self.padding_idx is not None:
            said += f", padding_idx={self.padding_idx}"
        return said + (", frozen" if self.trainer is None else f", lr={self.lr}" if self.step is None else ", step")

    # --- for the two -----------------------------------------------------------------------------------------------

    @property
    def _learns(self) -> bool:
        """Whether gradients are wanted of this call."""
        self._check()
        return self.trainer is not None and torch.is_grad_enabled()

    def _check(self) -> None:
        """ValueError where it is not said what a gradient does; that may be set anew at any time."""
        if self.trainer is not None and (self.lr is None) == (self.step is None):
            raise ValueError("a trainer goes with lr=, or with step=: one of them says what a gradient adds to a row")

    def _prepared(self, flat: Flat) -> Flat:
        """What is to be looked up: ids where their gradients go somewhere, since an update names ids."""
        if self.padding_idx is not None and isinstance(flat, Values):
            raise TypeError(f"table {self.table}: padding_idx is an id, and the input are raw values: leave them out")
        if self.own_writes and self.trainer is not None:
            self.read_from(self.trainer.flush(), self.trainer.history)
        return self._table.hashed(flat) if self._learns else flat

    def _asked_places(self, flat: Flat) -> NDArray[np.intp] | None:
        """Those that are not padding; None where all are."""
        if self.padding_idx is None or isinstance(flat, Values):
            return None
        places = np.flatnonzero(flat != np.uint64(self.padding_idx))
        return None if len(places) == len(flat) else places

    def _note(self, found: Found, shape: tuple[int, ...], places: NDArray[np.intp] | None) -> None:
        status = found.status.copy()
        if places is not None:
            status = np.full(int(np.prod(shape)), NOT_ASKED, np.uint8)
            status[places] = found.status
        rows = found.result[self.table]
        self.last = Seen(
            torch.from_numpy(status.reshape(shape)), found.result.position, found.result.history, rows.version
        )

    def _out(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.to(device=self._like.device, dtype=self._like.dtype)

    def _push(self, ids: U64s, gradients: torch.Tensor) -> None:
        """Change the rows of ids u64 [n], repeats allowed, by their gradients [n, dim]."""
        if not len(ids) or self.trainer is None:
            return
        once, sums = learning.summed(ids, gradients, by_frequency=self.scale_grad_by_freq)
        deltas = self.step(once, sums) if self.step is not None else sums * np.float32(-(self.lr or 0.0))
        self.trainer.add(self.table, once, deltas)


class Embedding(_Rows):
    """Rows of ids or raw values, as torch.nn.Embedding gives them: input of any shape [*] -> f32 [*, dim].

    source: a Client, or an EmbeddingCache of this process. table: its name.
    padding_idx: an id that is not looked up and gets no gradient; its output is zeros. -1 is that of an int64 tensor.
    missing: what stands for an id without a row: its "default" row; zeros ("skip"); or "error", which raises
        MissingRows, and for late and damaged rows what the source raises. `last` tells which they were.
    trainer: where gradients go, at each backward(): as an add of -lr * gradient, or of what step(ids, gradients)
        gives, to rows of which each id stands once. Without a trainer the output requires no grad. Rows that came late
        or damaged get no gradient, nor do missing ones that are skipped.
    own_writes: flush the trainer before each lookup, and wait until it is applied: the model reads what it wrote.
    dtype: of rows on the wire: "f32", "f16", "bf16" or "q8". deadline_ms, version: as in Client.lookup. What a trainer
        pushes goes to the live version, and to those that follow it.
    feature: as which raw values are hashed for a trainer; asked of the source where it is not given.
    scale_grad_by_freq: as torch's. sparse: has no effect, since only rows that were asked for are ever changed.
    device: of the output, as for any module; ids may lie anywhere.

    `last` is a Seen. lr, step, trainer (None: frozen) and own_writes may be set at any time. Which ids a tensor's
    elements are is said in embcache_client.torch.inputs. Raises the errors of its source, and in backward() those of
    the trainer.
    """

    @torch.compiler.disable  # what goes over sockets cannot be compiled; the rest of a model can
    def forward(self, input: Any) -> torch.Tensor:
        items = items_of(self.table, input)
        if items.shape is None:
            raise ValueError(f"table {self.table}: the lists differ in length, which is for bags: see EmbeddingBag")
        flat = self._prepared(items.flat)
        places = self._asked_places(flat)
        asked = flat if places is None or isinstance(flat, Values) else flat[places]
        found = self._table.rows(asked)
        self._note(found, items.shape, places)
        rows = found.rows
        if self._learns and not isinstance(asked, Values):
            rows = learning.tied(rows, lambda gradient: self._push_counted(asked, found.counted, gradient))
        if places is not None:
            rows = rows.new_zeros(count(flat), rows.shape[1]).index_copy(0, torch.from_numpy(places), rows)
        return self._out(rows.reshape(*items.shape, rows.shape[1]))

    def _push_counted(self, ids: U64s, counted: NDArray[np.bool_], gradient: torch.Tensor) -> None:
        if not counted.all():
            ids, gradient = ids[counted], gradient[torch.from_numpy(counted)]
        self._push(ids, gradient)


class EmbeddingBag(_Rows):
    """One pooled row for each bag, as torch.nn.EmbeddingBag gives it: f32 [bags, dim].

    mode: "sum" or "mean". include_last_offset: offsets end with the number of ids.
    padding_idx: an id that is in no bag: it adds nothing and does not count.
    missing: an id without a row counts with its "default" row, or not at all ("skip"), or is an "error".

    The rest is as in Embedding. The source pools; rows come one by one only where per_sample_weights require grad, and
    for missing ids their default rows. Rows that came late or damaged add nothing.
    """

    def __init__(
        self, source: Any, table: str, *, mode: str = "mean", include_last_offset: bool = False, **options: Any
    ) -> None:
        if mode == "max":
            raise ValueError("mode 'max' needs rows one by one: take the maximum of what an Embedding gives")
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
        super().__init__(source, table, **options)
        self.mode, self.include_last_offset = mode, include_last_offset

    @torch.compiler.disable
    def forward(self, input: Any, offsets: Any = None, per_sample_weights: Any = None) -> torch.Tensor:
        """input: 1-D with offsets [bags], or 2-D, or a list of lists of any lengths, each a bag.

        per_sample_weights: in the shape of the input, [n] for lists of different lengths; with mode "sum" alone.
        """
        if per_sample_weights is not None and self.mode != "sum":
            raise ValueError(f"per_sample_weights go with mode 'sum', and the mode is {self.mode!r}")
        bags = bags_of(self.table, input, offsets, per_sample_weights, include_last_offset=self.include_last_offset)
        bags = bags._replace(flat=self._prepared(bags.flat))
        places = self._asked_places(bags.flat)
        asked = bags if places is None else bags.at(places)
        weighed = asked.weights is not None and asked.weights.requires_grad and torch.is_grad_enabled()
        found = self._table.rows(asked.flat) if weighed else self._table.pooled(asked, self.mode)
        self._note(found, bags.shape, places)
        return self._out(self._weighed(asked, found) if weighed else self._pooled(asked, found))

    def _pooled(self, bags: Bags, found: Found) -> torch.Tensor:
        """What the source pooled, its gradient spread over the ids that are in it."""
        ids = bags.flat
        if isinstance(ids, Values) or not self._learns:
            return found.rows
        places = np.flatnonzero(found.counted)
        bag_of = bags.of_each[places]
        weights = None if bags.weights is None else bags.weights.detach()[torch.from_numpy(places)]
        mean = self.mode == "mean"
        return learning.tied(
            found.rows,
            lambda gradient: self._push(ids[places], learning.spread(gradient, bag_of, weights, mean=mean)),
        )

    def _weighed(self, bags: Bags, found: Found) -> torch.Tensor:
        """The sum of single rows by weights that have a gradient of their own."""
        places = np.flatnonzero(found.counted)
        there = torch.from_numpy(places)
        rows, ids = found.rows[there], bags.flat
        if self._learns and not isinstance(ids, Values):
            rows = learning.tied(rows, lambda gradient: self._push(ids[places], gradient))
        assert bags.weights is not None
        products = rows * bags.weights[there, None]
        return rows.new_zeros(len(bags.lengths), rows.shape[1]).index_add(
            0, torch.from_numpy(bags.of_each[places]), products
        )


def _padding_id(given: int) -> int:
    """The id that a padding_idx means: what it is in an int64 or uint64 tensor."""
    if isinstance(given, bool) or not isinstance(given, int | np.integer):
        raise TypeError(f"padding_idx is {type(given).__name__}, not int")
    if not -(1 << 63) <= given < 1 << 64:
        raise ValueError(f"padding_idx {given} is neither an int64 nor a u64")
    return int(given) % (1 << 64)
