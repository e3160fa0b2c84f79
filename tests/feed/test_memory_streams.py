"""The scripts of the memory streams are what they say: cues, queries, answers and lags."""

import math

import numpy as np
import pytest

from stream_lstm.feed.synthetic import PERIOD, Echo, Latch, LongLatch

TICKS = 400_000


@pytest.fixture(scope="module", params=[Latch, LongLatch])
def latch(request):
    return request.param, request.param(1).block(TICKS)[:, 0]


def test_cues_and_queries_take_turns_at_their_ticks(latch):
    kind, x = latch
    off_beat = np.arange(TICKS) % PERIOD != 0
    events = np.flatnonzero(off_beat & (np.abs(x) > 1))
    cues, queries = events[::2], events[1::2]
    cues = cues[: len(queries)]
    assert set(np.abs(x[cues])) == {4.0}
    assert set(x[queries]) == {2.0}
    assert set(cues % PERIOD) == {5}
    assert set(queries % PERIOD) == {9}
    lags = queries - cues
    assert lags.min() == (104 if kind is Latch else 294)
    assert ((lags + 6) // PERIOD - kind.least + 1).mean() == pytest.approx(6, rel=0.1)
    waits = (cues[1:] - 5 - queries[:-1] - 1) // PERIOD
    assert waits.min() == 1
    assert waits.mean() == pytest.approx(2, rel=0.1)
    right = np.mean(np.sign(x[queries + 1]) == np.sign(x[cues]))
    assert right == pytest.approx(0.95, abs=4 * math.sqrt(0.05 / len(cues)))


def test_the_answer_is_known_after_its_query_and_not_before(latch):
    kind, x = latch
    p = kind(0).best(x[:, None])
    queries = np.flatnonzero(x == 2.0)
    assert np.isin(p[queries], [0.95, 1 - 0.95]).all()
    may_be_asked = p[queries - 1]
    assert np.allclose(may_be_asked, 0.5 + 0.5 / 6)
    assert np.isin(p, [0.5, 0.95, 1 - 0.95, 0.5 + 0.5 / 6]).all()


def test_a_query_without_a_cue_says_nothing():
    values = np.full((30, 1), 0.01)
    values[19] = 2.0
    assert (Latch(0).best(values) == 0.5).all()


def test_echoes_come_twelve_blocks_after_every_fourth():
    source = Echo(2)
    values = source.block(TICKS)
    x, p = values[:, 0], source.best(values)
    cues = np.arange(5, TICKS - 120, 40)
    assert set(x[cues]) == {2.0, -2.0}
    assert abs(x[cues].mean()) < 0.1
    echoes = cues + 115
    right = np.mean(np.sign(x[echoes]) == np.sign(x[cues]))
    assert right == pytest.approx(0.95, abs=0.01)
    assert np.array_equal(p[echoes - 1] > 0.5, x[cues] > 0)
    others = np.ones(TICKS, bool)
    others[np.arange(119, TICKS, 40)] = False
    assert (p[others] == 0.5).all()
