"""Our packed kernel as the parameters of `flax.linen.OptimizedLSTMCell`, and back.

That cell holds a dense layer for each gate: `ii`, `if`, `ig`, `io` over the input, without bias,
and `hi`, `hf`, `hg`, `ho` over the state, with one. Its carry is (c, h); ours is (h, c).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

GATES = "ifgo"


def to_flax(kernel: Any) -> dict[str, dict[str, Any]]:
    """Return the parameters of a cell for a packed kernel (I + H + 1, 4H)."""
    kernel = np.asarray(kernel)
    hidden = kernel.shape[1] // 4
    cut = len(kernel) - hidden - 1
    if cut < 1 or kernel.shape[1] != 4 * hidden:
        raise ValueError(f"a packed kernel is (I + H + 1, 4H), not {kernel.shape}")
    params: dict[str, dict[str, Any]] = {}
    for gate, part in zip(GATES, np.split(kernel, 4, axis=1), strict=True):
        params[f"i{gate}"] = {"kernel": part[:cut]}
        params[f"h{gate}"] = {"kernel": part[cut:-1], "bias": part[-1]}
    return params


def from_flax(params: Mapping[str, Mapping[str, Any]]) -> np.ndarray:
    """Return the packed kernel (I + H + 1, 4H) of a cell's parameters."""
    columns = []
    for gate in GATES:
        state = params[f"h{gate}"]
        parts = params[f"i{gate}"]["kernel"], state["kernel"], np.asarray(state["bias"])[None]
        columns.append(np.concatenate([np.asarray(part) for part in parts]))
    return np.concatenate(columns, axis=1)
