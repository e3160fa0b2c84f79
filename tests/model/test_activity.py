"""What goes on in a network is what the network computes."""

from __future__ import annotations

import numpy as np

from stream_lstm.config import ScalingConfig
from stream_lstm.model.network import Shape, apply, init_weights, seed_key
from stream_lstm.model.probe import activity, scaled_inputs
from stream_lstm.model.scaling import causal_scaler

XS = np.random.default_rng(4).normal(size=(40, 2)).astype(np.float32)


def test_logits_outputs_and_gates_are_those_of_single_steps():
    shape = Shape(2, 3, 2)
    weights = init_weights(shape, key=seed_key(1))
    seen = activity(shape, weights, XS)
    state = np.zeros(shape.state, np.float32)
    for k, x in enumerate(XS):
        state, logit = apply(shape, weights, state, x)
        assert abs(float(logit) - seen.logits[k]) < 1e-6
        halves = np.split(np.asarray(state), 4)
        for layer in range(2):
            h, c = halves[2 * layer], halves[2 * layer + 1]
            np.testing.assert_allclose(seen.outputs[layer, k], h, atol=1e-6)
            np.testing.assert_allclose(seen.cells[layer, k], np.tanh(c), atol=1e-6)
            o = seen.gates[layer, k, 3]
            np.testing.assert_allclose(o * seen.cells[layer, k], h, atol=1e-6)
    assert seen.gates.shape == (2, 40, 4, 3)


def test_inputs_are_scaled_as_element_by_element():
    scaler = causal_scaler(2, ScalingConfig())
    state, rows = scaler.init(), []
    for x in XS:
        state, row = scaler.step(state, x)
        rows.append(np.asarray(row))
    np.testing.assert_allclose(scaled_inputs(ScalingConfig(), XS), rows, atol=1e-6)
    again = scaled_inputs(ScalingConfig(), XS[20:], _state(scaler, 20))
    np.testing.assert_allclose(again, rows[20:], atol=1e-6)


def _state(scaler, count: int):
    state = scaler.init()
    for x in XS[:count]:
        state, _ = scaler.step(state, x)
    return state
