"""A feed of other messages: the refusals and the last sentence name what came, and what to set."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
import zmq

from stream_lstm.feed.foreign import MAX_QUOTE, advice, quoted
from stream_lstm.quoting import printable
from stream_lstm.schema import FeedConfig

from .test_run import SMALL

COUNT = 300
WAIT_MS = 60_000


def price(k: int) -> float:
    return 1.1 + k * 1e-4


def record(k: int) -> dict[str, float]:
    return {"price": price(k), "t": 1_700_000_000_000 + k}


FORMS: dict[str, tuple[Callable[[int], list[bytes]], tuple[str, ...], str, str]] = {
    "topic and object in one frame": (
        lambda k: [b"EURUSD " + json.dumps(record(k)).encode()],
        ("--payload", "json"),
        'begins \'EURUSD {"price": 1.1',
        "send the topic in a frame of its own, and set --payload json",
    ),
    "text": (
        lambda k: [f"EURUSD {price(k):.5f}".encode()],
        ("--payload", "json"),
        "begins 'EURUSD 1.1",
        "send the values as a JSON object",
    ),
    "numbers as text": (
        lambda k: [b"EURUSD", json.dumps({"price": f"{price(k):.5f}"}).encode()],
        ("--payload", "json"),
        'begins \'EURUSD | {"price": "1.1',
        "send numbers as JSON numbers",
    ),
    "other names": (
        lambda k: [b"EURUSD", json.dumps({"last": price(k), "t": k}).encode()],
        ("--payload", "json"),
        'begins \'EURUSD | {"last": 1.1',
        "name its columns with --columns (it has last, t)",
    ),
    "three frames": (
        lambda k: [b"EURUSD", b"1700", json.dumps(record(k)).encode()],
        ("--payload", "json"),
        'begins \'EURUSD | 1700 | {"price"',
        "send a topic and a payload, in two frames",
    ),
    "an object where a record belongs": (
        lambda k: [b"tick/EURUSD/", json.dumps(record(k)).encode()],
        (),
        'begins \'tick/EURUSD/ | {"price"',
        "set --payload json",
    ),
    "escapes": (
        lambda k: [b"tick/EURUSD/", b"\x1b[31m\x00\xff" * 100],
        (),
        r"begins 'tick/EURUSD/ | \x1b[31m\x00\xff",
        "send a record with the fields v and values",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_end_names_what_was_refused_and_what_would_accept_it(cli, form):
    message, flags, begins, remedy = FORMS[form]
    with zmq.Context() as context, context.socket(zmq.XPUB) as out:
        out.linger = 0
        port = out.bind_to_random_port("tcp://127.0.0.1")

        def work() -> None:
            if out.poll(WAIT_MS):
                out.recv()
                for k in range(COUNT):
                    out.send_multipart(message(k))

        thread = threading.Thread(target=work)
        thread.start()
        connect = "--connect", f"tcp://127.0.0.1:{port}", "--idle-timeout", "1.5"
        done = cli("run", *connect, *flags, "--feature", "log_return(price)", *SMALL[2:], "--json")
        thread.join()
    last = done.err.splitlines()[-1]
    assert done.code == 65
    assert done.json()["feed"]["refused"] == COUNT
    assert f"no tick was taken: refused {COUNT} messages" in last
    first = next(line for line in done.err.splitlines() if "refused a message" in line)
    for line in (last, first):
        assert begins in line
        assert remedy in line
        assert line.isprintable()


@pytest.mark.parametrize("payload", ["record", "json", "float64"])
def test_any_message_has_advice_in_one_printable_line(payload):
    rng = np.random.default_rng(0)
    config = FeedConfig(columns=("x", "y"), payload=payload, topic="T")
    records = {"v": 1, "values": [1.0]}
    known = [b"", b"{}", b"{", b"T", b"tick/a/", b" {", msgspec.msgpack.encode(records)]
    for _ in range(300):
        frames = [
            known[int(rng.integers(len(known)))] if rng.random() < 0.5 else rng.bytes(24)
            for _ in range(int(rng.integers(1, 7)))
        ]
        told = advice(config, frames)
        assert printable(told, len(told)).isprintable()
        assert len(quoted(frames)) <= MAX_QUOTE
        assert quoted(frames).isprintable()
