"""One element through the network, its prediction read back: 32 hidden units, one feature.

`ours` is the compiled step with its scaler, `ours without scaler` the bare network that the peers
run too, and `empty jitted call` a compiled call with the same inputs and read-back that computes
next to nothing: what is left is the price of any call into JAX. The three take turns in one
process. `ours, whole session` is the path of one raw tick whose prediction is due: check,
feature, step, score, predict. Everything else runs the given network in a process of its own,
and its first p are compared with ours before it is timed.

`--gaps 0,1,10` times calls back to back, and at intervals of 1 ms and 10 ms with the process
asleep between them, as a live feed has it: caches are cold then. `where it goes` splits the tick
of the whole session back to back; see `bench.parts`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .comparison import compare
from .parts import explained
from .peers.workload import CHECKED, SEED, Workload, wrong
from .timing import ways

CALLS = 20_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument("--gaps", default="0,1,10", help="ms between calls of step (0,1,10)")
    parser.add_argument(
        "--calls", type=int, default=CALLS, help=f"of a subject, back to back ({CALLS})"
    )


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {way and subject: figures}."""
    gaps = [float(gap) for gap in options.gaps.split(",")]
    settings = {"gaps": gaps, "count": options.calls}
    rows = compare("step", list(SUBJECTS), settings, options.repeats)
    names = "empty jitted call", "ours", "ours, whole session"
    if f"back to back, {names[0]}" not in rows:
        return rows
    spent = [rows[f"back to back, {name}"]["p50"] for name in names]
    told = {"share": 1.0, "repeats": options.repeats, "columns": "quotes"}
    return rows | explained(*spent, **told)


def subject_jax(given: Workload, options: dict[str, Any]) -> dict[str, Any]:
    """Time our step, and an empty call."""
    from stream_lstm.model.engine import Engine

    from .ours import blocked, check, config, stepped

    scaled, bare = Engine(config(), 1), Engine(config(scaling="none"), 1)
    empty = empty_call(scaled)

    calls = {"ours": stepped(scaled), "ours without scaler": stepped(bare)}
    expected = {"ours": blocked(scaled)(given.xs), "ours without scaler": given.p}
    for name, call in calls.items():
        check(wrong([call(x) for x in given.xs], expected[name]))
    found: dict[str, Any] = ways(calls | {"empty jitted call": empty}, **options)
    for rows in found.values():
        ours, floor = rows["ours"], rows["empty jitted call"]
        rows["ours / empty"] = {q: round(ours[q] / floor[q], 3) for q in ours}
    return found


def empty_call(engine: Any) -> Callable[[np.ndarray], float]:
    """Return a call with the inputs and the read-back of a step that computes next to nothing."""
    import jax

    from stream_lstm.model.runtime import SharedArray, aligned_zeros, copy_into, wait_ready

    weights, window = engine.pack(engine.init_weights()), SharedArray(aligned_zeros((1,)))
    carry, at = SharedArray(aligned_zeros((engine.width,))), engine.scaler_size

    def nothing(_weights: Any, carry: Any, x: Any) -> Any:
        return carry + x[0]

    compiled = jax.jit(nothing, keep_unused=True)

    def empty(x: np.ndarray) -> float:
        window.host[:] = x
        out = compiled(weights, carry.device, window.device)
        wait_ready(out)
        copy_into(out, carry, engine.width)
        return float(carry.host[at])

    return empty


def subject_session(given: Workload, options: dict[str, Any]) -> dict[str, Any]:
    """Time the whole path of a raw tick, learning off, a prediction due at each."""
    from stream_lstm.core.session import Session
    from stream_lstm.events import Output, Prediction

    from .ours import blocked, check, config

    name, last = "ours, whole session", 0.0

    def emit(event: Output) -> None:
        nonlocal last
        if isinstance(event, Prediction):
            last = event.p

    settings = config(features=["log_return(mid(bid, ask))"], stride=1)
    session = Session(settings, ("bid", "ask"), emit)
    values = quotes(options["count"])
    rows, at = values.tolist(), -1

    def tick(_x: np.ndarray) -> float:
        nonlocal at
        at = (at + 1) % len(rows)
        session.tick("s", at, rows[at])
        return last

    p = [tick(x) for x in given.xs]
    returns = np.diff(np.log(values.mean(axis=1)))[: CHECKED - 1, None].astype(np.float32)
    warm = settings.stream.window  # element n comes with tick n + 1
    check(wrong(p[warm:], blocked(session.engine)(returns)[warm - 1 :]))
    return {way: {name: rows[name]} for way, rows in ways({name: tick}, **options).items()}


def quotes(count: int) -> np.ndarray:
    """Return bids and asks (count, 2) of a random walk."""
    count = max(count, CHECKED)
    mid = np.exp(np.cumsum(np.random.default_rng(SEED).normal(size=count)) * 1e-5)
    return np.stack([mid - 1e-5, mid + 1e-5], axis=1)


SUBJECTS = {"jax": subject_jax, "session": subject_session}

if __name__ == "__main__":
    subject, folder, settings = sys.argv[1:]
    print(json.dumps(SUBJECTS[subject](Workload.load(Path(folder)), json.loads(settings))))
