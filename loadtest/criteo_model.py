"""The click model and its training, whichever modules hold its rows. Needs torch; knows no service."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from loadtest.criteo_data import NUMBERS, Clicks

HIDDEN = 64

Pooled = Callable[[list[str]], torch.Tensor]
"""A feature's values [n] -> f32 [n, dim]; zeros for ""."""


class Settings(NamedTuple):
    """epochs over the rows that are learned, in batches. lr: of the rows. dense_lr: of the layers. seed: of both."""

    epochs: int
    batch: int
    dim: int
    lr: float
    dense_lr: float
    seed: int


class Learned(NamedTuple):
    """scores: f32 [n] of the held-out rows, probabilities. losses: the mean log loss of each epoch."""

    scores: NDArray[np.float32]
    losses: list[float]
    seconds: float


class ClickModel:
    """26 pooled features beside 13 numbers, one hidden layer, a click's log odds."""

    def __init__(self, features: Sequence[Pooled], settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        self._features = features
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(len(NUMBERS) + settings.dim * len(features), HIDDEN),
            torch.nn.ReLU(),
            torch.nn.Linear(HIDDEN, 1),
        )

    def __call__(self, clicks: Clicks, places: Sequence[int]) -> torch.Tensor:
        """f32 [m]: the log odds of rows at m places."""
        inputs = [torch.from_numpy(clicks.numbers[places])]
        for feature, values in zip(self._features, clicks.values, strict=True):
            inputs.append(feature([values[place] for place in places]))
        return self.layers(torch.cat(inputs, dim=1)).squeeze(1)


def learn(
    features: Sequence[Pooled],
    optimizer: Any,
    clicks: Clicks,
    learned: int,
    settings: Settings,
    progress: Callable[[int, int], object],
) -> Learned:
    """Learn the first rows, in an order that the seed alone decides, and score the others.

    optimizer: of the features' rows, where they are parameters; None where backward() is all.
    """
    model = ClickModel(features, settings)
    optimizers = [torch.optim.Adam(model.layers.parameters(), lr=settings.dense_lr)]
    optimizers += [] if optimizer is None else [optimizer]
    began, losses = time.perf_counter(), []
    order = np.random.default_rng(settings.seed)
    for epoch in range(settings.epochs):
        shuffled = order.permutation(learned)
        total = 0.0
        for first in range(0, learned, settings.batch):
            places = shuffled[first : first + settings.batch].tolist()
            total += _step(model, optimizers, clicks, places) * len(places)
            progress(epoch * learned + first + len(places), settings.epochs * learned)
        losses.append(total / learned)
    return Learned(_scores(model, clicks, learned, settings.batch), losses, time.perf_counter() - began)


def _step(model: ClickModel, optimizers: Sequence[Any], clicks: Clicks, places: list[int]) -> float:
    for optimizer in optimizers:
        optimizer.zero_grad()
    clicked = torch.from_numpy(clicks.clicked[places])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(clicks, places), clicked)
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return float(loss.detach())


def _scores(model: ClickModel, clicks: Clicks, first: int, batch: int) -> NDArray[np.float32]:
    with torch.no_grad():
        parts = [
            torch.sigmoid(model(clicks, range(start, min(start + batch, len(clicks))))).numpy()
            for start in range(first, len(clicks), batch)
        ]
    return np.concatenate(parts)
