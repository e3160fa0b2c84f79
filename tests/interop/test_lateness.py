"""Late labels are noticed through values that a transformer changes, and no others are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.interop.river import RECENT, Lateness

XS = np.random.default_rng(0).normal(size=400)


PERIODIC = np.sin(np.arange(400) * 2 * np.pi / 24)


def scaled_late_at(xs, delay, fade=None):
    """The same behind a scaler that learns: of all values, or of those that fade has left."""
    lateness, n, mean, square = Lateness(1), 0, 0.0, 0.0
    for k, x in enumerate(xs):
        sd = np.sqrt(square) or 1.0
        lateness.asked((float((x - mean) / sd),))
        if k < delay:
            continue
        n += 1
        change = (xs[k - delay] - mean) * (fade or 1 / n)
        square = (1 - (fade or 1 / n)) * (square + change * (xs[k - delay] - mean))
        mean += change
        sd = np.sqrt(square) or 1.0
        if lateness.is_late((float((xs[k - delay] - mean) / sd),)):
            return k - delay
        lateness.answered()
    return None


def late_at(delay: int, skip: int = 1) -> int | None:
    """The index of the first label found late, of labels `delay` questions late.

    skip: learn from every so-many-th example alone.
    """
    lateness = Lateness(1)
    for k, x in enumerate(XS):
        lateness.asked((float(x),))
        if k < delay or (k - delay) % skip:
            continue
        if lateness.is_late((float(XS[k - delay]),)):
            return k - delay
        lateness.answered()
    return None


@pytest.mark.parametrize("delay", [1, 5, 30])
def test_the_same_values_tell_at_the_first_label(delay) -> None:
    assert late_at(delay) == 0


@pytest.mark.parametrize("skip", [1, 3, 7])
def test_labels_in_time_are_not_late(skip) -> None:
    assert late_at(0, skip) is None


@pytest.mark.parametrize("xs", [XS, np.cumsum(XS), PERIODIC], ids=["noise", "walk", "sine"])
@pytest.mark.parametrize("delay", [2, 5, 30, RECENT - 10])
def test_scaled_values_tell_after_a_while(xs, delay) -> None:
    assert scaled_late_at(xs, delay) is not None


@pytest.mark.parametrize("xs", [XS, np.cumsum(XS), PERIODIC], ids=["noise", "walk", "sine"])
@pytest.mark.parametrize("fade", [None, 0.01, 0.3])
def test_scaled_labels_in_time_are_not_late(xs, fade) -> None:
    """A scaler that forgets fast changes values so far that another question is nearer."""
    assert scaled_late_at(xs, 0, fade) is None


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0]), st.integers(0, 3)), max_size=60))
def test_who_asks_right_before_each_label_is_never_late(steps) -> None:
    """Whatever is asked, in any number, and however often each is learned from."""
    lateness = Lateness(1)
    for value, times in steps:
        lateness.asked((value,))
        for _ in range(times):
            assert not lateness.is_late((value,))
            lateness.answered()


def test_who_only_learns_is_never_late() -> None:
    lateness = Lateness(1)
    for x in XS[:100]:
        lateness.asked((float(x),))
    for x in [*XS[100:], *XS[:50]]:
        lateness.answered()
        assert not lateness.is_late((float(x),))
