"""The log: text with back-off or JSON, limited by kind, and never in the way of the loop."""

import threading

import msgspec
import pytest

from stream_lstm.events import (
    End,
    Fresh,
    Gap,
    OldTimes,
    Prediction,
    Refusal,
    Rollback,
    Score,
    SessionStart,
    Stale,
)
from stream_lstm.feed.protocol import Heartbeat, encode_heartbeat, encode_ticks
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.reasons import MAX_REASONS
from stream_lstm.schema import FeedConfig
from stream_lstm.serve.logs import (
    BURST,
    MAX_TEXT,
    QUEUE,
    EventLog,
    Log,
    OldTimesBatch,
    Pipe,
    Staleness,
    event_log,
)

from ..store.stores import COLUMNS
from .live import WAIT_S, Clock, feed_of


@pytest.fixture
def clock():
    return Clock(100.0)


@pytest.fixture
def lines():
    return []


@pytest.fixture
def log(lines, clock):
    return Log("json", lines.append, clock=clock, now=lambda: 1_500_000_000)


@pytest.fixture
def events(lines, clock):
    return EventLog(lines.append, clock)


def decoded(lines):
    return [msgspec.json.decode(line) for line in lines]


def test_a_line_of_json_has_time_level_event_and_message(log, lines):
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


def test_text_is_for_people(lines):
    log = Log("text", lines.append)
    log.say("ready", "ready: here", plain=True, version="1")
    log.named("store")("trouble")
    assert lines == ["ready: here", "stream-lstm: trouble"]


def test_lines_of_a_kind_are_limited_in_a_second_and_the_rest_is_counted(log, lines, clock):
    for _ in range(BURST + 7):
        log.say("refused", "no", kind="tick")
    log.say("refused", "no", kind="label")
    assert len(lines) == BURST + 1
    clock.now += 1.0
    log.say("refused", "no", kind="tick")
    assert decoded(lines)[-1]["left_out"] == 7


def test_in_json_each_event_has_a_name_and_its_fields(log, lines):
    observe = event_log(log)
    for event in (
        Prediction("a", 1, 0, 0.5),
        Score("a", 1, 0, 0.5, 1, 0.7, 0.5, 0.5),
        Refusal("a", "tick", "x is nan", 3, "tick/a/"),
        Rollback("a", 112, "last-good", "last-good", 128, 0.9, 0.69),
        Gap("a", 7, 2),
        SessionStart("a", "s"),
        End("a", "s"),
        Stale(3.0),
        Fresh(4.0),
    ):
        observe(event)
    observe.flush()
    refused, rolled_back, gap, start, end, stale, fresh = decoded(lines)
    refusal = {"kind": "tick", "stream": "a", "reason": "x is nan", "index": 3, "where": "tick/a/"}
    assert {key: refused[key] for key in ("event", *refusal)} == {"event": "refused", **refusal}
    assert (gap["event"], gap["missed"]) == ("gap", 2)
    assert (stale["event"], stale["silent_s"]) == ("feed_stale", 3.0)
    names = [line["event"] for line in (rolled_back, start, end, fresh)]
    assert names == ["rolled_back", "session_started", "stream_ended", "feed_fresh"]


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_peer_cannot_drive_the_terminal_break_a_line_or_flood_it(form, lines):
    event_log(Log(form, lines.append))(Refusal("", "message", "\x1b[2J\n" + "x" * 9999))
    (line,) = lines
    assert not {"\n", "\x1b"} & set(line)
    text = decoded(lines)[0]["reason"] if form == "json" else line.removeprefix("stream-lstm: ")
    assert len(text) == MAX_TEXT


# ---- text with back-off -------------------------------------------------------------------


def test_the_first_line_is_written_and_the_rest_of_the_second_is_counted(events, lines, clock):
    for k in range(1000):
        events(Refusal("", "message", f"bad {k}", where="tick/a/"))
    assert lines == ["refused a message (tick/a/): bad 0"]
    clock.now += 1.0
    events(Refusal("a", "message", "bad again"))
    assert lines[1:] == ["refused a message (stream 'a'): bad again"]
    events.tend()
    assert lines[2:] == ["refused: 999 more messages: bad #"]
    assert events.total == {"message": 1001}


def test_a_reason_that_comes_second_is_told_too(lines, clock):
    for form, key in (("text", ""), ("json", "reason")):
        lines.clear()
        events = event_log(Log(form, lines.append, clock=clock), clock)
        events(Refusal("", "message", "seq is 0; it must be from 1"))
        for k in range(301):
            events(Refusal("", "message", f"t_ns is {k}.5; it must be a whole number"))
            events(Gap("a", 10 * k, 4))
        assert len(lines) == 3
        assert "t_ns" in (decoded(lines)[1]["reason"] if key else lines[1])
        clock.now += 1.0
        events.tend()
        if key:
            refused, gap = decoded(lines)[3:]
            assert (refused["event"], refused["kind"], refused["count"], refused["reason"]) == (
                "refused_more", "message", 300, "t_ns is #; it must be a whole number",
            )  # fmt: skip
            assert (gap["event"], gap["count"], gap["missed"]) == ("gap_more", 300, 1200)
            continue
        assert lines[3:] == [
            "stream-lstm: refused: 300 more messages: t_ns is #; it must be a whole number",
            "stream-lstm: gap: 1,200 more ticks were lost in 300 gaps",
        ]


def test_a_fault_of_a_year_has_few_lines_of_json(log, lines, clock):
    events = event_log(log, clock)
    for _ in range(100_000):
        clock.now += 315.0  # seconds
        events(Refusal("a", "tick", "x is nan"))
        events.tend()
    events.flush()
    assert len(lines) < 60
    told = sum(line.get("count", 1) for line in decoded(lines))
    assert told == 100_000


def test_each_reason_of_a_message_has_a_line_and_then_a_count(events, lines):
    for k in range(10):
        events(Refusal("", "message", f"no field 'a{k}'; it is 'x{k}' (2 bytes)"))
        events(Refusal("", "message", f"{k} frames; it is 'y' (1 bytes)"))
    assert lines == [
        "refused a message: no field 'a0'; it is 'x0' (2 bytes)",
        "refused a message: 0 frames; it is 'y' (1 bytes)",
    ]
    events.flush()
    assert lines[2:] == [
        "refused: 9 more messages: no field #",
        "refused: 9 more messages: # frames",
    ]
    assert events.total == {"message": 20}


def test_any_number_of_reasons_has_a_bounded_number_of_lines(events, lines):
    for k in range(1000):
        events(Refusal("", "message", f"{'x' * k}; it is 'y'"))
    assert len(lines) == MAX_REASONS + 1
    events.flush()
    assert lines[-1] == f"refused: {1000 - MAX_REASONS - 1} more messages: other reasons"


def test_a_cause_that_persists_is_logged_ever_more_rarely(events, lines, clock):
    logged_at, before = [], 0
    for second in range(400):
        clock.now = 100.0 + second
        events(Refusal("a", "message", "bad"))
        events.tend()
        if len(lines) > before:
            logged_at.append(second)
            before = len(lines)
    assert logged_at == [0, 1, 3, 7, 15, 31, 63, 127, 255]
    assert lines[-2] == "refused: 127 more messages: bad"
    assert events.total == {"message": 400}


def test_a_cause_that_paused_is_logged_immediately_and_again_after_a_second(events, lines, clock):
    for second in (0, 1, 3, 7, 4000, 4001):
        clock.now = 100.0 + second
        events(Refusal("a", "message", f"bad {second}"))
    assert [line.split("bad ")[1] for line in lines] == ["0", "1", "3", "7", "4000", "4001"]


def test_what_was_left_out_is_counted_when_it_is_due_and_at_the_end(events, lines, clock):
    for _ in range(3):
        events(Refusal("a", "label", "late"))
    events.tend()
    assert len(lines) == 1
    clock.now += 1.0
    events.tend()
    events.tend()
    events(Refusal("a", "label", "late"))
    events.flush()
    events.flush()
    assert lines[1:] == ["refused: 2 more labels: late", "refused: 1 more label: late"]


def test_each_event_has_its_sentence_and_kinds_do_not_silence_each_other(events, lines):
    for event in (
        Prediction("a", 1, 0, 0.5),
        Refusal("a", "tick", "x is nan", 3, "tick/a/"),
        Refusal("a", "label", "late"),
        Gap("a", 41, 40),
        Gap("a", 90, 1),
        Rollback("a", 112, "last-good", "last-good", 128, 0.9, 0.69, 0.4),
        Rollback("b", 112, "refusals", "base-rate", 128, 0.9, 0.69),
        Stale(3.04),
        Fresh(12.34),
    ):
        events(event)
    events.flush()
    rolled_back = "learning rolled back to the last good weights (stream 'a', n=112)"
    rests = "it rests for 128 labels"
    assert lines == [
        "refused a tick (tick/a/, row 3): x is nan",
        "refused a label (stream 'a'): late",
        "gap: 40 ticks of the stream 'a' were lost before seq 41",
        f"{rolled_back}: log loss 0.900, base rate 0.690, last good weights 0.400; {rests}",
        "stale: no message from the feed for 3.0 s; waiting",
        "fresh: the feed is back after 12.3 s of silence",
        "gap: 1 more tick was lost in 1 gap",
        "1 more roll-back",
    ]


def test_old_times_are_reported_once_a_second_and_the_log_backs_off(events, lines, clock):
    batch = OldTimesBatch(events)
    for _ in range(100):
        clock.now += 1.0
        for _ in range(10):
            batch(OldTimes("a\x1b", 3, 10**18, 2 * 10**18))
        batch.tend()
        events.tend()
    events.flush()
    assert events.total["old tick"] == 3000
    assert lines[0] == (
        "old ticks of the stream 'a\\x1b': 30 ticks are old: the first has the time "
        "2001-09-09T01:46:40.000000000Z, and the stream had reached "
        "2033-05-18T03:33:20.000000000Z; accepted (--on-old-time)"
    )
    assert len(lines) < 20
    left_out = [
        int(line.split()[0].replace(",", "")) for line in lines if "more old ticks" in line
    ]
    assert sum(left_out) + 30 * (len(lines) - len(left_out)) == 3000


# ---- the pipe -----------------------------------------------------------------------------


def test_lines_are_written_in_order_until_it_is_closed():
    written = []
    with Pipe(written.append) as pipe:
        for k in range(100):
            pipe.put(str(k))
    assert written == [f"{k}\n" for k in range(100)]
    assert pipe.dropped == 0


def test_a_pipe_that_nobody_reads_drops_lines_with_a_count():
    released, writing, written = threading.Event(), threading.Event(), []

    def write(line):
        writing.set()
        assert released.wait(WAIT_S)
        written.append(line)

    with Pipe(write) as pipe:
        pipe.put("first")
        assert writing.wait(WAIT_S)
        for k in range(QUEUE + 5):
            pipe.put(str(k))
        assert pipe.dropped == 5
        released.set()
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


# ---- silence ------------------------------------------------------------------------------


class Feed:
    """A feed, a subscriber to it, and the notices of its silence; `clock` is their time."""

    def __init__(self, bind, clock, **more):
        self.notices, self.ended, self._clock = [], False, clock
        self.out = feed_of(bind=bind)
        config = FeedConfig(connect=(self.out.endpoint,), columns=COLUMNS, **more)
        self.subscriber = Subscriber(config, clock=clock)
        self.staleness = Staleness(
            self.subscriber, config, self.notices.append, lambda: self.ended
        )
        self.out.wait_for_subscribers(1, WAIT_S)

    def sends(self, frames):
        self.out._socket.send_multipart(frames)
        before = self.subscriber.counters.messages
        while self.subscriber.counters.messages == before:
            self.subscriber.receive(WAIT_S)
        self.staleness.check()

    def waits(self, seconds):
        self._clock.now += seconds
        self.staleness.check()


@pytest.fixture
def feed(tmp_path, clock):
    made = []

    def make(**more):
        # a path and not a port, to which a subscriber of a past test could connect again
        made.append(Feed(f"ipc://{tmp_path}/{len(made)}", clock, **more))
        return made[-1]

    yield make
    for each in made:
        each.subscriber.close()
        each.out.close()


BEAT = encode_heartbeat(Heartbeat("a", 1))
TICK = encode_ticks("a", 1, [1.0])


def test_three_missing_heartbeats_are_a_silence_until_anything_comes(feed):
    silent = feed(heartbeat_s=5.0)
    silent.sends(BEAT)
    silent.waits(14.9)
    assert not silent.staleness.stale
    silent.waits(0.1)
    assert silent.staleness.stale
    silent.waits(20.0)
    silent.sends(TICK)
    assert not silent.staleness.stale
    assert silent.notices == [Stale(15.0), Fresh(35.0)]
    silent.waits(15.0)
    assert silent.notices[2:] == [Stale(15.0)]
    assert silent.subscriber.counters.stale == 2


def test_without_heartbeats_a_feed_is_silent_after_a_configured_time_alone(feed):
    quiet = feed()
    quiet.sends(TICK)
    quiet.waits(1e6)
    assert quiet.notices == []
    timed = feed(stale_after=60.0)
    timed.waits(59.0)
    assert timed.notices == []
    timed.waits(1.0)
    assert timed.notices == [Stale(60.0)], "even if nothing has ever come"
    timed.sends(BEAT)
    timed.waits(59.0)
    assert timed.notices[1:] == [Fresh(60.0)], "the heartbeats do not count then"


def test_a_message_in_the_socket_or_an_ended_feed_is_no_silence(feed):
    busy = feed()
    busy.sends(BEAT)
    busy.out._socket.send_multipart(TICK)
    while not busy.subscriber.waiting:
        pass
    busy.waits(1e3)
    over = feed()
    over.sends(BEAT)
    over.ended = True
    over.waits(1e3)
    assert busy.notices == over.notices == []


def test_checks_are_as_frequent_as_the_heartbeats(feed):
    assert feed(heartbeat_s=0.2).staleness.period_s == 0.2
    assert feed(heartbeat_s=9.0).staleness.period_s == 1.0
    assert feed(heartbeat_s=9.0, stale_after=0.5).staleness.period_s == 0.5


def test_a_heartbeat_has_the_field_only_while_the_feed_is_stale():
    _, payload = encode_heartbeat(Heartbeat("a", 1, "s"))
    assert "stale" not in msgspec.msgpack.decode(payload)
    _, payload = encode_heartbeat(Heartbeat("a", 1, "s", stale=True))
    assert msgspec.msgpack.decode(payload)["stale"] is True
