"""One update of the weights, and a whole file with an update for each label.

`K = 10` and so on: truncated back-propagation through the last K elements with a target at each,
global clipping and Adam, 32 hidden units. `ours` is the compiled update of a session, result
read back. `jax.grad` differentiates the plain `lax.scan` of the same cell over the same tape with
the same optimiser; its weights after `CHECKED` updates are compared with ours before it is
timed. `deep-river` is what an online-learning package does at the same K: its rolling classifier
re-runs an LSTM of the same size over the last K elements and learns from the newest label alone.

`whole file`: all EUR/USD quotes through a session, as `replay --learn` does once they are parsed:
a prediction, its score and one update every ten elements. Where the file is missing, a random
walk of as many quotes replaces it.

    python -m bench learn --file-elements 1047700
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .comparison import compare
from .peers.workload import HIDDEN, SEED, TAPES, Workload
from .report import fresh, medians
from .timing import durations, enough

FILE_TAPES = (10, 50)
UPDATES = 400
FILE_ELEMENTS = 1_047_700
FEATURE, COLUMNS = "log_return(mid(bid, ask))", ("bid", "ask")
BLOCK = 4096

CHECKED = 5
"""Updates after which the weights of the plain gradient are compared with ours."""

TOLERANCE = 1e-4
"""Adam divides by the root of a square: rounding of a small gradient is not small any more."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument(
        "--updates", type=int, default=UPDATES, help=f"of each K of learn ({UPDATES})"
    )
    parser.add_argument(
        "--file-elements",
        type=int,
        default=FILE_ELEMENTS,
        help=f"of the file of learn, 0 leaves it out ({FILE_ELEMENTS:,})",
    )


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {K and subject: figures}."""
    settings = {"count": options.updates}
    rows = compare("learn", ["ours", "gradient"], settings, options.repeats)
    if options.file_elements:
        for tape in FILE_TAPES:
            told = "file", "", json.dumps({"tape": tape, "elements": options.file_elements})
            runs = [fresh("bench.learn", *told) for _ in range(options.repeats)]
            rows[f"whole file, K = {tape}, ours"] = medians(runs)
    return rows


def tape(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scaled inputs (K, 1) and their targets (K,), whether the next one is positive."""
    xs = np.random.default_rng(SEED).normal(size=(length + 1, 1)).astype(np.float32)
    return xs[:-1], (xs[1:, 0] > 0).astype(np.float32)


def ours(length: int) -> Callable[[np.ndarray, np.ndarray], tuple[Any, float]]:
    """Return our update."""
    from stream_lstm.model.engine import Engine

    from .ours import config, updated

    return updated(Engine(config(learn=True, bptt=length), 1))


def subject_ours(_given: Workload, options: dict[str, Any]) -> dict[str, Any]:
    """Time our update for each K."""
    rows = {}
    for length in TAPES:
        call, given = ours(length), tape(length)
        spent = durations(lambda call=call, given=given: call(*given), options["count"])
        rows[f"K = {length}"] = {"ours": enough(spent)}
    return rows


def gradient(length: int) -> Callable[[np.ndarray, np.ndarray], tuple[Any, float]]:
    """Return the update by `jax.grad` of a plain scan, from our starting weights."""
    import jax
    import jax.numpy as jnp
    import optax

    from stream_lstm.model.engine import Engine

    from .ours import config

    settings = config(learn=True, bptt=length)
    start = {k: leaf["kernel"] for k, leaf in Engine(settings, 1).init_weights().items()}
    weights = jax.tree.map(jnp.asarray, start)
    clip = optax.clip_by_global_norm(settings.learning.clip_norm)
    optimizer = optax.chain(clip, optax.adam(settings.learning.learning_rate))
    state = optimizer.init(weights)

    def loss(weights: Any, xs: Any, targets: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            h, c = carry
            z = jnp.concatenate([x, h, jnp.ones(1)]) @ weights["layer_0"]
            i, f, g, o = jnp.split(z, 4)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h @ weights["head"][:-1] + weights["head"][-1]

        zero = jnp.zeros(HIDDEN)
        _, logits = jax.lax.scan(step, (zero, zero), xs)
        return jnp.mean(jnp.logaddexp(0.0, logits) - targets * logits)

    @jax.jit
    def update(weights: Any, state: Any, xs: Any, targets: Any) -> Any:
        value, found = jax.value_and_grad(loss)(weights, xs, targets)
        changes, state = optimizer.update(found, state, weights)
        return optax.apply_updates(weights, changes), state, value

    def call(xs: np.ndarray, targets: np.ndarray) -> tuple[Any, float]:
        nonlocal weights, state
        weights, state, value = update(weights, state, xs, targets)
        return weights, float(value)

    return call


def differing(
    one: Callable[[np.ndarray, np.ndarray], tuple[Any, float]],
    other: Callable[[np.ndarray, np.ndarray], tuple[Any, float]],
    length: int,
) -> str:
    """Return what differs between two updates after a few of each, "" where nothing does."""
    given = tape(length)
    for _ in range(CHECKED):
        (weights, loss), (others, other_loss) = one(*given), other(*given)
    far = float(np.abs(flat(weights) - flat(others)).max())
    far = float(np.max([far, abs(loss - other_loss)]))  # a NaN stays one
    return "" if far <= TOLERANCE else f"wrong: weights are {far:.2g} from ours, not timed"


def flat(weights: Any) -> np.ndarray:
    """Return weights as one array: packed ones, or kernels by name."""
    if isinstance(weights, tuple):
        return np.asarray(weights[0])
    return np.concatenate([np.asarray(weights[name]).reshape(-1) for name in sorted(weights)])


def subject_gradient(_given: Workload, options: dict[str, Any]) -> dict[str, Any]:
    """Time the plain gradient for each K, where its weights are ours."""
    rows: dict[str, Any] = {}
    for length in TAPES:
        call, given = gradient(length), tape(length)
        note = differing(ours(length), call, length)
        if note:
            raise SystemExit(note)
        spent = durations(lambda call=call, given=given: call(*given), options["count"])
        rows[f"K = {length}"] = {"jax.grad through lax.scan": enough(spent)}
    return rows


def quotes(elements: int) -> tuple[np.ndarray, str]:
    """Return quotes (elements + 1, 2), and what they are."""
    folder = os.environ.get("STREAM_LSTM_DATA") or Path(__file__).parents[2] / "shared" / "data"
    path = Path(folder) / "eurusd_quotes.csv.gz"
    if path.exists():
        import pyarrow.csv

        table = pyarrow.csv.read_csv(path)
        values = np.stack([table[name].to_numpy() for name in COLUMNS], axis=1)
        return values[: elements + 1].astype(np.float64), path.name
    mid = np.exp(np.cumsum(np.random.default_rng(SEED).normal(size=elements + 1)) * 1e-5)
    return np.stack([mid - 1e-5, mid + 1e-5], axis=1), "a random walk"


def whole_file(options: dict[str, Any]) -> dict[str, Any]:
    """Time a session over the whole file, an update for each label."""
    from stream_lstm.core.session import Session
    from stream_lstm.events import Output, Ticks, Update

    from .ours import config

    values, _ = quotes(options["elements"])
    updates = 0

    def emit(event: Output) -> None:
        nonlocal updates
        updates += isinstance(event, Update)

    settings = config(features=[FEATURE], learn=True, bptt=options["tape"])
    session = Session(settings, COLUMNS, emit)
    times = np.arange(len(values), dtype=np.int64)
    start = time.perf_counter()
    for k in range(0, len(values), BLOCK):
        session.push(Ticks("s", times[k : k + BLOCK], values[k : k + BLOCK]))
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 2),
        "updates": updates,
        "elements_per_s": round(len(values) / seconds),
    }


SUBJECTS = {"ours": subject_ours, "gradient": subject_gradient}

if __name__ == "__main__":
    subject, folder, settings = sys.argv[1:]
    if subject == "file":
        print(json.dumps(whole_file(json.loads(settings))))
    else:
        print(json.dumps(SUBJECTS[subject](Workload.load(Path(folder)), json.loads(settings))))
