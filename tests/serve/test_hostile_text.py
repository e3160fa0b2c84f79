"""Control characters in every text of the wire, and what log, metrics, pages and errors show."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from stream_lstm.config import build
from stream_lstm.errors import DecodeError, StreamLSTMError
from stream_lstm.events import Gap, Refusal, Rollback, SessionStart
from stream_lstm.feed.decode import compile_decoder
from stream_lstm.feed.protocol import parse_topic
from stream_lstm.feed.sequence import ColumnCheck
from stream_lstm.quoting import label
from stream_lstm.serve.logs import Log, event_log
from stream_lstm.serve.status import Status
from stream_lstm.view.report import head_html
from stream_lstm.view.status import pulse
from stream_lstm.view.words import Fact

from ..hostile import BIDI, HOSTILE, raw
from .live import ANY_PORT, Live

NAME = f"a{BIDI}"
"""What a stream may be called: control characters are refused, overrides are not."""


def packed(**fields: object) -> bytes:
    return msgspec.msgpack.encode({"v": 1, **fields})


def messages() -> list[tuple[bytes, bytes]]:
    """One message for each text of the wire."""
    topic = f"tick/{HOSTILE}/".encode()
    return [
        (topic, packed(values=[1.0], session="s1", seq=1)),
        (HOSTILE.encode(), packed(values=[1.0])),
        (b"tick/\xff\x1b/", packed(values=[1.0])),
        (b"tick/a/", packed(values=[1.0], session=HOSTILE, seq=1)),
        (b"tick/a/", packed(values={HOSTILE: 1.0}, session="s1", seq=1)),
        (b"tick/a/", packed(values=HOSTILE, session="s1", seq=1)),
        (b"tick/a/", packed(values=[HOSTILE], session="s1", seq=1)),
        (b"tick/a/", json.dumps({"v": 1, HOSTILE: 1, "values": HOSTILE}).encode()),
        (b"tick/a/", HOSTILE.encode()),
        (b"tick/a/", packed(values=[1.0], t_ns=HOSTILE)),
        (b"label/a/", packed(n=HOSTILE, y=1)),
        (b"label/a/", packed(n=1, y=HOSTILE)),
        (f"label/{NAME}/".encode(), packed(n=99, y=1)),
        (b"heartbeat/a/", packed(seq=1, session=HOSTILE)),
        (b"heartbeat/a/", packed(seq=HOSTILE, session="s1")),
        (f"heartbeat/{NAME}/".encode(), packed(seq=1, session="other", columns=[HOSTILE])),
        (b"heartbeat/a/", packed(seq=1, session="third", columns=[HOSTILE, "x"])),
    ]


@pytest.fixture(scope="module")
def live():
    with Live(pages=True, learn=True, labels="external", publish=ANY_PORT) as live:
        for topic, payload in messages():
            live.send(topic, payload)
        values = np.random.default_rng(3).normal(size=(60, 1))
        values[30] = np.nan
        live.ticks(values, 1, NAME)
        live.finish()
        yield live


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_of_the_wire_reaches_the_log_raw(live, form):
    lines: list[str] = []
    log = event_log(Log(form, lines.append), lambda: 0.0)
    more = [
        Refusal(NAME, "tick", HOSTILE, 1, HOSTILE),
        Gap(NAME, 4, 2),
        SessionStart(NAME, f"s{BIDI}"),
        Rollback(NAME, 9, "last-good", "base-rate", 9, 0.7, 0.6),
    ]
    assert sum(isinstance(event, Refusal) for event in live.events) > 10
    for event in (*live.events, *more):
        log(event)
        log.flush()
    assert len(lines) > 5
    assert not raw("\n".join(lines))
    if form == "json":
        for line in lines:
            for value in msgspec.json.decode(line).values():
                assert not raw(str(value))


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_message_reaches_the_log_raw(form):
    lines: list[str] = []
    log = Log(form, lines.append)
    log.say("one", HOSTILE, where=HOSTILE)
    log.named("two")(HOSTILE)
    log.say("three", HOSTILE, plain=True, kind=HOSTILE)
    assert len(lines) == 3
    assert not raw("".join(lines))


def test_nothing_of_the_wire_reaches_the_pages_raw(live):
    samples = live.samples()
    assert ("stream_lstm_stream_elements_total", "a\\u202egpj.exe\\u2066\\u200f") in samples
    for path in ("/metrics", "/readyz", "/livez", "/"):
        assert not raw(live.page(path)[2]), path


def test_nothing_reaches_the_live_page_raw():
    fact = Fact(HOSTILE, HOSTILE, HOSTILE)
    html = head_html(HOSTILE, [fact])
    assert "owned" in html
    assert not raw(html)
    told = pulse(Status("live", "it sends"), label(HOSTILE), 1)
    assert "owned" in told
    assert not raw(told)


def test_the_names_of_a_feeds_columns_are_not_raw_where_they_end_the_daemon():
    ours = ColumnCheck(("bid", "ask"))
    assert ours.compare("s", ("ask", f"bid{HOSTILE}"))
    assert not raw(str(DecodeError(ours.refused["s"])))


@pytest.mark.parametrize(
    "frames",
    [
        [HOSTILE.encode(), b"{}"],
        [f"f/{HOSTILE}".encode(), b'{"x": 1}'],
        [b"f/a", json.dumps({"x": HOSTILE}).encode()],
        [b"f/a", json.dumps({"x": 1, "t": HOSTILE}).encode()],
        [b"f/a", HOSTILE.encode()],
    ],
)
def test_a_foreign_feed_is_not_quoted_raw(frames):
    config = build({"payload": "json", "topic": "f/", "columns": ["x"], "time_field": "t"}).feed
    with pytest.raises(DecodeError) as refused:
        compile_decoder(config)(frames)
    assert not raw(str(refused.value))


def test_a_topic_is_not_quoted_raw():
    with pytest.raises(StreamLSTMError) as refused:
        parse_topic(f"tick/{HOSTILE}/".encode())
    assert not raw(str(refused.value))
