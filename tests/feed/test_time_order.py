"""Rows that go back in time are counted, however the file is cut and whose rows they are."""

import numpy as np
import pytest

from stream_lstm.feed.files import TimeOrder
from stream_lstm.feed.reader import keys_from


def looked(times, names=None, cut=100, same=False):
    order, rows = TimeOrder(), np.arange(2, 2 + len(times))
    values = np.zeros((len(rows), 1)) if same else rows[:, None].astype(float)
    for start in range(0, len(times), cut):
        part = slice(start, start + cut)
        keys = None if names is None else keys_from(names[part])
        order.look(np.array(times[part], np.int64), values[part], rows[part], keys)
    return order.count, order.first


@pytest.mark.parametrize("cut", [1, 2, 3, 100])
def test_each_row_behind_a_later_time_is_counted(cut):
    assert looked([1, 2, 2, 3], cut=cut) == (0, 0)
    assert looked([5, 4, 3], cut=cut) == (2, 3)
    assert looked([1, 5, 2, 3, 4], cut=cut) == (3, 4)


@pytest.mark.parametrize("cut", [1, 2, 3, 100])
def test_rows_of_one_time_count_only_where_they_repeat(cut):
    assert looked([1, 2, 2, 3, 3], cut=cut) == (0, 0)
    assert looked([1, 2, 2, 3, 3], cut=cut, same=True) == (2, 4)


@pytest.mark.parametrize("cut", [1, 2, 3, 100])
def test_streams_that_take_turns_have_times_of_their_own(cut):
    assert looked([9, 1, 10, 2], "abab", cut) == (0, 0)
    assert looked([9, 1, 8, 2, 9, 1], "ababab", cut) == (2, 4)


def test_nothing_is_said_of_rows_in_order():
    order = TimeOrder()
    order.look(np.zeros(3, np.int64), np.zeros((3, 1)), np.arange(3))
    assert order.warning("here") == ""


def test_one_row_is_told_as_one():
    order = TimeOrder()
    order.look(np.array([2, 1], np.int64), np.zeros((2, 1)), np.arange(2))
    assert order.warning("f.csv:3").startswith("f.csv:3: the time goes back, or the row repeats")
