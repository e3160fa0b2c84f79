"""One element through the network, its prediction read back: 32 hidden units, one feature.

`ours` and `empty` take turns in one process, a few hundred calls each, so that what the machine
does meanwhile falls on both. `empty` is a compiled call with the same inputs and outputs that
computes next to nothing: what is left is the price of any call into JAX. `session` is the whole
path of one raw tick: check, feature, step, score, predict. `numpy` is the same cell by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .report import fresh, medians, percentiles

CALLS, WARM_UP, TURN = 20_000, 2_000, 500

SEED = 7


def run(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {subject: figures}."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for _ in range(arguments.repeats):
        for subject in ("jax", "session", "numpy"):
            for name, figures in fresh("bench.step", subject).items():
                rows.setdefault(name, []).append(figures)
    return {name: medians(runs) for name, runs in rows.items()}


def interleaved(calls: dict[str, Callable[[int], object]]) -> dict[str, dict[str, float]]:
    """Time calls in turns; return percentiles of each."""
    spent: dict[str, list[int]] = {name: [] for name in calls}
    clock = time.perf_counter_ns
    for start in range(0, CALLS, TURN):
        for name, call in calls.items():
            durations = spent[name]
            for k in range(start, start + TURN):
                before = clock()
                call(k)
                durations.append(clock() - before)
    return {name: percentiles(durations[WARM_UP:]) for name, durations in spent.items()}


def subject_jax() -> dict[str, Any]:
    """Time `ours` and `empty`."""
    import jax

    from stream_lstm.config import build
    from stream_lstm.model.engine import Engine

    engine = Engine(build({"features": ["x"]}), 1)
    xs = np.random.default_rng(SEED).normal(size=(CALLS, 1)).astype(np.float32)
    weights, carry = engine.init_weights(), engine.init_carry()

    def nothing(_weights: Any, carry: Any, x: Any) -> Any:
        return carry + 1.0, x * 2.0

    empty_call = jax.jit(nothing, keep_unused=True).lower(weights, carry, xs[0]).compile()
    held = {"ours": carry, "empty": carry}

    def ours(k: int) -> Any:
        held["ours"], row = engine.step(weights, held["ours"], xs[k])
        return np.asarray(row)

    def empty(k: int) -> Any:
        held["empty"], row = empty_call(weights, held["empty"], xs[k])
        return np.asarray(row)

    result = interleaved({"ours": ours, "empty": empty})
    ratio = {q: result["ours"][q] / result["empty"][q] for q in result["ours"]}
    return result | {"ours / empty": {q: round(value, 3) for q, value in ratio.items()}}


def subject_session() -> dict[str, Any]:
    """Time the whole path of a raw tick, learning off."""
    from stream_lstm.config import build
    from stream_lstm.core.session import Session
    from stream_lstm.events import Ticks

    config = build({"features": ["log_return(mid(bid, ask))"]})
    session = Session(config, ("bid", "ask"), lambda _event: None)
    mid = np.exp(np.cumsum(np.random.default_rng(SEED).normal(size=CALLS)) * 1e-5)
    values = np.stack([mid - 1e-5, mid + 1e-5], axis=1)
    t_ns = np.arange(CALLS, dtype=np.int64)

    def tick(k: int) -> None:
        session.push(Ticks("s", t_ns[k : k + 1], values[k : k + 1]))

    return interleaved({"session": tick})


def subject_numpy() -> dict[str, Any]:
    """Time the cell written by hand."""
    rng = np.random.default_rng(SEED)
    xs = rng.normal(size=(CALLS, 1)).astype(np.float32)
    kernel = rng.normal(size=(34, 128)).astype(np.float32) * np.float32(0.1)
    head = rng.normal(size=33).astype(np.float32)
    joined = np.ones(34, np.float32)
    cell = np.zeros(32, np.float32)

    def by_hand(k: int) -> float:
        nonlocal cell
        joined[0] = xs[k, 0]
        z = joined @ kernel
        gate = 1.0 / (1.0 + np.exp(-z))
        cell = gate[32:64] * cell + gate[:32] * np.tanh(z[64:96])
        joined[1:33] = gate[96:] * np.tanh(cell)
        logit = joined[1:33] @ head[:32] + head[32]
        return float(1.0 / (1.0 + np.exp(-logit)))

    return interleaved({"numpy": by_hand})


SUBJECTS = {"jax": subject_jax, "session": subject_session, "numpy": subject_numpy}

if __name__ == "__main__":
    print(json.dumps(SUBJECTS[sys.argv[1]]()))
