"""/livez is about the loop alone, /readyz about whether the daemon is of use."""

import pytest

from stream_lstm.schema import ServeConfig
from stream_lstm.serve import monitor
from stream_lstm.serve.monitor import Monitor

from .monitored import Monitored, series


class Time:
    now = 100.0

    def __call__(self):
        return self.now


def one_of(turns, last):
    """A chore that does one of `turns` each time, and `last` from then on."""

    def work():
        next(turns, last)()

    return work


@pytest.fixture
def quick(monkeypatch):
    """Have the loop mark every turn."""
    monkeypatch.setattr(monitor, "TURN_S", 0.0)


def test_it_lives_while_the_loop_turns_and_not_when_it_hangs(quick):
    clock, seen = Time(), []
    with Monitored(clock=clock) as watched:

        def hang():
            seen.append(watched.verdict("/livez"))
            clock.now += 31.0
            seen.append(watched.verdict("/livez"))
            seen.append(watched.verdict("/readyz"))

        turns = iter([hang, lambda: None, lambda: seen.append(watched.verdict("/livez"))])
        watched.daemon.every(0.0, one_of(turns, watched.stop.set))
        watched.daemon.run()
        watched.monitor.health.ended()
        clock.now += 31.0
        seen.append(watched.verdict("/livez"))
    codes = [status for status, _ in seen]
    assert codes == [200, 503, 503, 200, 200]
    assert seen[1][1]["reasons"] == ["the loop has not turned for 31.0 s"]
    assert "the loop has not turned for 31.0 s" in seen[2][1]["reasons"]


def test_it_is_ready_once_it_is_warm(tmp_path):
    seen = []
    with Monitored(path=tmp_path / "s.db") as watched:
        seen.append(watched.verdict("/readyz"))
        watched.ticks(series(11), 1)
        turns = iter(
            [
                lambda: None,
                lambda: seen.append(watched.verdict("/readyz")),
                lambda: watched.ticks(series(1), 12),
                lambda: None,
                lambda: seen.append(watched.verdict("/readyz")),
            ]
        )
        watched.daemon.every(0.05, one_of(turns, watched.stop.set))
        watched.daemon.run()
        seen.append(watched.verdict("/readyz"))
    assert [status for status, _ in seen] == [503, 503, 200, 503]
    reasons = [told["reasons"] for _, told in seen]
    assert reasons == [
        ["no stream is warm yet", "no message has come from the feed yet"],
        ["no stream is warm yet"],
        [],
        ["it is stopping"],
    ]
    assert seen[2][1]["checks"] == dict.fromkeys(
        ("started", "loop", "warm", "feed", "store"), True
    )


@pytest.mark.parametrize("table", [False, True])
def test_every_stream_that_is_asked_for_must_be_warm(table):
    names = ["a", *(f"s{k}" for k in range(7))]
    with Monitored(streams=names, table=table) as watched:
        watched.ticks(series(40), 1)
        watched.run()
        status, told = watched.verdict("/readyz")
    assert status == 503
    assert told["reasons"] == ["not warm yet: s0, s1, s2, s3, s4 and 2 more"]


def test_a_feed_that_is_silent_is_not_ready():
    with Monitored(stale_after=0.05) as watched:
        watched.ticks(series(40), 1)
        turns = iter([lambda: None] * 3)
        watched.daemon.every(0.05, one_of(turns, _once_stale(watched)))
        watched.daemon.run()
        watched.stop.requested = False
        status, told = watched.verdict("/readyz")
    assert status == 503
    assert "the feed has been silent for" in told["reasons"][0]
    assert told["checks"]["feed"] is False


def _once_stale(watched):
    return lambda: watched.stop.set() if watched.daemon.staleness.stale else None


def test_a_store_that_cannot_be_written_is_not_ready(tmp_path):
    with Monitored(path=tmp_path / "s.db") as watched:
        watched.ticks(series(40), 1)
        watched.run()
        assert watched.verdict("/readyz")[0] == 200
        watched.store._writer.catch_up()
        watched.store._writer.trouble = "database or disk is full"
        status, told = watched.verdict("/readyz")
        metrics = watched.samples()
        watched.store._writer.trouble = None
    assert status == 503
    assert told["reasons"] == ["the store cannot be written: database or disk is full"]
    assert metrics["stream_lstm_store_healthy",] == metrics["stream_lstm_ready",] == 0


def test_while_it_starts_it_lives_and_is_not_ready():
    with Monitor(ServeConfig(metrics="127.0.0.1:0")) as monitor:
        assert monitor.health.live()["live"]
        assert monitor.health.ready()["reasons"] == ["it is still starting"]
