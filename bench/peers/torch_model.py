"""What the peers of PyTorch share: the given weights in its layers, on one thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .workload import HIDDEN, Workload


class Cell(torch.nn.Module):
    """An LSTMCell and a linear head with a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.LSTMCell(1, HIDDEN)
        self.head = torch.nn.Linear(HIDDEN, 1)

    def forward(self, x: Any, h: Any, c: Any) -> Any:
        """Return (p (1, 1), h', c') for x (1, 1) and h, c (1, H)."""
        h, c = self.cell(x, (h, c))
        return torch.sigmoid(self.head(h)), h, c


def fill(given: Workload, layer: Any, head: Any, suffix: str = "") -> None:
    """Give an LSTM, whose names of weights end in `suffix`, and a head the given weights."""
    torch.set_num_threads(1)
    kernel = given.kernel
    rows = {
        "weight_ih": kernel[:1].T,
        "weight_hh": kernel[1:-1].T,
        "bias_ih": kernel[-1],
        "bias_hh": np.zeros_like(kernel[-1]),
    }
    layer.load_state_dict({name + suffix: tensor(rows[name]) for name in rows})
    head.load_state_dict(
        {"weight": tensor(given.head[None, :-1]), "bias": tensor(given.head[-1:])}
    )


def tensor(array: np.ndarray) -> Any:
    """Return a tensor that owns a copy."""
    return torch.from_numpy(np.array(array, np.float32, order="C"))


def zeros() -> Any:
    """Return h or c (1, H) before the first element."""
    return torch.zeros(1, HIDDEN)
