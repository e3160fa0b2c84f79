"""Inputs that a network cannot see are named, and what it sees is measured."""

from __future__ import annotations

import numpy as np
import pytest

from stream_lstm.core.doctor.inputs import constant_inputs, input_scale, longest_run

from ..engines import settings
from .examined import noise, series


def test_inputs_of_size_one_are_let_be():
    found = input_scale(series(noise()), settings())
    assert found.level == "ok"
    assert found.figures["features"][0]["sd"] == pytest.approx(2.0, rel=0.1)


def test_returns_without_scaling_are_the_fault_that_the_question_was_about():
    found = input_scale(series(7e-6 * noise()), settings(scaling="none"))
    assert (found.level, found.remedy) == ("fault", "--scaling sd")
    assert found.figures["logit_sd_raw"] < 1e-5
    assert "the network sees 7" in found.evidence


def test_the_same_returns_scaled_are_told_of_with_what_the_division_brings():
    found = input_scale(series(7e-6 * noise()), settings())
    assert found.level == "note"
    assert found.figures["logit_sd"] > 1e4 * found.figures["logit_sd_raw"]
    assert "divide them by their s.d." in found.remedy


def test_large_numbers_without_scaling_are_named():
    found = input_scale(series(1e4 * noise()), settings(scaling="none"))
    assert (found.level, found.remedy) == ("fault", "--scaling sd")


def test_a_price_that_is_cut_to_a_constant_is_named():
    found = input_scale(series(100 + 0.1 * noise()), settings())
    assert found.level == "fault"
    assert found.figures["features"][0]["cut"] == 1.0
    assert "--feature 'diff(x)'" in found.remedy
    assert input_scale(series(100 + 0.1 * noise()), settings(scaling="zscore")).level == "ok"


def test_a_feature_that_is_faint_beside_others_is_the_one_that_is_told():
    both = np.column_stack([noise(), 1e-4 * noise(seed=6)])
    found = input_scale(
        series(both, "a", "b", columns="a b"), settings(features=["a", "b"], scaling="none")
    )
    assert found.level == "fault"
    assert found.evidence.startswith("b has a s.d. of 0.0001")


def test_a_constant_target_is_a_fault_and_another_constant_a_warning():
    still, moving = np.ones(3000), noise()
    for values, level in (([still, moving], "fault"), ([moving, still], "warning")):
        found = constant_inputs(series(np.column_stack(values), "a", "b", columns="a b"))
        assert found.level == level
        assert "is always 1" in found.evidence


def test_a_feature_that_stood_still_for_long_is_noted_with_its_row():
    values = noise()
    values[1000:2000] = 0.25
    found = constant_inputs(series(values))
    assert found.level == "note"
    assert "x is 0.25 for 1,000 elements in a row from row 1,001" in found.evidence
    assert constant_inputs(series(noise())).level == "ok"


def test_the_longest_run_is_found_wherever_it_is():
    for values, run in (([1, 1, 2], (2, 0)), ([1, 2, 2], (2, 1)), ([3], (1, 0)), ([1, 2], (1, 0))):
        assert longest_run(np.array(values, np.float32)) == run
