"""Inputs that a network cannot see are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stream_lstm.core.doctor.inputs import constant_inputs, input_scale, longest_run

from ..engines import settings
from .examined import noise, series


@pytest.mark.parametrize(
    ("values", "scaling", "level", "remedy"),
    [
        (noise(), "sd", "ok", ""),
        (7e-6 * noise(), "none", "fault", "--scaling sd"),
        (7e-6 * noise(), "sd", "note", "divide them by their s.d."),
        (1e4 * noise(), "none", "fault", "--scaling sd"),
        (100 + 0.1 * noise(), "sd", "fault", "--feature 'diff(x)'"),
        (100 + 0.1 * noise(), "zscore", "ok", ""),
    ],
)
def test_a_scale_is_judged_with_its_scaling(
    values: Any, scaling: str, level: str, remedy: str
) -> None:
    found = input_scale(series(values), settings(scaling=scaling))
    assert found.level == level
    assert remedy in found.remedy


def test_the_figures_show_what_the_network_sees() -> None:
    blind = input_scale(series(7e-6 * noise()), settings(scaling="none"))
    assert blind.figures["logit_sd_raw"] < 1e-5
    assert "the network sees 7" in blind.evidence
    scaled = input_scale(series(7e-6 * noise()), settings())
    assert scaled.figures["logit_sd"] > 1e4 * scaled.figures["logit_sd_raw"]
    assert scaled.figures["features"][0]["sd"] == pytest.approx(2.0, rel=0.1)
    cut = input_scale(series(100 + 0.1 * noise()), settings())
    assert cut.figures["features"][0]["cut"] == 1.0


def test_a_faint_feature_beside_others_is_the_one_that_is_named() -> None:
    both = np.column_stack([noise(), 1e-4 * noise(seed=6)])
    told = series(both, "a", "b", columns="a b")
    found = input_scale(told, settings(features=["a", "b"], scaling="none"))
    assert found.level == "fault"
    assert found.evidence.startswith("b has a s.d. of 0.0001")


def test_a_constant_target_is_a_fault_and_another_constant_a_warning() -> None:
    still, moving = np.ones(3000), noise()
    for values, level in (([still, moving], "fault"), ([moving, still], "warning")):
        found = constant_inputs(series(np.column_stack(values), "a", "b", columns="a b"))
        assert found.level == level
        assert "is always 1" in found.evidence


def test_a_feature_that_stood_still_for_long_is_noted_with_its_row() -> None:
    values = noise()
    values[1000:2000] = 0.25
    found = constant_inputs(series(values))
    assert found.level == "note"
    assert "x is 0.25 for 1,000 elements in a row from row 1,001" in found.evidence
    assert constant_inputs(series(noise())).level == "ok"


@pytest.mark.parametrize(
    ("values", "run"), [([1, 1, 2], (2, 0)), ([1, 2, 2], (2, 1)), ([3], (1, 0)), ([1, 2], (1, 0))]
)
def test_the_longest_run_is_found_anywhere(values: list[int], run: tuple[int, int]) -> None:
    assert longest_run(np.array(values, np.float32)) == run
