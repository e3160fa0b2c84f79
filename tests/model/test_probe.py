"""The inside of a network and several starts together, against single steps and the oracle."""

from __future__ import annotations

import jax
import numpy as np

from stream_lstm.config import ScalingConfig
from stream_lstm.model.engine import Probe, activity, scaled_inputs
from stream_lstm.model.network import Shape, apply, causal_scaler, init_weights, seed_key

from . import oracle

SHAPE = Shape(2, 3, 2)
PROBE = Probe(SHAPE, causal_scaler(2, ScalingConfig()))
WEIGHTS = init_weights(SHAPE, key=seed_key(4))
RNG = np.random.default_rng(1)
STATES = RNG.normal(size=(3, SHAPE.state)).astype(np.float32)
XS = RNG.normal(size=(20, 2)).astype(np.float32)
scaler_step = jax.jit(PROBE.scaler.step)
network_step = jax.jit(lambda state, x: apply(SHAPE, WEIGHTS, state, x))
block = jax.jit(PROBE.block)


def run(xs, count, scaler=None, states=STATES):
    scaler = PROBE.scaler.init() if scaler is None else scaler
    return block(WEIGHTS, scaler, states, xs, np.int32(count))


def close(one, two):
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-6)


def test_each_start_is_that_of_single_steps():
    scaler, states, scaled, ps = run(XS, len(XS))
    rows, at = [], PROBE.scaler.init()
    for x in XS:
        at, row = scaler_step(at, x)
        rows.append(np.asarray(row))
    close(scaler, at)
    close(scaled, rows)
    close(scaled_inputs(ScalingConfig(), XS), rows)
    middle = run(XS, 10)[0]
    close(scaled_inputs(ScalingConfig(), XS[10:], middle), rows[10:])
    for k, state in enumerate(STATES):
        for n, row in enumerate(rows):
            state, logit = network_step(state, row)
            close(ps[n, k], jax.nn.sigmoid(logit))
        close(states[k], state)


def test_elements_after_the_count_change_nothing():
    whole, cut = run(XS, 20), run(XS, 15)
    np.testing.assert_array_equal(whole[3][:15], cut[3][:15])
    rest = np.concatenate([XS[15:], np.full((15, 2), np.nan, np.float32)])
    scaler, states, _, ps = run(rest, 5, *cut[:2])
    np.testing.assert_array_equal(ps[:5], whole[3][15:])
    np.testing.assert_array_equal(states, whole[1])
    np.testing.assert_array_equal(scaler, whole[0])


def test_windows_start_from_zero():
    windows = RNG.normal(size=(5, 12, 2)).astype(np.float32)
    zero = np.zeros(SHAPE.state)
    wanted = [oracle.sigmoid(oracle.run(oracle.kernels(WEIGHTS), w, zero)[0][-1]) for w in windows]
    close(jax.jit(PROBE.windows)(WEIGHTS, windows), wanted)


def test_activity_is_that_of_single_steps():
    seen = activity(SHAPE, WEIGHTS, XS)
    assert seen.gates.shape == (2, 20, 4, 3)
    state = np.zeros(SHAPE.state, np.float32)
    for k, x in enumerate(XS):
        state, logit = network_step(state, x)
        close(logit, seen.logits[k])
        parts = np.split(np.asarray(state), 4)
        for layer in range(2):
            h, c = parts[2 * layer : 2 * layer + 2]
            close(seen.outputs[layer, k], h)
            close(seen.cells[layer, k], np.tanh(c))
            close(seen.gates[layer, k, 3] * seen.cells[layer, k], h)
