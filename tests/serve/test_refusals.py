"""Refusals for people: few lines of each kind, however fast and long a peer sends rubbish."""

from stream_lstm.events import Gap, Prediction, Refusal, Rollback
from stream_lstm.serve.logs import MAX_PERIOD_S, MAX_TEXT, EventLog


class Time:
    now = 100.0


def log():
    lines, clock = [], Time()
    return EventLog(lines.append, lambda: clock.now), lines, clock


def test_the_first_is_written_and_the_rest_of_the_second_is_counted():
    refused, lines, clock = log()
    for k in range(1000):
        refused(Refusal("", "message", f"bad {k}", where="tick/a/"))
    assert lines == ["refused a message (tick/a/): bad 0"]
    clock.now += 1.0
    refused(Refusal("a", "message", "bad again"))
    assert lines[1:] == ["refused: 999 more messages", "refused a message (stream 'a'): bad again"]
    assert refused.total == {"message": 1001}


def test_what_does_not_stop_is_told_ever_more_rarely():
    refused, lines, clock = log()
    told_at, told = [], 0
    for second in range(400):
        clock.now = 100.0 + second
        refused(Refusal("a", "message", "bad"))
        refused.tend()
        if len(lines) > told:
            told_at.append(second)
            told = len(lines)
    assert told_at == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303, 363]
    assert lines[-2] == f"refused: {MAX_PERIOD_S - 1:.0f} more messages"
    assert refused.total == {"message": 400}


def test_what_had_stopped_is_told_at_once_and_again_after_a_second():
    refused, lines, clock = log()
    for second in (0, 1, 3, 7, 100, 101):
        clock.now = 100.0 + second
        refused(Refusal("a", "message", f"bad {second}"))
    assert [line.split("bad ")[1] for line in lines] == ["0", "1", "3", "7", "100", "101"]


def test_the_last_of_a_run_is_told_when_it_is_due():
    refused, lines, clock = log()
    for _ in range(3):
        refused(Refusal("a", "label", "late"))
    refused.tend()
    assert len(lines) == 1
    clock.now += 1.0
    refused.tend()
    refused.tend()
    assert lines[1:] == ["refused: 2 more labels"]


def test_kinds_do_not_silence_each_other():
    refused, lines, _ = log()
    refused(Refusal("a", "tick", "x is nan", 3, "tick/a/"))
    refused(Refusal("a", "label", "late"))
    assert lines == [
        "refused a tick (tick/a/, row 3): x is nan",
        "refused a label (stream 'a'): late",
    ]


def test_flush_tells_what_was_passed_over():
    refused, lines, _ = log()
    refused.flush()
    for _ in range(2):
        refused(Refusal("a", "label", "late"))
    refused.flush()
    refused.flush()
    assert lines[1:] == ["refused: 1 more label"]


def test_other_events_are_passed_over():
    refused, lines, _ = log()
    refused(Prediction("a", 1, 0, 0.5))
    assert lines == []


def test_a_peer_cannot_drive_the_terminal_or_flood_a_line():
    refused, lines, _ = log()
    refused(Refusal("", "message", "\x1b[2J\n" + "x" * 1000))
    assert "\x1b" not in lines[0]
    assert "\n" not in lines[0]
    assert len(lines[0]) == MAX_TEXT


def test_a_gap_is_told():
    told, lines, _ = log()
    told(Gap("a", 41, 40))
    told(Gap("a", 90, 1))
    told.flush()
    assert lines == ["gap: 40 ticks of the stream 'a' were lost before seq 41", "1 more gap"]


def test_a_roll_back_is_told_with_its_reason():
    told, lines, _ = log()
    told(Rollback("a", 112, "last-good", "last-good", 128, 0.9, 0.69, 0.4))
    told(Rollback("b", 112, "refusals", "base-rate", 128, 0.9, 0.69))
    told.flush()
    where = "learning rolled back to the last good weights (stream 'a', n=112)"
    losses = "log loss 0.900, base rate 0.690, last good weights 0.400"
    assert lines == [f"{where}: {losses}; it rests for 128 labels", "1 more roll-back"]
