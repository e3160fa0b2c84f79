"""The first messages of a feed are recognised, and the flags that are shown read them."""

from __future__ import annotations

import gzip
import json
import pickle
import shlex
import tracemalloc
import zlib
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.feed.decode import compile_decoder
from stream_lstm.feed.sniff import Look, shown, sniff
from stream_lstm.schema import Declaration

from .forms import FORMS

COUNT = 30
GUESS = "integers of this width are a guess"

EXPECTED: dict[str, tuple[str, str]] = {
    "text: symbol and price": ("text of 2 fields", "--payload text --fields symbol,c0"),
    "text: two separators": ("text of 3 fields", "--payload text --fields symbol,c0,c1"),
    "topic and JSON in one frame": ("JSON object", "--payload json --columns bid,ask"),
    "JSON with a book of texts": (
        "JSON object",
        (
            "--payload json --columns data.bids.0.0,data.bids.0.1,data.asks.0.0,data.asks.0.1 "
            "--stream-field data.symbol"
        ),
    ),
    "topic with slashes": ("JSON object", "--payload json --columns bid,ask --topic md/l1/"),
    "msgpack map": ("MessagePack object", "--payload msgpack --columns bid,ask --time-field ts"),
    "pickle": ("pickled Python object", ""),
    "float32 samples": ("8 float32", "--payload array --dtype f4"),
    "array after a JSON header": (
        "float32 array with a JSON header",
        "--payload array --dtype header",
    ),
    "C struct with a time": (
        "struct of 24 bytes that begins with a time",
        "--payload struct --dtype t:i8,c0:f8,c1:f8",
    ),
    "JSON with numbers as text": ("JSON object", "--payload json --columns bid,ask"),
    "JSON list of ticks": ("JSON list of objects", "--payload json --columns bid,ask"),
    "exchange, channel and symbol before JSON": (
        "JSON object",
        "--payload json --columns bid,ask --stream-field symbol --time-field timestamp",
    ),
    "colon before JSON, nested": (
        "JSON object",
        "--payload json --columns index,event.tx_info.amount",
    ),
    "JSON compressed with zlib": (
        "zlib-compressed JSON object",
        (
            "--payload json --columns message.StarPos.0,message.StarPos.1,message.StarPos.2 "
            "--compression zlib"
        ),
    ),
    "tag, two line feeds and msgpack": (
        "MessagePack object",
        "--payload msgpack --columns 1m,5m --frames topic+payload --separator '\\n\\n'",
    ),
    "gaze in msgpack with an array": (
        "MessagePack object",
        "--payload msgpack --columns norm_pos.0,norm_pos.1",
    ),
    "three float32": ("3 float32", "--payload array --dtype f4 --channels 3"),
    "two JSON headers and an array": (
        "float64 array with a JSON header",
        "--payload array --dtype header",
    ),
    "envelope, header and float32 samples": (
        "4 float32",
        (
            "--payload array --dtype f4 --channels 4 --frames topic,header,payload "
            "--stream-field header.stream"
        ),
    ),
    "zip code, temperature and humidity": ("text of 3 fields", "--payload text --fields c0,c1,c2"),
}
DOUBTFUL = {"six frames with a time and a number", "number, space and big-endian struct"}
"""Forms that nothing in the bytes tells apart from others."""


def prices() -> list[tuple[float, float]]:
    """Bid and ask of a random walk."""
    walk = 1.1 + np.cumsum(np.random.default_rng(1).normal(size=COUNT) / 1e3)
    return [(round(m, 5), round(m + 1e-4, 5)) for m in walk.tolist()]


def walk(name: str) -> list[list[bytes]]:
    return [FORMS[name].message(i, bid, ask) for i, (bid, ask) in enumerate(prices())]


def parsed(flags: str) -> Declaration:
    """The declaration of some flags, as a command line reads them."""
    words = shlex.split(flags)
    found: dict[str, Any] = {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        key = flag.removeprefix("--").replace("-", "_")
        lists = key in ("columns", "fields", "frames")
        found[key] = value.split(",") if lists else [value] if key == "separator" else value
        if key == "channels":
            found[key] = int(value)
    return msgspec.convert(found, Declaration)


@pytest.mark.parametrize("name", [name for name in FORMS if name not in DOUBTFUL])
def test_the_flags_for_a_form_read_it(name: str) -> None:
    messages = walk(name)
    look = sniff(messages)
    assert (look.kind, look.flags) == EXPECTED[name]
    if look.declaration is None:
        return
    assert parsed(look.flags) == look.declaration
    run = compile_decoder(look.declaration)
    for i, (frames, quote) in enumerate(zip(messages, prices(), strict=True)):
        got = run(frames).values
        values = FORMS[name].sent(i, *quote)[1]
        assert np.isin(np.array(values, np.float32), got.astype(np.float32)).all()


@pytest.mark.parametrize("name", sorted(DOUBTFUL))
def test_what_cannot_be_told_apart_is_doubtful(name: str) -> None:
    assert sniff(walk(name)).doubtful == GUESS


RNG = np.random.default_rng(2)
NOISE = RNG.normal(size=(COUNT, 8))
WALK = 100 + np.cumsum(NOISE, axis=1)


@pytest.mark.parametrize(
    ("values", "dtype", "doubtful"),
    [
        (NOISE, "f4", False),
        (NOISE, "f8", False),
        (NOISE, ">f4", False),
        (NOISE, ">f8", False),
        (WALK, "f8", False),
        (np.round(WALK * 4) / 4, "f8", False),
        (np.round(WALK * 4) / 4, ">f8", False),
        (np.full((COUNT, 8), 1.1), "f4", True),
        (np.full((COUNT, 8), 1.1), "f8", False),
        (NOISE[:, :7], "f4", False),
        (100 * NOISE, "i2", True),
        (1e5 * NOISE, "i4", True),
        (100 * NOISE, "i4", True),
        (100 * NOISE, "i8", True),
    ],
)
def test_the_spread_of_exponents_tells_floats_apart(
    values: Any, dtype: str, doubtful: bool
) -> None:
    look = sniff([[row.astype(dtype).tobytes()] for row in values])
    assert look.declaration is not None
    assert look.declaration.dtype == dtype
    assert bool(look.doubtful) == doubtful


PACK = {"gzip": gzip.compress, "zlib": zlib.compress,
        "zstd": lambda payload: pa.Codec("zstd").compress(payload, asbytes=True)}  # fmt: skip


@pytest.mark.parametrize("kind", PACK)
def test_compressed_bytes_are_looked_into(kind: str) -> None:
    pack = PACK[kind]
    look = sniff([[b"T", pack(b'{"x":%d}' % i)] for i in range(5)])
    assert (look.kind, look.flags) == (
        f"{kind}-compressed JSON object",
        f"--payload json --columns x --compression {kind}",
    )
    look = sniff([[pack(pickle.dumps({"x": 1}))]])
    assert look == Look(f"{kind}-compressed pickled Python object")
    assert sniff([[pack(bytes(64 << 20))]]).kind != "nothing"


def test_the_most_common_kind_of_messages_is_picked() -> None:
    trade = {"type": "trade", "symbol": "A", "p": 1.5, "ts": 1_700_000_000_000}
    messages = [[json.dumps(trade | {"p": i}).encode()] for i in range(20)]
    messages[3:3] = [[json.dumps({"type": "status", "text": "x"}).encode()]] * 5
    look = sniff(messages)
    assert look.flags == (
        "--payload json --columns p --stream-field symbol --time-field ts "
        "--where 'type = \"trade\"'"
    )
    assert look.declaration is not None
    got = [compile_decoder(look.declaration)(frames) for frames in messages]
    assert sum(len(one.values) for one in got) == 20
    assert sum(one.skipped.get("where", 0) for one in got) == 5


def test_a_list_of_objects_inside_an_object_has_a_star() -> None:
    payload = b'{"topic":"t","data":[{"s":"A","p":"1.5"},{"s":"B","p":"2.5"}]}'
    assert sniff([[payload]]).flags == "--payload json --columns 'data.*.p'"


def test_names_of_positions_follow_from_their_values() -> None:
    rows = [f"tick|{name}|170000000{i}|{i / 4}|" for i, name in enumerate("ABCAB")]
    assert sniff([[row.encode()] for row in rows]).flags == (
        "--payload text --fields _,symbol,time,c0,c1"
    )
    arrays = [msgspec.msgpack.encode([f"S{i}", i / 4, i]) for i in range(4)]
    assert sniff([[payload] for payload in arrays]).flags == (
        "--payload msgpack --fields symbol,c0,c1"
    )


@pytest.mark.parametrize("messages", [[], [[]], [[b""]], [[b"", b""]], [[b"hello"]]])
def test_what_has_no_numbers_has_no_flags(messages: list[list[bytes]]) -> None:
    assert sniff(messages).flags == ""


@given(st.lists(st.lists(st.binary(max_size=24), max_size=4), max_size=4))
def test_any_messages_are_judged(messages: list[list[bytes]]) -> None:
    check(sniff(messages), messages)


@given(st.sampled_from(sorted(FORMS)), st.data())
def test_damaged_messages_are_judged(name: str, data: Any) -> None:
    messages = [FORMS[name].message(i, 1.5, 2.5) for i in range(3)]
    frame = bytearray(messages[0][-1])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame)))
        frame[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    messages = [[*messages[0][:-1], bytes(frame)], *messages[: data.draw(st.integers(0, 3))]]
    check(sniff(messages), messages)


def check(look: Look, messages: list[list[bytes]]) -> None:
    if look.declaration is None:
        assert look.flags == ""
        return
    assert parsed(look.flags) == look.declaration
    compile_decoder(look.declaration)
    assert shown(messages[0]).isascii()


@pytest.mark.slow
def test_a_look_takes_bounded_memory() -> None:
    hostile = [b"\xdd\x00\x10\x00\x00" + b"\x80" * 2**20, zlib.compress(bytes(64 << 20)),
               b"[" * 10_000, b'{"x":' * 10_000, b"[" + b"[]," * 100_000 + b"[]]"]  # fmt: skip
    for payload in hostile:
        tracemalloc.start()
        sniff([[payload]] * 100)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 << 20


def test_a_message_is_shown_in_one_escaped_line() -> None:
    assert shown([b"T\n", b"\x1b[2J\xff" + b"x" * 100]) == (
        r"'T\n' | '\x1b[2J\xff" + "x" * 75 + "' (105 bytes)"
    )
    assert shown([]) == " (0 bytes)"
