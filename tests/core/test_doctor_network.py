"""Networks that cannot learn as they are: dead, saturated, or made for other features."""

from __future__ import annotations

import numpy as np
import pytest

from stream_lstm.core.doctor.diagnosis import constant_output, dead_gates, feature_count
from stream_lstm.model.engine import activity
from stream_lstm.model.network import Shape, init_weights, seed_key

from ..engines import settings

SHAPE = Shape(1, 8, 1)
XS = np.random.default_rng(4).normal(size=(400, 1)).astype(np.float32)


def weights(shape=SHAPE):
    made = init_weights(shape, key=seed_key(0))
    return {name: {"kernel": np.array(layer["kernel"])} for name, layer in made.items()}


def test_a_fresh_network_on_scaled_inputs_is_alive():
    seen = activity(SHAPE, weights(), XS)
    assert dead_gates(seen, settings()).level == "ok"
    assert constant_output(seen.logits, False).level == "ok"


def test_a_network_that_remembers_for_long_is_not_called_saturated():
    chrono = init_weights(SHAPE, key=seed_key(0), horizon=1000.0)
    assert dead_gates(activity(SHAPE, chrono, XS), settings()).level == "ok"


def test_inputs_that_are_too_large_saturate_gates():
    found = dead_gates(activity(SHAPE, weights(), 1e4 * XS), settings())
    assert found.level == "fault"
    assert sum(found.figures["saturated"].values()) > 8
    assert "too large" in found.remedy


def test_gates_are_saturated_long_before_they_are_exactly_shut():
    found = dead_gates(activity(SHAPE, weights(), 25 * np.sign(XS)), settings())
    assert found.figures["saturated"]["candidate"] > 0
    exact = (activity(SHAPE, weights(), 25 * np.sign(XS)).gates % 1 == 0).all(axis=1)
    assert sum(found.figures["saturated"].values()) > exact.sum()


def test_units_that_never_change_are_dead():
    still = weights()
    still["layer_0"]["kernel"][:] = 0.0
    seen = activity(SHAPE, still, XS)
    found = dead_gates(seen, settings())
    assert (found.level, found.figures["dead"]) == ("fault", 8)
    assert constant_output(seen.logits, True).level == "fault"


def test_an_output_that_hears_nothing_of_its_inputs_is_constant():
    found = constant_output(activity(SHAPE, weights(), 1e-6 * XS).logits, False)
    assert found.level == "fault"
    assert "does not move" in found.evidence


def test_weights_of_another_number_of_features_are_named():
    config = settings(features=["a", "b"], hidden=8)
    found = feature_count(("a", "b"), config, weights(), None)
    assert (found.level, found.figures["inputs_of_weights"]) == ("fault", 1)
    assert feature_count(("a",), config, weights(), None).level == "ok"


@pytest.mark.parametrize(
    ("counted", "level", "features"),
    [(4352, "ok", None), (4385, "ok", None), (4608, "warning", 3), (4353, "warning", None)],
)
def test_a_number_of_weights_tells_how_many_features_it_is_of(counted, level, features):
    found = feature_count(("x",), settings(hidden=32), None, counted)
    assert found.level == level
    assert found.figures.get("features_of_counted") == features
