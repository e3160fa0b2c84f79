"""deep-river's rolling classifier: an LSTM over the last K elements, one label each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from deep_river.classification import RollingClassifier

from .workload import HIDDEN, SEED


class Module(torch.nn.Module):
    """An LSTM (K, 1, 1) whose last output goes through a linear head to two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(1, HIDDEN)
        self.head = torch.nn.Linear(HIDDEN, 2)

    def forward(self, x: Any) -> Any:
        """Return the logits (1, 2) after the last element."""
        return self.head(self.lstm(x)[0][-1])


def learn(length: int) -> tuple[Callable[[float], object], Callable[[], np.ndarray]]:
    """Return the call that learns that an element is positive or not, and the weights (n,).

    The window of K = `length` elements is full.
    """
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = RollingClassifier(
        module=Module(),
        loss_fn="binary_cross_entropy_with_logits",
        optimizer_fn="adam",
        lr=1e-3,
        window_size=length,
        gradient_clip_value=1.0,
    )

    def call(x: float) -> object:
        return model.learn_one({"x": x}, x > 0)

    def weights() -> np.ndarray:
        leaves = [leaf.detach().numpy().ravel() for leaf in model.module.parameters()]
        return np.concatenate(leaves)

    for x in np.random.default_rng(SEED).normal(size=length).tolist():
        call(x)
    return call, weights
