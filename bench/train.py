"""Seconds an epoch of training, on 1,047,700 elements: ours, and Keras on its JAX backend.

`ours` is what `stream-lstm train` does with its defaults: the state is carried, and every element
is a target. `keras` is what people do instead: stateless windows of 100 every 10 elements,
LSTM(32) and Dense(1), batches of 128. It does a tenth of the targets at ten times the steps, so
seconds an epoch are what is compared, and `elements_per_s` counts elements of the series. Keras
is optional: without it its row says so. The series is x' = 0.6 x + e, from a seed.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import statistics
import sys
import time
from typing import Any

import numpy as np

from .comparison import Runs, of_ours, table_rows
from .report import fresh

ELEMENTS, EPOCHS, SEED = 1_047_700, 3, 7
NOTHING = 0.69
"""A log loss that is barely that of a coin, where 0.56 can be reached."""

WINDOW, STRIDE, BATCH, HIDDEN = 100, 10, 128, 32


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument(
        "--train-elements", type=int, default=ELEMENTS, help=f"of train ({ELEMENTS:,})"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"of train ({EPOCHS})")


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {subject: figures}; a peer that cannot be timed has a note in their place."""
    told = str(options.train_elements), str(max(2, options.epochs))
    runs: Runs = {}
    notes: dict[str, str] = {}
    for _ in range(options.repeats):
        found = {("", name): fresh("bench.train", name, *told) for name in SUBJECTS}
        notes |= {
            name: figures["note"] for (_, name), figures in found.items() if "note" in figures
        }
        if "ours" in notes:
            raise SystemExit(f"ours: {notes['ours']}")
        timed = {key: figures for key, figures in found.items() if "note" not in figures}
        for key, figures in of_ours(timed).items():
            runs.setdefault(key, []).append(figures)
    return table_rows(runs, notes)


def series(elements: int) -> np.ndarray:
    """Return the elements, float32 (N, 1)."""
    shocks = np.random.default_rng(SEED).normal(size=elements)
    values, last = np.empty(elements, np.float32), 0.0
    for k, shock in enumerate(shocks.tolist()):
        last = 0.6 * last + shock
        values[k] = last
    return values[:, None]


def figures(seconds: list[float], loss: float, elements: int) -> dict[str, Any]:
    """Return what is reported of epochs, the first left out: it may hold a compilation.

    Nothing is reported of a subject that has learned nothing.
    """
    if not loss < NOTHING:
        return {"note": f"wrong: its validation log loss is {loss:.4f}, not timed"}
    median = statistics.median(seconds[1:])
    return {
        "seconds_per_epoch": round(median, 3),
        "elements_per_s": round(0.9 * elements / median),
        "validation_log_loss": round(loss, 4),
    }


def elapsed(start: float) -> float:
    return time.perf_counter() - start


def subject_ours(elements: int, epochs: int) -> dict[str, Any]:
    from stream_lstm.config import build
    from stream_lstm.core.training import Training, make_series
    from stream_lstm.model.network import Shape, init_weights, seed_key

    config = build({"features": ["x"], "hidden": HIDDEN})
    weights = init_weights(Shape(1, HIDDEN, 1), key=seed_key(0))
    training = Training(config, [make_series("x", series(elements), config)], weights)
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        while not training.epoch_over:
            training.advance()
        epoch = training.end_epoch(functools.partial(elapsed, start))
        seconds.append(epoch.seconds)
    return figures(seconds, epoch.validation_log_loss, elements)


def subject_keras(elements: int, epochs: int) -> dict[str, Any]:
    os.environ["KERAS_BACKEND"] = "jax"
    if importlib.util.find_spec("keras") is None:
        return {"note": "keras is not installed here: pip install keras"}
    import keras

    values = series(elements)[:, 0]
    scaled = values / values.std()
    windows = np.lib.stride_tricks.sliding_window_view(scaled[:-1], WINDOW)[::STRIDE]
    labels = (values[WINDOW:][::STRIDE] > 0).astype(np.float32)
    cut = round(0.9 * len(labels))
    windows = np.ascontiguousarray(windows)[..., None]
    keras.utils.set_random_seed(SEED)
    layers = [keras.layers.LSTM(HIDDEN), keras.layers.Dense(1, activation="sigmoid")]
    model = keras.Sequential([keras.Input((WINDOW, 1)), *layers])
    model.compile("adam", "binary_crossentropy")
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        told = model.fit(
            windows[:cut],
            labels[:cut],
            batch_size=BATCH,
            validation_data=(windows[cut:], labels[cut:]),
            verbose=0,
        )
        seconds.append(time.perf_counter() - start)
    return figures(seconds, float(told.history["val_loss"][-1]), elements)


SUBJECTS = {"ours": subject_ours, "keras": subject_keras}

if __name__ == "__main__":
    subject, elements, epochs = sys.argv[1:]
    print(json.dumps(SUBJECTS[subject](int(elements), int(epochs))))
