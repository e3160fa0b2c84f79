"""Seconds an epoch of training, on 1,047,700 elements: ours, and Keras on its JAX backend.

`ours` is what `stream-lstm train` does with its defaults: the state is carried, and every element
is a target. `keras` is what people do instead: stateless windows of 100 every 10 elements,
LSTM(32) and Dense(1), batches of 128. It does a tenth of the targets at ten times the steps, so
seconds an epoch are what is compared, and `elements` counts those of the series. Keras is no
dependency: without it its line says so. The series is x' = 0.6 x + e, from a seed.
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

from .report import fresh, medians

ELEMENTS, EPOCHS, SEED = 1_047_700, 3, 7
WINDOW, STRIDE, BATCH, HIDDEN = 100, 10, 128, 32


def run(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {subject: figures}; a peer that is not installed has a note in their place."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for _ in range(arguments.repeats):
        for subject in SUBJECTS:
            rows.setdefault(subject, []).append(fresh("bench.train", subject))
    return {name: runs[0] if "note" in runs[0] else medians(runs) for name, runs in rows.items()}


def series() -> np.ndarray:
    """Return the elements, float32 (N, 1)."""
    shocks = np.random.default_rng(SEED).normal(size=ELEMENTS)
    values, last = np.empty(ELEMENTS, np.float32), 0.0
    for k, shock in enumerate(shocks.tolist()):
        last = 0.6 * last + shock
        values[k] = last
    return values[:, None]


def figures(seconds: list[float], loss: float) -> dict[str, Any]:
    """Return what is reported of epochs, the first left out: it may hold a compilation."""
    median = statistics.median(seconds[1:])
    return {
        "seconds_per_epoch": round(median, 3),
        "elements_per_s": round(0.9 * ELEMENTS / median),
        "validation_log_loss": round(loss, 4),
    }


def elapsed(start: float) -> float:
    return time.perf_counter() - start


def subject_ours() -> dict[str, Any]:
    from stream_lstm.config import build
    from stream_lstm.core.series import make_series
    from stream_lstm.core.training import Training
    from stream_lstm.model.network import Shape, init_weights, seed_key

    config = build({"features": ["x"], "hidden": HIDDEN})
    weights = init_weights(Shape(1, HIDDEN, 1), key=seed_key(0))
    training = Training(config, [make_series("x", series(), config)], weights)
    seconds = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        while not training.epoch_over:
            training.advance()
        epoch = training.end_epoch(functools.partial(elapsed, start))
        seconds.append(epoch.seconds)
    return figures(seconds, epoch.validation_log_loss)


def subject_keras() -> dict[str, Any]:
    os.environ["KERAS_BACKEND"] = "jax"
    if importlib.util.find_spec("keras") is None:
        return {"note": "keras is not installed here: pip install keras"}
    import keras

    values = series()[:, 0]
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
    for _ in range(EPOCHS):
        start = time.perf_counter()
        told = model.fit(
            windows[:cut],
            labels[:cut],
            batch_size=BATCH,
            validation_data=(windows[cut:], labels[cut:]),
            verbose=0,
        )
        seconds.append(time.perf_counter() - start)
    return figures(seconds, float(told.history["val_loss"][-1]))


SUBJECTS = {"ours": subject_ours, "keras": subject_keras}

if __name__ == "__main__":
    print(json.dumps(SUBJECTS[sys.argv[1]]()))
