"""Features of which the scaler leaves nothing are named once, and no others are."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from stream_lstm import InputWarning, Predictor, Session, Ticks, replay_frame
from stream_lstm.config import build
from stream_lstm.core.features import LOOK, Clipped

SMALL = {"window": 10, "hidden": 2}


def noise(count: int = LOOK, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count)


def looked(values: np.ndarray, feature: str = "x", **settings: object) -> list[str]:
    """What is found once the values of a stream have gone through a session."""
    config = build({"features": [feature], **SMALL, **settings})
    session = Session(config, ["x"])
    session.push(Ticks("a", np.zeros(len(values), np.int64), values[:, None]))
    session.catch_up()
    clipped = Clipped(config)
    found = clipped.look(session.table)
    assert clipped.look(session.table) == []
    return found


def test_a_level_far_from_zero_is_named_with_its_range_and_what_to_do() -> None:
    (line,) = looked(1000 + noise())
    assert line.startswith("feature x of the stream a is about ")
    for part in ("mostly 99", "at 10 standard", "diff(x) or log_return(x)", 'scaling = "zscore"'):
        assert part in line


def test_a_constant_is_named() -> None:
    (line,) = looked(np.full(LOOK, 7.0))
    assert "feature x of the stream a has been constant, 7" in line


@pytest.mark.parametrize(
    ("values", "feature", "settings"),
    [
        (noise(), "x", {}),
        (9 + noise(), "x", {}),
        (1000 + noise(), "x", {"scaling": "zscore"}),
        (1000 + noise(), "x", {"scaling": "none"}),
        (1000 + noise(), "x", {"clip": 1e6}),
        (1000 + noise(), "diff(x)", {}),
        (1000 + noise(LOOK - 1), "x", {}),
    ],
)
def test_nothing_else_is(values, feature, settings) -> None:
    assert looked(values, feature, **settings) == []


def test_what_is_named_really_is_cut() -> None:
    """At the bound that is warned of, 95 % of the scaled values are at the clip."""
    values = (12.3 + noise(4 * LOOK)).astype(np.float32)
    assert looked(values.astype(np.float64))
    mean, sd = values[:-1].mean(), values[:-1].std()
    assert abs(mean) > 12 * sd
    assert (np.abs(values) > 10 * sd).mean() > 0.95


def test_of_many_features_and_streams_each_feature_is_named_once() -> None:
    config = build({"features": ["x", "y"], **SMALL})
    session = Session(config, ["x", "y"])
    for stream, level in (("a", 0.0), ("b", 500.0), ("c", 900.0)):
        values = np.stack([noise(), level + noise(seed=1)], axis=1)
        session.push(Ticks(stream, np.zeros(LOOK, np.int64), values))
    session.catch_up()
    (line,) = Clipped(config).look(session.table)
    assert line.startswith("feature y of the stream b ")


def test_a_predictor_warns_once() -> None:
    predictor = Predictor("x", **SMALL)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for x in 1000 + noise(3 * LOOK):
            predictor.step([x])
    assert [w.category for w in caught] == [InputWarning]
    assert caught[0].filename == __file__


def test_a_table_warns_once() -> None:
    frame = {"x": 1000 + noise(20 * LOOK)}
    with pytest.warns(InputWarning, match="feature x of the stream series") as caught:
        replay_frame(frame, "x", **SMALL)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    replay_frame(frame, "diff(x)", **SMALL)
