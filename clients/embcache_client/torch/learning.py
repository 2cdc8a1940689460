"""From the gradient of a module's output to changes of the table's rows, pushed by a Trainer. Asks no source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.function import once_differentiable

from embcache_client.torch.inputs import U64s

Push = Callable[[torch.Tensor], None]
"""Takes the gradient of the rows that it is tied to."""

Step = Callable[[U64s, NDArray[np.float32]], NDArray[np.float32]]
"""(ids u64 [n], each once; gradients f32 [n, dim]) -> what is added to their rows, f32 [n, dim]."""


def tied(rows: torch.Tensor, push: Push) -> torch.Tensor:
    """The same rows, which now require grad, and whose gradient goes to `push` when backward() comes to them."""
    root = torch.empty(0, requires_grad=True)  # rows are no parameters; without one there is nothing to go back to
    return _Tied.apply(root, rows, push)


class _Tied(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, root: torch.Tensor, rows: torch.Tensor, push: Push) -> torch.Tensor:
        ctx.push = push
        return rows.view_as(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None, None]:
        ctx.push(gradient)
        return None, None, None


def summed(ids: U64s, gradients: torch.Tensor, *, by_frequency: bool) -> tuple[U64s, NDArray[np.float32]]:
    """Each id once, ascending, with the sum of its gradients [n, dim], or with their mean."""
    once, which, times = np.unique(ids, return_inverse=True, return_counts=True)
    flat = gradients.to("cpu", torch.float32)
    sums = torch.zeros(len(once), flat.shape[1]).index_add_(0, torch.from_numpy(which.reshape(-1)), flat)
    if by_frequency:
        sums /= torch.from_numpy(times)[:, None]
    return once, cast("NDArray[np.float32]", sums.numpy())


def spread(
    gradients: torch.Tensor, bag_of: NDArray[np.int64], weights: torch.Tensor | None, *, mean: bool
) -> torch.Tensor:
    """Gradients of bags [b, dim] -> those of the ids in them, [n, dim]; bag_of int64 [n], weights f32 [n] or None."""
    flat = gradients.to("cpu", torch.float32)
    if mean:
        sizes = torch.from_numpy(np.bincount(bag_of, minlength=len(flat)))
        flat = flat / sizes.clamp(min=1)[:, None]
    rows = flat[torch.from_numpy(bag_of)]
    return rows if weights is None else rows * weights[:, None]
