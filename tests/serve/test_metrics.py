"""Histograms and timings of a real daemon: the proxies count, change no bit, and go away."""

import threading
from functools import partial

import numpy as np
import pytest

from stream_lstm.serve.daemon import MANY
from stream_lstm.serve.metrics import HIGHEST, LOWEST, LogHistogram

from ..store.stores import series
from .live import ANY_PORT, Live, digest

PREFIX = "stream_lstm_"


def bucket_of(ns):
    """Return the bound in seconds of the bucket of a duration."""
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
def test_a_duration_below_all_bounds_is_in_the_first_bucket(ns):
    assert bucket_of(ns) == 2**LOWEST / 1e9


def test_a_duration_above_all_bounds_is_in_the_last_bucket():
    assert bucket_of(2**HIGHEST + 1) == float("inf")
    assert bucket_of(2**62) == float("inf")


def test_buckets_are_cumulative():
    histogram = LogHistogram()
    for ns in (500, 3_000, 3_000, 10**12):
        histogram.add(ns)
    totals = [total for _, total in histogram.buckets()]
    assert totals == sorted(totals)
    assert (totals[0], totals[-2], totals[-1]) == (1, 3, 4)
    assert histogram.sum_ns == 500 + 6_000 + 10**12


# ---- timings ------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_call_into_the_network_is_timed_for_each_sample(live):
    one = live(pages=True, publish=ANY_PORT)
    engine, counts = one.daemon.session.engine, []
    for samples in (0, 1, 2):
        one.daemon.tasks._tasks.clear()
        if samples:
            one.monitor.timings.sample()
        ticks = series(10, samples)
        one.each_turn(*(partial(one.feed.publish, "a", 0, tick) for tick in ticks))
        one.stop.requested = False
        one.until(lambda n=10 * (samples + 1): one.elements() == n)
        counts.append(one.samples()[PREFIX + "step_seconds_count", "step"])
    assert counts == [0, 1, 2]
    one.close()
    assert vars(engine).keys().isdisjoint({"advance_in_place", "window", "run_strides", "update"})


def test_calls_for_many_streams_are_timed_too(live):
    names = [f"s{k}" for k in range(2 * MANY)]
    one = live(pages=True, streams=names)
    for k in range(20):  # more than one drain of the socket: in the first, every stream starts
        for name in names:
            one.ticks(series(1, seed=k), k + 1, name)
    one.monitor.timings.sample()
    one.finish()
    samples = one.samples()
    assert samples[PREFIX + "elements_total",] == 20 * len(names)
    assert samples[PREFIX + "stream_elements_total", "s1"] == 20
    assert samples[PREFIX + "warm_streams",] == len(names)
    assert samples[PREFIX + "step_seconds_count", "table"] >= 1


@pytest.mark.slow
def test_a_daemon_with_pages_gives_the_bits_of_one_without():
    digests = []
    for pages in (False, True):
        with Live(pages=pages, learn=True) as live:
            scraping = threading.Event()

            def scrape(live=live, scraping=scraping):
                while not scraping.wait(0.001):
                    live.page("/metrics")

            thread = threading.Thread(target=scrape if pages else scraping.wait)
            thread.start()
            live.feed.publish("a", np.arange(500), series(500))
            live.finish()
            scraping.set()
            thread.join()
            if pages:
                assert live.samples()[PREFIX + "scrape_errors_total",] == 0
            digests.append(digest(live.events))
    assert digests[0] == digests[1]
