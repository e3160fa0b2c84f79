"""Keras with its JAX backend: an LSTM of one element, `predict_on_batch` each time.

The state goes in and comes out. With `stateful=True` instead, Keras 3.15 forgets it between calls
of `predict_on_batch` on this backend, and its numbers are wrong from the second element on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from .workload import HIDDEN, Workload

os.environ["KERAS_BACKEND"] = "jax"

import keras


def model(given: Workload) -> Any:
    """Return the model [x (1, 1, 1), h, c (1, H)] -> [p (1, 1), h', c']."""
    inputs = [keras.Input(batch_shape=shape) for shape in ((1, 1, 1), (1, HIDDEN), (1, HIDDEN))]
    lstm = keras.layers.LSTM(HIDDEN, return_state=True)
    head = keras.layers.Dense(1, activation="sigmoid")
    out, h, c = lstm(inputs[0], initial_state=inputs[1:])
    built = keras.Model(inputs, [head(out), h, c])
    lstm.set_weights([given.kernel[:1], given.kernel[1:-1], given.kernel[-1]])
    head.set_weights([given.head[:-1, None], given.head[-1:]])
    return built


def step(given: Workload) -> Callable[[np.ndarray], float]:
    """Return the call for one element."""
    built = model(given)
    h = c = np.zeros((1, HIDDEN), np.float32)

    def call(x: np.ndarray) -> float:
        nonlocal h, c
        p, h, c = built.predict_on_batch([x.reshape(1, 1, 1), h, c])
        return float(p[0, 0])

    return call
