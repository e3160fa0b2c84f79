"""The schedule of ticks, against a clock that only moves when told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.errors import UsageError
from stream_lstm.feed.pace import MAX_NAP_S, Pacer, Speed, parse_speed

S = 10**9


class Clock:
    """Time that passes only in naps, and in `work`; naps oversleep by `late_s`."""

    def __init__(self, late_s=0.0):
        self.now_s = 1000.0
        self.late_s = late_s
        self.naps = []

    def __call__(self):
        return self.now_s

    def nap(self, seconds):
        self.naps.append(seconds)
        self.now_s += seconds + self.late_s


def pacer(speed, clock, idle=lambda: False):
    return Pacer(speed, clock=clock, nap=clock.nap, idle=idle)


@pytest.mark.parametrize(
    ("text", "speed"),
    [
        ("max", Speed("max")),
        ("recorded", Speed("recorded", 1.0)),
        ("10x", Speed("recorded", 10.0)),
        ("0.5x", Speed("recorded", 0.5)),
        ("5000/s", Speed("rate", 5000.0)),
        (".1/s", Speed("rate", 0.1)),
    ],
)
def test_speeds_are_read(text, speed):
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["", "fast", "10", "0x", "0/s", "-1x", "1e3/s", "infx", "nan/s"])
def test_other_speeds_are_refused_with_the_forms(text):
    with pytest.raises(UsageError, match=r"max, recorded, .* 10x, .* 5000/s"):
        parse_speed(text)


def test_due_times_count_from_the_first_tick():
    assert Speed("recorded").due_s(7, 3 * S) == 3.0
    assert Speed("recorded", 10.0).due_s(7, 3 * S) == pytest.approx(0.3)
    assert Speed("rate", 50.0).due_s(7, 3 * S) == pytest.approx(0.14)
    assert Speed("max").due_s(7, 3 * S) == 0.0


def test_ticks_go_out_at_their_recorded_times():
    clock = Clock()
    pace = pacer(Speed("recorded", 2.0), clock)
    sent = []
    for k, t_s in enumerate([50, 50, 51, 54]):
        assert pace.wait(k, t_s * S)
        sent.append(clock.now_s - 1000.0)
    assert sent == pytest.approx([0.0, 0.0, 0.5, 2.0])
    assert max(clock.naps) <= MAX_NAP_S


@given(
    late_s=st.floats(0, 0.02),
    work_s=st.floats(0, 0.009),
    rate=st.sampled_from([100.0, 20.0]),
)
def test_lateness_does_not_add_up(late_s, work_s, rate):
    clock = Clock(late_s)
    pace = pacer(Speed("rate", rate), clock)
    for k in range(200):
        pace.wait(k, 0)
        due_s = 1000.0 + k / rate
        assert due_s - 1e-9 <= clock.now_s <= due_s + late_s + work_s + 0.021
        clock.now_s += work_s


def test_full_speed_and_times_that_go_back_never_wait():
    clock = Clock()
    full = pacer(Speed("max"), clock)
    assert all(full.wait(k, k * S) for k in range(5))
    recorded = pacer(Speed("recorded"), clock)
    assert all(recorded.wait(k, -k * S) for k in range(5))
    assert clock.naps == []


def test_a_first_record_of_several_ticks_starts_the_schedule_at_its_last():
    clock = Clock()
    pace = pacer(Speed("rate", 10.0), clock)
    pace.wait(4, 0)
    assert clock.now_s == 1000.0
    pace.wait(9, 0)
    assert clock.now_s == pytest.approx(1000.5)


def test_waiting_ends_when_idle_says_so():
    clock = Clock()
    asked = []

    def idle():
        asked.append(clock.now_s)
        return len(asked) == 3

    pace = pacer(Speed("recorded"), clock, idle)
    pace.wait(0, 0)
    assert not pace.wait(1, 3600 * S)
    assert clock.now_s == pytest.approx(1000.0 + 3 * MAX_NAP_S)
