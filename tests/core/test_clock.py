"""Functions of time against zoneinfo and datetime, tick by tick and in blocks."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.core import clock
from stream_lstm.core.clock import Clock
from stream_lstm.core.feature_sets import compile_features
from stream_lstm.errors import ConfigurationError

SECOND = 1_000_000_000
UTC = dt.UTC
EPOCH = dt.datetime(1970, 1, 1, tzinfo=UTC)

ZONES = (
    "UTC",
    "America/New_York",
    "America/Chicago",
    "America/St_Johns",  # changed its clocks at 00:01 until 2011
    "Europe/London",
    "Asia/Kolkata",
    "Asia/Gaza",
    "Australia/Lord_Howe",  # changes by half an hour
    "Pacific/Apia",  # left out 2011-12-30
    "Africa/Casablanca",
)


def ns(text: str, zone: str = "UTC", fold: int = 0) -> int:
    at = dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return int((at.astimezone(UTC) - EPOCH) / dt.timedelta(seconds=1)) * SECOND


FIRST, LAST = ns("1990-01-01"), ns("2050-12-31")

instants = st.lists(st.integers(FIRST, LAST), min_size=1, max_size=60)


def both(function: Clock, times: list[int]) -> list[float]:
    """The values of a block, which are those of each time by itself, to the bit."""
    block = function.block(np.array(times, np.int64))
    assert block.dtype == np.float64
    assert block.shape == (len(times),)
    assert block.tobytes() == np.array([function.one(t) for t in times], np.float64).tobytes()
    values: list[float] = block.tolist()
    return values


def changes(zone: str) -> list[int]:
    """The second before and of each change of a zone's offset."""
    info, found = ZoneInfo(zone), []

    def offset(second: int) -> dt.timedelta | None:
        return (EPOCH + dt.timedelta(seconds=second)).astimezone(info).utcoffset()

    for day in range(FIRST // clock.DAY, LAST // clock.DAY):
        low, high = day * 86_400, (day + 1) * 86_400
        if offset(low) != offset(high):
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
            found += [high * SECOND - 1, high * SECOND]
    return found


def local(t_ns: int, zone: str) -> dt.datetime:
    """The local time in whole seconds."""
    return (EPOCH + dt.timedelta(seconds=t_ns // SECOND)).astimezone(ZoneInfo(zone))


def expected_wave(t_ns: int, zone: str, *, week: bool) -> tuple[float, float]:
    at = local(t_ns, zone)
    seconds = at.hour * 3600 + at.minute * 60 + at.second + t_ns % SECOND / SECOND
    days = 7 if week else 1
    angle = 2 * math.pi * (seconds / 86_400 + at.weekday() * week) / days
    return math.sin(angle), math.cos(angle)


def check_waves(times: list[int], zone: str) -> None:
    for week, factories in (
        (False, (clock.day_sin, clock.day_cos)),
        (True, (clock.week_sin, clock.week_cos)),
    ):
        got = [both(factory(zone), times) for factory in factories]
        wanted = np.array([expected_wave(t, zone, week=week) for t in times]).T
        np.testing.assert_allclose(got, wanted, atol=1e-9)


@given(instants, st.sampled_from(ZONES))
def test_waves_are_those_of_the_local_time(times: list[int], zone: str) -> None:
    check_waves(times, zone)


@pytest.mark.parametrize("zone", ZONES)
def test_every_change_of_an_offset_is_found(zone: str) -> None:
    times = changes(zone)
    assert times or zone in ("UTC", "Asia/Kolkata")
    if times:
        check_waves(times, zone)


def expected_open(
    t_ns: int, hours: str, zone: str, holidays: frozenset[dt.date], days: tuple[int, ...]
) -> int | None:
    """When the session that is open opened, by trying the dates around; None while closed."""
    first, last = (dt.time.fromisoformat(part) for part in hours.split("-"))
    today = local(t_ns, zone).date()
    for back in (0, 1, 2):
        day = today - dt.timedelta(days=back)
        if day.weekday() not in days or day in holidays:
            continue
        until = day + dt.timedelta(days=last <= first)
        opens = ns(dt.datetime.combine(day, first).isoformat(), zone)
        closes = ns(dt.datetime.combine(until, last).isoformat(), zone)
        if opens <= t_ns < closes:
            return opens
    return None


SESSIONS = (
    ("09:30-16:00", "", (0, 1, 2, 3, 4)),
    ("18:00-17:00", "Sun-Fri", (6, 0, 1, 2, 3, 4)),
    ("18:00-17:00", "", (0, 1, 2, 3, 4)),
    ("01:30-02:30", "Mon-Sun", tuple(range(7))),
    ("23:30-02:15", "Sat,Sun", (5, 6)),
    ("00:00-23:59", "sat", (5,)),
)


@pytest.mark.parametrize("dates", ["2024-7-4", "2024-07-04,2024-11-29", "Christmas"])
def test_dates_that_are_none_are_named(dates: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a date; write dates as"):
        compile_features([f'session("09:30-16:00", "UTC", "{dates}")'], [])


def check_sessions(times: list[int], zone: str, holidays: frozenset[dt.date]) -> None:
    for hours, named, days in SESSIONS:
        text = f"{named} {hours}".strip()
        opened = [expected_open(t, hours, zone, holidays, days) for t in times]
        is_open = both(clock.session(text, zone, holidays), times)
        assert is_open == [float(one is not None) for one in opened]
        minutes = both(clock.since_open(text, zone, holidays), times)
        pairs = zip(times, opened, strict=True)
        assert minutes == [0.0 if one is None else (t - one) / (60 * SECOND) for t, one in pairs]


@settings(deadline=None)
@given(instants, st.sampled_from(ZONES[:-2]), st.data())
def test_sessions_are_those_of_their_dates(
    times: list[int], zone: str, data: st.DataObject
) -> None:
    dates = [local(t, zone).date() for t in times]
    check_sessions(times, zone, frozenset(data.draw(st.lists(st.sampled_from(dates)))))


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/London", "Australia/Lord_Howe"])
def test_sessions_around_changes_of_the_clock(zone: str) -> None:
    around = [t + k * 600 * SECOND for t in changes(zone)[:24] for k in range(-160, 160, 7)]
    check_sessions(around, zone, frozenset())


def test_minutes_since_the_open_have_passed_where_the_clock_was_changed() -> None:
    since = clock.since_open("Sat 20:00-10:00", "America/New_York")
    opened = ns("2024-03-09T20:00", "America/New_York")
    for hours in (0, 5, 7, 12.99):
        assert since.one(opened + round(hours * 3600 * SECOND)) == hours * 60
    assert since.one(opened + 13 * 3600 * SECOND) == 0  # 10:00, after an hour that was left out


def test_a_holiday_closes_the_session_that_opens_on_it() -> None:
    zone, holidays = "America/Chicago", frozenset([dt.date(2024, 12, 25)])
    over_night = clock.session("Sun-Fri 17:00-16:00", zone, holidays)
    assert over_night.one(ns("2024-12-25T10:00", zone)) == 1  # it opened on the 24th
    assert over_night.one(ns("2024-12-25T18:00", zone)) == 0
    assert over_night.one(ns("2024-12-26T10:00", zone)) == 0
    assert over_night.one(ns("2024-12-26T17:00", zone)) == 1


def test_leap_days_and_whole_days() -> None:
    whole = clock.session("Thu 00:00-24:00")
    assert [whole.one(ns(f"2024-02-{d}T23:59")) for d in (28, 29)] == [0, 1]
    assert whole.one(ns("2024-03-01T00:00")) == 0
    assert clock.since_open("Thu 00:00-24:00").one(ns("2024-02-29T23:59")) == 24 * 60 - 1


FACTORIES: tuple[Callable[[], Clock], ...] = (
    lambda: clock.day_sin("Pacific/Apia"),
    lambda: clock.week_cos("America/New_York"),
    lambda: clock.session("09:30-16:00", "Asia/Tokyo"),
    lambda: clock.since_open("Mon-Sun 18:00-17:00"),
)


@pytest.mark.parametrize("make", FACTORIES)
def test_every_int64_has_a_value(make: Callable[[], Clock]) -> None:
    times = [-(2**63), -(2**63) + 1, -1, 0, 1, 2**63 - 2, 2**63 - 1]
    assert np.isfinite(both(make(), times)).all()
    assert len(make().block(np.zeros(0, np.int64))) == 0


@pytest.mark.parametrize("make", FACTORIES)
def test_more_days_than_are_remembered(make: Callable[[], Clock]) -> None:
    days = np.arange(clock.MAX_DAYS + 500)
    both(make(), (FIRST + days * clock.DAY + 15 * 3600 * SECOND).tolist())


@pytest.mark.parametrize(
    ("hours", "what"),
    [
        ("", "HH:MM-HH:MM"),
        ("9:30-16:00", "HH:MM-HH:MM"),
        ("09:30", "HH:MM-HH:MM"),
        ("25:00-26:00", "24:00"),
        ("09:30-24:01", "24:00"),
        ("09:60-10:00", "24:00"),
        ("24:00-10:00", "24:00"),
        ("09:30-09:30", "closes when it opens"),
        ("Mon-Fry 09:30-16:00", "'Fry' is not a day"),
        ("Mon-Wed-Fri 09:30-16:00", "range of days"),
        (", 09:30-16:00", "'' is not a day"),
        ("- 09:30-16:00", "'' is not a day"),
    ],
)
def test_wrong_hours_are_named(hours: str, what: str) -> None:
    for make in (clock.session, clock.since_open):
        with pytest.raises(ConfigurationError) as caught:
            make(hours, "UTC")
        assert repr(hours) in str(caught.value)
        assert what in str(caught.value)
        assert "09:30-16:00" in str(caught.value)
        assert caught.value.key == "features"


@pytest.mark.parametrize("zone", ["America/New York", "", "America", "../etc/passwd", "A\0"])
def test_unknown_zones_are_named(zone: str) -> None:
    for make in (clock.day_sin, clock.week_cos, lambda name: clock.session("09:30-16:00", name)):
        with pytest.raises(ConfigurationError, match="there is no time zone") as caught:
            make(zone)
        assert "America/New_York" in str(caught.value)


def test_without_zone_files_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ZoneInfoNotFoundError(name)

    monkeypatch.setattr(clock, "ZoneInfo", missing)
    monkeypatch.setattr(clock, "available_timezones", set)
    with pytest.raises(ConfigurationError, match="pip install tzdata"):
        clock.zone_of("Asia/Tokyo")
    assert clock.day_sin("UTC").one(clock.DAY // 4) == 1.0
