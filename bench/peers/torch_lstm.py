"""PyTorch's nn.LSTM over blocks, its state carried, in inference mode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .torch_model import fill, zeros
from .workload import HIDDEN, Workload


def sequence(given: Workload) -> Callable[[np.ndarray], np.ndarray]:
    """Return the call for a block."""
    lstm, head = torch.nn.LSTM(1, HIDDEN), torch.nn.Linear(HIDDEN, 1)
    fill(given, lstm, head, "_l0")
    state = zeros(), zeros()

    @torch.inference_mode()
    def block(xs: np.ndarray) -> np.ndarray:
        nonlocal state
        rows, state = lstm(torch.from_numpy(xs), state)
        return np.asarray(torch.sigmoid(head(rows))[:, 0].numpy())

    return block
