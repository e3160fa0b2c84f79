"""`stream-lstm listen`: each form of a feed is named, and the command that it prints reads it."""

from __future__ import annotations

import shlex
from typing import Any

import msgspec
import numpy as np
import pytest

from stream_lstm.config import build
from stream_lstm.events import Run, Ticks
from stream_lstm.feed.declared import EventBatch
from stream_lstm.feed.decode import resolve
from stream_lstm.feed.intake import Intake
from stream_lstm.feed.protocol import encode_ticks

from ..feed.forms import FORMS
from .lines import COUNT, sending

LISTS = ("columns", "fields", "frames")
READ = [name for name, form in FORMS.items() if form.declaration is not None]


def quote(k: int) -> tuple[int, float, float]:
    return k, round(1.1 + k * 1e-4, 5), round(1.2 + k * 1e-4, 5)


def configured(command: str) -> tuple[Any, str]:
    """Return the feed that a printed command configures, and its feature."""
    program, run, *words = shlex.split(command)
    assert (program, run) == ("stream-lstm", "run")
    given: dict[str, Any] = {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        key = flag.removeprefix("--").replace("-", "_")
        if key in LISTS:
            given[key] = value.split(",")
        elif key in ("separator", "connect"):
            given.setdefault(key, []).append(value)
        else:
            given[key] = value
    feature = given.pop("feature")
    feed = build(given).feed
    columns = feed.columns or resolve(feed).columns
    return msgspec.structs.replace(feed, columns=columns), feature


@pytest.mark.parametrize("name", READ)
def test_the_printed_command_takes_every_message(cli: Any, name: str) -> None:
    form = FORMS[name]
    with sending(lambda k: form.message(*quote(k))) as endpoint:
        done = cli("listen", "--connect", endpoint, "--wait", 60, "--messages", COUNT, "--json")
    assert done.code == 0, done.err
    record = done.json()
    assert record["messages"] == COUNT
    assert record["looks_like"]
    feed, feature = configured(record["command"])
    assert feed.connect == (endpoint,)
    assert feature
    intake, batch = Intake(feed), EventBatch(independent=True)
    for k in range(COUNT):
        intake.take(form.message(*quote(k)), batch)
    assert intake.counters.refused == 0, intake.reasons.first
    events = batch.finish()
    taken = [e.block() if isinstance(e, Run) else e for e in events if isinstance(e, Ticks | Run)]
    assert sum(len(ticks.values) for ticks in taken) >= COUNT
    if record["doubtful"]:
        return
    values = np.concatenate([ticks.values.ravel() for ticks in taken]).astype(np.float32)
    sent = np.array([form.sent(*quote(k))[1] for k in range(COUNT)], np.float32)
    assert np.isin(sent, values).all()


@pytest.mark.slow
def test_the_printed_command_runs(cli: Any) -> None:
    form = FORMS["text: two separators"]
    with sending(lambda k: form.message(*quote(k))) as endpoint:
        done = cli("listen", "--connect", endpoint, "--wait", 60, "--messages", COUNT)
    assert "It looks like text of 3 fields." in done.err
    assert "one frame, without a topic: 300" in done.err
    assert "message 1, frame 1: EURUSD:|:1.1;1.2" in done.err
    words = shlex.split(done.out)[1:]
    with sending(lambda k: form.message(*quote(k))) as again:
        words[words.index(endpoint)] = again
        small = "--hidden", "2", "--window", "5", "--bptt", "5", "--idle-timeout", "1", "--json"
        ran = cli(*words, *small)
    assert ran.json()["feed"]["ticks"] == COUNT


def test_records_of_this_protocol_are_named(cli: Any) -> None:
    with sending(lambda k: list(encode_ticks("A", k, [1.0 + k, 2.0]))) as endpoint:
        done = cli("listen", "--connect", endpoint, "--wait", 60, "--messages", 20, "--json")
    record = done.json()
    assert record["looks_like"] == "records of this protocol"
    assert "--columns c0,c1 --feature " in record["command"]
    assert record["topics"] == {"tick/A/": 20}


def test_a_pickle_is_named_and_not_opened(cli: Any) -> None:
    with sending(lambda k: FORMS["pickle"].message(*quote(k))) as endpoint:
        done = cli("listen", "--connect", endpoint, "--wait", 60, "--messages", 20)
    assert done.code == 65
    assert "It looks like pickled Python object." in done.err
    assert done.err.splitlines()[-1].endswith("are never read; publish JSON or msgpack")


def test_without_an_endpoint_or_a_message_it_says_what_to_do(cli: Any) -> None:
    assert cli("listen").code == 2
    done = cli("listen", "--bind-feed", "tcp://127.0.0.1:*", "--wait", 0.1)
    assert done.code == 69
    assert "no message came from tcp://127.0.0.1:* within 0.1 s" in done.err
