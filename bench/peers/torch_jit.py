"""PyTorch's LSTMCell, traced by torch.jit and frozen, in inference mode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .torch_model import Cell, fill, zeros
from .workload import Workload


def step(given: Workload) -> Callable[[np.ndarray], float]:
    """Return the call for one element."""
    model = Cell().eval()
    fill(given, model.cell, model.head)
    example = torch.zeros(1, 1), zeros(), zeros()
    frozen = torch.jit.freeze(torch.jit.trace(model, example))
    h, c = zeros(), zeros()

    @torch.inference_mode()
    def call(x: np.ndarray) -> float:
        nonlocal h, c
        p, h, c = frozen(torch.from_numpy(x).view(1, 1), h, c)
        return float(p)

    return call
