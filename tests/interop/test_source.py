"""The float64 arithmetic of a source, against the oracle of the whole network."""

import numpy as np

from stream_lstm.interop.source import sigmoid

from ..model import oracle
from .test_packing import network


def test_logits_are_those_of_the_textbook():
    source = network((4,), features=3)
    layer = source.layers[0]
    kernel = np.concatenate([layer.kernel, layer.recurrent, layer.biases[0][None]])
    head = np.append(source.head.kernel, source.head.bias)
    xs = np.random.default_rng(0).normal(size=(40, 3))
    wanted, _ = oracle.run({"layer_0": kernel, "head": head}, xs, np.zeros(8))
    np.testing.assert_allclose(source.logits(xs[None])[0], wanted, rtol=0, atol=1e-12)
    # Series of a batch have nothing to do with each other.
    both = source.logits(np.stack([xs, xs[::-1]]))
    np.testing.assert_allclose(both[0], wanted, rtol=0, atol=1e-12)


def test_sigmoid_neither_overflows_nor_loses_its_ends():
    z = np.array([-1e4, -700.0, 0.0, 700.0, 1e4])
    np.testing.assert_allclose(sigmoid(z), [0.0, np.exp(-700), 0.5, 1.0, 1.0], rtol=1e-9)
