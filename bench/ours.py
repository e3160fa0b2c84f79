"""Our side of the comparison with peers: the network they are given, and our calls.

`python -m bench.ours FOLDER` writes there what is given to every subject.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stream_lstm.config import Config, build
from stream_lstm.model.engine import Engine
from stream_lstm.model.runtime import SharedArray, aligned_zeros

from .peers.workload import CHECKED, HIDDEN, SEED, Workload, series


def config(**more: Any) -> Config:
    """Return the configuration of the given network, with the scaler unless `more` says not."""
    return build({"features": ["x"], "hidden": HIDDEN, "seed": SEED, **more})


def given() -> Workload:
    """Return the network, and our p over the first elements."""
    engine = Engine(config(scaling="none"), 1)
    weights = engine.init_weights()
    kernels = (np.asarray(weights[name]["kernel"]) for name in ("layer_0", "head"))
    xs, step = series(CHECKED), stepped(engine)
    return Workload(*kernels, xs, np.array([step(x) for x in xs], np.float32))


def together(engine: Engine) -> tuple[Callable[[np.ndarray], Any], ...]:
    """Return the calls of `stepped` and `blocked` around one carry."""
    weights, carry = (
        engine.pack(engine.init_weights()),
        SharedArray(aligned_zeros((engine.width,))),
    )
    carry.host[:] = engine.init_carry()
    at = engine.scaler_size  # the last element leaves its p there

    def step(x: np.ndarray) -> float:
        engine.advance_in_place(weights, carry, x[None])
        return float(carry.host[at])

    def block(xs: np.ndarray) -> np.ndarray:
        return engine.rows(engine.advance_in_place(weights, carry, xs), len(xs))[:, 0]

    return step, block


def stepped(engine: Engine) -> Callable[[np.ndarray], float]:
    """Return the call for one element x (F,), its p read back."""
    return together(engine)[0]


def blocked(engine: Engine) -> Callable[[np.ndarray], np.ndarray]:
    """Return the call for a block xs (n, F), its p (n,) read back."""
    return together(engine)[1]


def updated(engine: Engine) -> Callable[[np.ndarray, np.ndarray], tuple[Any, float]]:
    """Return the call for one update on a tape xs (K, F) with targets (K,).

    It starts from a zero state, moves the weights and the optimiser's state, and returns the
    weights, packed, and the loss before the update. `engine.weights.host_unpack` unpacks them.
    """
    start = engine.init_weights()
    weights, optimizer = engine.pack(start), engine.init_optimizer(start)
    trace: Any = engine.init_trace()
    starts = np.zeros((len(engine.offsets), engine.state), np.float32)
    share = np.ones(engine.tape_length, np.float32)

    def call(xs: np.ndarray, targets: np.ndarray) -> tuple[Any, float]:
        nonlocal weights, optimizer, trace
        weights, optimizer, trace, info = engine.update(
            weights, optimizer, trace, xs, starts, targets, share
        )
        return weights, float(info[0])

    return call


def check(note: str) -> None:
    """Stop where our own numbers are not what they should be: then nothing can be compared."""
    if note:
        raise SystemExit(note)


if __name__ == "__main__":
    given().save(Path(sys.argv[1]))
    print(json.dumps({}))
