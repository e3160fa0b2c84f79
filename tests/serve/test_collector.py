"""Garbage is collected in pauses, at a bounded cost, and at last without one."""

import gc

import pytest

from stream_lstm.serve.runtime import LIMIT, OLDER, SHARE, YOUNG, Collector


class Recorded:
    """A garbage collector that counts what it is told to, each collection taking `takes` s."""

    def __init__(self):
        self.counts, self.done, self.on, self.frozen = (0, 0, 0), [], True, False
        self.now, self.takes = 100.0, 0.5

    def clock(self):
        return self.now

    def get_count(self):
        return self.counts

    def collect(self, generation=2):
        self.now += self.takes
        self.done.append(generation)

    def isenabled(self):
        return self.on

    def enable(self):
        self.on = True

    def disable(self):
        self.on = False

    def freeze(self):
        self.frozen = True

    def unfreeze(self):
        self.frozen = False


@pytest.fixture
def python():
    return Recorded()


@pytest.fixture
def collector(python):
    with Collector(python.clock, python) as made:
        python.done.clear()
        yield made


def always():
    return True


def never():
    return False


def unasked():
    pytest.fail("nobody wants to know whether there is a pause")


def test_what_is_there_is_frozen_and_nothing_automatic_until_the_end(python):
    with Collector(python.clock, python):
        assert (python.on, python.frozen, python.done) == (False, True, [2])
    assert (python.on, python.frozen) == (True, False)
    python.on = False
    with Collector(python.clock, python):
        pass
    assert not python.on


def test_a_few_objects_are_not_worth_it(python, collector):
    python.counts = (YOUNG - 1, 0, 0)
    collector.run(unasked)
    assert python.done == []


def test_many_are_collected_in_the_next_pause(python, collector):
    python.counts = (YOUNG, 0, 0)
    collector.run(never)
    assert python.done == []
    collector.run(always)
    assert python.done == [0]


def test_older_generations_have_their_turn(python, collector):
    python.takes = 0.0
    for middle, old in ((OLDER - 1, 0), (OLDER, 0), (0, OLDER)):
        python.counts = (YOUNG, middle, old)
        collector.run(always)
    assert python.done == [0, 1, 2]


def test_the_share_of_the_time_is_bounded(python, collector):
    python.counts = (YOUNG, 0, 0)
    collector.run(always)
    python.now += 0.98 * python.takes / SHARE
    collector.run(unasked)
    assert python.done == [0]
    python.now += 0.04 * python.takes / SHARE
    collector.run(always)
    assert python.done == [0, 0]


def test_without_a_pause_there_is_a_bound(python, collector):
    python.counts = (LIMIT - 1, 0, 0)
    collector.run(never)
    assert python.done == []
    python.counts = (LIMIT, 0, 0)
    for _ in range(2):
        collector.run(unasked)
    assert python.done == [0, 0]


def test_pythons_own_collector_counts_while_it_is_off():
    with Collector(lambda: 0.0) as collector:
        assert not gc.isenabled()
        made = [[] for _ in range(YOUNG + 1)]
        assert gc.get_count()[0] > YOUNG
        collector.run(always)
        assert gc.get_count()[0] < YOUNG
    assert len(made) > YOUNG
    assert gc.isenabled()
