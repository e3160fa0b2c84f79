"""A tick on trial is predicted as it would be, and leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest

from stream_lstm import DataError, Predictor
from stream_lstm.errors import UsageError

SETTINGS = {
    "window": 10, "stride": 1, "horizon": 0, "labels": "external", "hidden": 4, "bptt": 5,
    "learn": True,
}  # fmt: skip
XS = np.random.default_rng(0).normal(size=60)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"learn": False, "stride": 3},
        {"mode": "window"},
        {"mode": "window", "calibrate": True, "learn": False},
        {"calibrate": True, "twins": ("frozen", "stateless")},
        {"bank": "default"},
    ],
    ids=str,
)
@pytest.mark.parametrize("feature", ["x", "diff(x)"])
def test_it_has_the_bits_of_the_step_and_leaves_none(settings, feature) -> None:
    one, other = (Predictor(feature, **SETTINGS | settings) for _ in range(2))
    made = 0
    for k, x in enumerate(XS):
        p = one.peek({"x": x})
        one.peek([x + 1.0])
        prediction, same = one.step([x]), other.step([x])
        assert prediction == same
        assert p == (None if prediction is None else prediction.p)
        if prediction is not None:
            made += 1
            for predictor in (one, other):
                predictor.learn(k % 2, prediction.n)
    assert made > 10
    assert one.snapshot() == other.snapshot()


def test_what_step_refuses_is_refused() -> None:
    predictor = Predictor("log_return(x)", **SETTINGS)
    predictor.step([1.0])
    before = predictor.snapshot()
    with pytest.raises(DataError, match=r"the tick is refused: feature log_return\(x\) is nan"):
        predictor.peek([-1.0])
    with pytest.raises(DataError, match="no field 'x'"):
        predictor.peek({"y": 1.0})
    with pytest.raises(DataError, match="whole number of nanoseconds"):
        predictor.peek([1.0], t_ns=0.5)
    assert predictor.snapshot() == before


def test_labels_of_the_series_leave_nothing_to_try() -> None:
    with pytest.raises(UsageError, match='labels="external"'):
        Predictor("x", window=10, bptt=5, hidden=4).peek([1.0])
