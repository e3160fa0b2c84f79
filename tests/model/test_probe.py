"""Several starts at once, against the single step and the textbook."""

import jax
import numpy as np

from stream_lstm.model.network import Shape, apply, init_weights, seed_key
from stream_lstm.model.probe import Probe
from stream_lstm.model.scaling import causal_scaler
from stream_lstm.schema import ScalingConfig

from . import oracle

SHAPE = Shape(2, 3, 2)
PROBE = Probe(SHAPE, causal_scaler(2, ScalingConfig()))
WEIGHTS = init_weights(SHAPE, key=seed_key(4))
RNG = np.random.default_rng(1)
STATES = RNG.normal(size=(3, SHAPE.state)).astype(np.float32)
XS = RNG.normal(size=(40, 2)).astype(np.float32)


def run(xs, count, scaler=None, states=STATES):
    scaler = PROBE.scaler.init() if scaler is None else scaler
    return jax.jit(PROBE.block)(WEIGHTS, scaler, states, xs, np.int32(count))


def test_each_start_goes_the_way_of_the_single_step():
    scaler, states, scaled, ps = run(XS, 40)
    for k, state in enumerate(STATES):
        at, one = PROBE.scaler.init(), state
        for n, x in enumerate(XS):
            at, value = PROBE.scaler.step(at, x)
            one, logit = apply(SHAPE, WEIGHTS, one, value)
            np.testing.assert_allclose(ps[n, k], jax.nn.sigmoid(logit), rtol=0, atol=1e-6)
            if not k:
                np.testing.assert_allclose(scaled[n], value, rtol=0, atol=1e-6)
        np.testing.assert_allclose(states[k], one, rtol=0, atol=1e-6)
    np.testing.assert_allclose(scaler, at, rtol=1e-6)


def test_what_comes_after_the_count_changes_nothing():
    whole, cut = run(XS, 40), run(XS, 25)
    np.testing.assert_array_equal(whole[3][:25], cut[3][:25])
    rest = np.concatenate([XS[25:], np.full((25, 2), np.nan, np.float32)])
    scaler, states, _, ps = run(rest, 15, *cut[:2])
    np.testing.assert_array_equal(ps[:15], whole[3][25:])
    np.testing.assert_array_equal(states, whole[1])
    np.testing.assert_array_equal(scaler, whole[0])


def test_windows_start_from_zero():
    windows = RNG.normal(size=(5, 12, 2)).astype(np.float32)
    zero = np.zeros(SHAPE.state)
    wanted = [oracle.sigmoid(oracle.run(oracle.kernels(WEIGHTS), w, zero)[0][-1]) for w in windows]
    found = jax.jit(PROBE.windows)(WEIGHTS, windows)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
