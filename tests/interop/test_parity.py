"""The comparison passes a right conversion, and detects a single wrong weight."""

import numpy as np
import pytest

from stream_lstm.errors import StreamLSTMError
from stream_lstm.interop.parity import (
    STEPS,
    TOLERANCE,
    FrameworkParity,
    NumericDifference,
    Parity,
    compare,
    difference,
    rolling,
    window_and_count,
)
from stream_lstm.interop.source import pack

from .networks import network


def test_a_right_conversion_passes_and_one_wrong_weight_does_not():
    source = network((3, 4))._replace(window=30)
    packed = pack(source)
    proof = compare(packed, source)
    assert (proof.steps, proof.windows, proof.window) == (1000, 1000, 30)
    assert 0 < proof.worst < 2e-6
    proof.require()
    for name, at in (("layer_0", (0, 0)), ("layer_1", (-1, 5)), ("head", (2,))):
        kernel = packed[name]["kernel"].copy()
        kernel[at] += 0.01
        wrong = compare(packed | {name: {"kernel": kernel}}, source)
        assert min(*wrong.carried, *wrong.windowed) > TOLERANCE
        with pytest.raises(StreamLSTMError, match="nothing was written") as refused:
            wrong.require()
        assert refused.value.exit_code == 70


def test_swapped_gates_are_detected():
    source = network()
    i, f, g, o = np.split(source.layers[0].kernel, 4, axis=1)
    layer = source.layers[0]._replace(kernel=np.concatenate([i, f, o, g], axis=1))
    assert compare(pack(source._replace(layers=(layer,))), source).worst > TOLERANCE


def test_a_logit_that_is_not_a_number_fails():
    undefined = difference(np.array([0.0, np.nan]), np.zeros(2))
    assert np.isnan(undefined.p)
    with pytest.raises(StreamLSTMError):
        Parity("it", 1, 1, 1, undefined, NumericDifference(0.0, 0.0)).require()
    with pytest.raises(StreamLSTMError):
        FrameworkParity("it", np.nan).require()
    FrameworkParity("it", None).require()


def test_large_logits_are_compared_in_their_own_units():
    assert difference(np.array([200.0]), np.array([100.0])).logit == 1.0
    assert difference(np.array([0.75]), np.array([0.5])).logit == 0.25


def test_windows_roll_by_one():
    windows = rolling(np.arange(10, dtype=np.float32).reshape(5, 2), 3)
    assert windows.tolist() == [
        [[0, 1], [2, 3], [4, 5]],
        [[2, 3], [4, 5], [6, 7]],
        [[4, 5], [6, 7], [8, 9]],
    ]


def test_large_networks_are_compared_on_fewer_windows():
    small, large = network(), network((1000,))
    assert window_and_count(small) == (100, STEPS)
    assert window_and_count(large._replace(window=10**6))[0] == 1000
    assert 20 <= window_and_count(large)[1] < STEPS
