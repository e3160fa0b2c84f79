"""The log: words or JSON, limited by kind, and never in the way of who speaks."""

import threading

import msgspec
import pytest

from stream_lstm.events import (
    End,
    Fresh,
    Gap,
    Prediction,
    Refusal,
    Rollback,
    Score,
    SessionStart,
    Stale,
)
from stream_lstm.serve.logs import BURST, MAX_TEXT, QUEUE, Log, Pipe, event_log

WAIT_S = 30.0


class Time:
    now = 100.0


def made(form="json"):
    lines, clock = [], Time()
    return (
        Log(form, lines.append, clock=lambda: clock.now, now=lambda: 1_500_000_000),
        lines,
        clock,
    )


def decoded(lines):
    return [msgspec.json.decode(line) for line in lines]


def test_a_line_of_json_has_time_level_event_and_message():
    log, lines, _ = made()
    log.say("ready", "here we are", version="1")
    assert decoded(lines) == [
        {
            "time": "1970-01-01T00:00:01.500000+00:00",
            "level": "info",
            "event": "ready",
            "message": "here we are",
            "version": "1",
        }
    ]


def test_text_is_for_people():
    log, lines, _ = made("text")
    log.say("ready", "ready: here", plain=True, version="1")
    log.named("store")("trouble")
    assert lines == ["ready: here", "stream-lstm: trouble"]


def test_of_a_kind_so_many_are_said_in_a_second_and_the_rest_is_counted():
    log, lines, clock = made()
    for _ in range(BURST + 7):
        log.say("refused", "no", kind="tick")
    log.say("refused", "no", kind="label")
    assert len(lines) == BURST + 1
    clock.now += 1.0
    log.say("refused", "no", kind="tick")
    assert decoded(lines)[-1]["left_out"] == 7


def test_each_event_has_a_name_and_its_fields():
    log, lines, clock = made()
    tell = event_log(log, lambda: clock.now)
    for event in (
        Refusal("a", "tick", "x is nan", 3, "tick/a/"),
        Rollback("a", 112, "last-good", "last-good", 128, 0.9, 0.69),
        Gap("a", 7, 2),
        SessionStart("a", "s"),
        End("a", "s"),
        Stale(3.0),
        Fresh(4.0),
    ):
        tell(event)
    said = decoded(lines)
    assert [line["event"] for line in said] == [
        "refused",
        "rolled_back",
        "gap",
        "session_started",
        "stream_ended",
        "feed_stale",
        "feed_fresh",
    ]
    assert {k: said[0][k] for k in ("kind", "stream", "reason", "index", "where")} == {
        "kind": "tick",
        "stream": "a",
        "reason": "x is nan",
        "index": 3,
        "where": "tick/a/",
    }
    assert said[2]["missed"] == 2
    assert said[5]["silent_s"] == 3.0


def test_daily_work_is_not_said():
    log, lines, clock = made()
    tell = event_log(log, lambda: clock.now)
    tell(Prediction("a", 1, 0, 0.5))
    tell(Score("a", 1, 0, 0.5, 1, 0.7, 0.5, 0.5))
    assert lines == []


def test_a_peer_cannot_break_a_line_or_flood_it():
    log, lines, clock = made()
    event_log(log, lambda: clock.now)(Refusal("", "message", "\n\x1b" + "x" * 9999))
    assert "\n" not in lines[0]
    assert "\x1b" not in lines[0]
    assert len(decoded(lines)[0]["reason"]) == MAX_TEXT


# ---- the pipe -----------------------------------------------------------------------------


def test_lines_are_written_in_order_until_it_is_closed():
    written = []
    with Pipe(written.append) as pipe:
        for k in range(100):
            pipe.put(str(k))
    assert written == [f"{k}\n" for k in range(100)]
    assert pipe.dropped == 0


def test_a_pipe_that_nobody_reads_drops_lines_with_a_count():
    held, writing, written = threading.Event(), threading.Event(), []

    def write(line):
        writing.set()
        assert held.wait(WAIT_S)
        written.append(line)

    with Pipe(write) as pipe:
        pipe.put("first")
        assert writing.wait(WAIT_S)
        for k in range(QUEUE + 5):
            pipe.put(str(k))
        assert pipe.dropped == 5
        held.set()
    assert len(written) == QUEUE + 1


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError])
def test_a_reader_that_is_gone_is_counted_and_no_error(error):
    def write(line):
        raise error

    with Pipe(write) as pipe:
        pipe.put("a")
        pipe.put("b")
    assert pipe.dropped == 2


def test_it_writes_to_standard_error(capfd):
    with Pipe() as pipe:
        pipe.put("héllo")
    assert capfd.readouterr().err == "héllo\n"
