"""Durations in buckets of half an octave: each one is in the bucket whose bounds hold it."""

import pytest

from stream_lstm.serve.metrics import HIGHEST, LOWEST, LogHistogram


def bucket_of(ns):
    """The bound in seconds of the bucket that a duration is counted in."""
    histogram = LogHistogram()
    histogram.add(ns)
    return next(float(bound) for bound, total in histogram.buckets() if total)


@pytest.mark.parametrize("octave", range(LOWEST, HIGHEST))
def test_a_duration_is_in_the_bucket_that_ends_at_it_or_above(octave):
    low, middle, high = 2**octave, 2**octave * 3 // 2, 2 ** (octave + 1)
    assert bucket_of(low) == low / 1e9
    assert bucket_of(low + 1) == bucket_of(middle) == middle / 1e9
    assert bucket_of(middle + 1) == bucket_of(high) == high / 1e9


@pytest.mark.parametrize("ns", [-(10**9), -1, 0, 1, 4, 1000])
def test_what_is_shorter_than_all_bounds_is_in_the_first(ns):
    assert bucket_of(ns) == 2**LOWEST / 1e9


def test_what_is_longer_than_all_bounds_is_counted_too():
    assert bucket_of(2**HIGHEST + 1) == float("inf")
    assert bucket_of(2**62) == float("inf")


def test_buckets_are_sums_from_below_and_the_last_is_all():
    histogram = LogHistogram()
    for ns in (500, 3_000, 3_000, 10**12):
        histogram.add(ns)
    totals = [total for _, total in histogram.buckets()]
    assert totals == sorted(totals)
    assert (totals[0], totals[-2], totals[-1]) == (1, 3, 4)
    assert histogram.sum_ns == 500 + 6_000 + 10**12
