"""Random and damaged payloads for every decoder: an event or `DecodeError`, and nothing else.

Valid messages of all kinds, in both encodings, are damaged: bytes are flipped, cut out, put in,
repeated, or two messages are joined; some payloads are noise. Memory is looked at after a tenth
and at the end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from stream_lstm.errors import DecodeError
from stream_lstm.events import Label, Prediction, Score
from stream_lstm.feed.protocol import (
    Frames,
    Heartbeat,
    Hello,
    ReplayRequest,
    SnapshotRequest,
    encode_heartbeat,
    encode_label,
    encode_prediction,
    encode_score,
    encode_side,
    encode_ticks,
)
from stream_lstm.feed.wire import MessageDecoder, OneTickDecoder, decode_reply, decode_request
from stream_lstm.schema import Encoding

from .faults_security import resident_mib

COLUMNS = ("bid", "ask")
NOISE = 0.1
"""Share of payloads that never were a message."""

EDGES = (b"\xc0", b"\xcb", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff",
         b"\xc6\xff\xff\xff\xff", b"\x81" * 40, b"[" * 40, b"{", b"1e999", b"NaN", b"\x00",
         b'"\xed\xa0\x80"', b"-0", b"18446744073709551616")  # fmt: skip
"""Bytes with which lengths, depths and numbers lie."""


def payloads(count: int, seed: int = 0) -> dict[str, Any]:
    """Decode so many payloads; return how many passed, and `other_errors`, which must be 0."""
    chance = random.Random(seed)
    messages = [*valid("msgpack"), *valid("json")]
    decode, one_tick = MessageDecoder(COLUMNS).decode, OneTickDecoder(COLUMNS).decode
    passed = refused = other = 0
    first: str | None = None
    at_tenth = 0.0
    for k in range(count):
        topic, payload = messages[chance.randrange(len(messages))]
        payload = damaged(payload, messages, chance)
        if chance.random() < 0.05:
            topic = damaged(topic, messages, chance)
        tries: list[tuple[Callable[..., object], tuple[bytes, ...]]]
        tries = [(decode, (topic, payload)), (one_tick, (payload,))]
        if k % 4 == 0:
            tries += [(decode_request, (payload,)), (decode_reply, (payload,))]
        for read, given in tries:
            try:
                passed += read(*given) is not None
            except DecodeError:
                refused += 1
            except Exception as error:
                other += 1
                first = first or f"{error!r} from {topic!r}, {payload[:200]!r}"
        if k == count // 10:
            at_tenth = resident_mib()
    return {
        "payloads": count,
        "passed": passed,
        "refused": refused,
        "other_errors": other,
        "first_error": first,
        "grown_mib": round(resident_mib() - at_tenth, 1),
    }


def damaged(payload: bytes, others: list[Frames], chance: random.Random) -> bytes:
    """Return a payload with one to four faults, or noise."""
    if chance.random() < NOISE:
        return chance.randbytes(chance.randrange(64))
    data = bytearray(payload)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        what = chance.randrange(6)
        if what == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            del data[at : at + chance.randint(1, 8)]
        elif what == 2:
            data[at:at] = chance.choice(EDGES)
        elif what == 3:
            data[at:at] = data[at : at + chance.randint(1, 16)]
        elif what == 4:
            other = others[chance.randrange(len(others))][1]
            data[at:] = other[chance.randrange(len(other) + 1) :]
        elif at < len(data):
            data[at] = chance.randrange(256)
    return bytes(data)


def valid(encoding: Encoding) -> Iterator[Frames]:
    """Yield a message of each kind."""
    rows = np.arange(6.0).reshape(3, 2)
    times = np.arange(3, dtype=np.int64)
    yield encode_ticks("a", 1, rows[0], run_id="s", seq=1, encoding=encoding)
    yield encode_ticks("a", times, rows, run_id="s", seq=2, encoding=encoding)
    yield encode_label(Label("a", 10, 1.0, 5), encoding)
    yield encode_prediction(Prediction("a", 10, 5, 0.25, "s"), encoding)
    yield encode_score(Score("a", 10, 5, 0.25, 1, 1.4, 0.5, 0.5, "s"), encoding)
    yield encode_heartbeat(Heartbeat("a", 3, "s", 5, False), encoding)
    for side in (
        Hello(),
        SnapshotRequest(),
        ReplayRequest(stream="a", run_id="s", from_seq=1, to_seq=9),
    ):
        yield b"tick/a/", encode_side(side, encoding)
