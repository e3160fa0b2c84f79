"""Messages of any publisher become rows, or are refused: by round trips, and by real forms."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.errors import ConfigurationError, DecodeError
from stream_lstm.feed.decode import (
    Decoded,
    LastPer,
    compile_decoder,
    resolve,
    time_ns,
)
from stream_lstm.feed.payloads import PICKLED
from stream_lstm.feed.tree import TreeReader, compile_where
from stream_lstm.schema import Declaration

from .forms import FORMS

T = 1_700_000_000_000_000_000
MEMORY = 64 << 20
"""What decoding one message may take, its own bytes aside."""


def decode(declaration: Declaration, *frames: bytes) -> Decoded:
    return compile_decoder(declaration)(frames)


def declare(payload: Any, *columns: str, **more: Any) -> Declaration:
    return Declaration(payload, columns=columns, **more)


# ---- round trips -----------------------------------------------------------------------------

PACK: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "zstd": lambda payload: pa.Codec("zstd").compress(payload, asbytes=True),
}
NAMES = st.sampled_from(["EURUSD", "a b", "ES=F", "é", "x.y"])


@st.composite
def feeds(draw: Any) -> tuple[Declaration, list[bytes], Decoded]:
    """Draw a declaration, a message of it, and the rows that were sent."""
    form = draw(st.sampled_from(["json", "msgpack", "text", "array", "struct"]))
    width, n = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    dtype = draw(st.sampled_from(["f4", "f8", "i2", "i4", "u1", ">f8", ">i2", "<u4"]))
    if form == "array":
        raw = draw(
            st.binary(min_size=n * width * int(dtype[-1]), max_size=n * width * int(dtype[-1]))
        )
        sent = np.frombuffer(raw, dtype).reshape(n, width)
    else:
        finite = st.floats(allow_nan=False, allow_infinity=False)
        sent = np.array(draw(st.lists(finite, min_size=n * width, max_size=n * width)))
        sent = sent.reshape(n, width)
    times = draw(st.lists(st.integers(10**17, 2**62), min_size=n, max_size=n))
    seqs = draw(st.lists(st.integers(0, 2**61), min_size=n, max_size=n))
    names = draw(st.lists(NAMES, min_size=n, max_size=n))
    columns = tuple(f"c{k}" for k in range(width))
    rows = [
        {"ts": t, "seq": s, "symbol": name} | dict(zip(columns, row.tolist(), strict=True))
        for t, s, name, row in zip(times, seqs, names, sent, strict=True)
    ]
    more: dict[str, Any] = {"compression": draw(st.sampled_from(list(PACK)))}
    roles = {"stream_field": "symbol", "time_field": "ts", "seq_field": "seq"}
    positions = (*roles.values(), *columns) if draw(st.booleans()) else ()
    if form == "array":
        payload, more["dtype"] = raw, dtype
        return _framed(draw, form, payload, columns, more, sent.astype(np.float64), None)
    positions = ("symbol", "ts", "seq", *columns) if form == "text" or positions else ()
    if form == "text":
        mark = draw(st.sampled_from([",", ";", "|", "\t", "::"]))
        payload = "\n".join(mark.join(str(row[p]) for p in positions) for row in rows).encode()
        more |= {"fields": positions, "separator": draw(st.sampled_from([(mark,), (mark, "&&")]))}
    elif form == "struct":
        kind = [("symbol", "S8"), ("ts", "<i8"), ("_", "V3"), ("seq", "<u8")]
        kind += [(column, draw(st.sampled_from(["<f8", ">f8"]))) for column in columns]
        table = np.zeros(n, kind)
        for k, row in enumerate(rows):
            for name, value in row.items():
                table[name][k] = value.encode() if name == "symbol" else value
        payload = table.tobytes()
        more["dtype"] = ",".join(f"{name}:{code}" for name, code in kind)
    else:
        module: Any = getattr(msgspec, form)
        shape = draw(st.sampled_from(["deep", "flat"]))
        items: list[Any] = [[row[p] for p in positions] for row in rows] if positions else rows
        if positions:
            more["fields"] = positions
        elif shape == "deep":
            items = [{"junk": [1, {"a": 2}], "data": [[row]]} for row in rows]
            columns = tuple(f"data.0.0.{c}" for c in columns)
            roles = {role: f"data.0.0.{name}" for role, name in roles.items()}
        more |= roles
        payload = module.encode(items[0] if n == 1 and draw(st.booleans()) else items)
    expected = Decoded(tuple(names), np.array(times), sent, np.array(seqs))
    return _framed(draw, form, payload, columns, more, sent, expected)


def _framed(
    draw: Any,
    form: Any,
    payload: bytes,
    columns: tuple[str, ...],
    more: dict[str, Any],
    sent: Any,
    expected: Decoded | None,
) -> tuple[Declaration, list[bytes], Decoded]:
    topic, number = draw(NAMES), draw(st.integers(0, 2**32 - 1))
    payload = PACK[more["compression"]](payload)
    layout = draw(st.sampled_from(["one", "two", "seq", "joined", "rest"]))
    count = number.to_bytes(4, "little")
    frames, names = {
        "one": ([payload], ()),
        "two": ([f"md/{topic}/x".encode(), payload], ()),
        "seq": (
            [f"md/{topic}/x".encode(), b"?", payload, count],
            ("topic", "skip", "payload", "seq"),
        ),
        "joined": ([f"md/{topic}/x@@".encode() + payload], ("topic+payload",)),
        "rest": ([payload, *[b"?"] * (number % 3)], ("payload", "rest")),
    }[layout]
    more |= {"topic": "md/{}/x", "frames": names}
    if layout == "joined":
        if form == "text":
            more["frames"], frames = (), [payload]
        else:
            more["separator"] = ("@@",)
    if layout == "seq":
        more["seq_field"] = ""
    d = Declaration(form, columns=columns, **more)
    if expected is None:
        named = (len(frames) > 1 and layout != "rest") or layout == "joined"
        expected = Decoded(topic if named else "stream", None, sent)
    if layout == "seq":
        expected = expected._replace(seq=number)
    return d, frames, expected


@given(feeds())
def test_what_was_sent_is_decoded(feed: tuple[Declaration, list[bytes], Decoded]) -> None:
    d, frames, sent = feed
    got = compile_decoder(d)(frames)
    assert got.values.tobytes() == np.ascontiguousarray(sent.values, np.float64).tobytes()
    names = got.streams if isinstance(got.streams, tuple) else (got.streams,) * len(sent.values)
    assert names == (
        (sent.streams,) * len(sent.values) if isinstance(sent.streams, str) else sent.streams
    )
    assert (got.t_ns is None) == (sent.t_ns is None)
    assert got.t_ns is None or got.t_ns.tolist() == sent.t_ns.tolist()
    assert np.array_equal(got.seq, sent.seq)  # type: ignore[arg-type]
    assert not got.skipped


@given(feeds(), st.data())
def test_damaged_bytes_are_refused_or_give_other_rows(
    feed: tuple[Declaration, list[bytes], Decoded], data: Any
) -> None:
    d, frames, _ = feed
    place = data.draw(st.integers(0, len(frames) - 1))
    frame = bytearray(frames[place])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame)))
        cut = data.draw(st.integers(0, 3))
        frame[at : at + cut] = data.draw(st.binary(max_size=4))
    frames = [*frames[:place], bytes(frame), *frames[place + 1 :]]
    if data.draw(st.booleans()):
        frames = frames[: data.draw(st.integers(0, len(frames)))]
    check(d, frames)


def check(d: Declaration, frames: Sequence[bytes]) -> Decoded | None:
    """Decode within the bound of memory; return None for a refusal."""
    run = compile_decoder(d)
    tracemalloc.start()
    try:
        got = run(frames)
    except DecodeError:
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY
    n = len(got.values)
    assert got.values.dtype == np.float64
    assert got.values.shape[1] == len(resolve(d).columns)
    assert isinstance(got.streams, str) or len(got.streams) == n
    assert got.t_ns is None or (got.t_ns.dtype == np.int64 and len(got.t_ns) == n)
    assert n or got.skipped
    return got


# ---- forms of public publishers ----------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_publishers_send_is_read_as_it_was_sent(name: str) -> None:
    form = FORMS[name]
    if form.declaration is None:
        with pytest.raises(DecodeError, match=PICKLED):
            decode(declare("json", "x"), *form.message(1, 1.25, 1.5))
        return
    run = compile_decoder(form.declaration)
    for i in range(3):
        got = run(form.message(i, 1.25 + i, 1.5 + i))
        stream, rows, t_ns, seq = form.sent(i, 1.25 + i, 1.5 + i)
        assert got.streams == stream
        assert got.values.tolist() == rows
        assert (None if got.t_ns is None else set(got.t_ns.tolist())) == (t_ns and {t_ns})
        assert got.seq == seq


def test_usual_messages_are_read_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(TreeReader, "_slow", slow)
    for form in FORMS.values():
        if form.declaration is not None:
            assert len(compile_decoder(form.declaration)(form.message(1, 1.5, 2.5)).values)


# ---- values ------------------------------------------------------------------------------------


def test_paths_lead_into_objects_and_arrays() -> None:
    d = declare("json", "data.bids.0.0", "data.asks.1.0", stream_field="data.symbol")
    payload = b'{"data":{"symbol":"EUR/USD","bids":[["1.5",2]],"asks":[[9],["2.5"]],"x":[]}}'
    got = decode(d, payload)
    assert (got.streams, got.values.tolist()) == ("EUR-USD", [[1.5, 2.5]])


def test_a_star_gives_a_row_for_each_element() -> None:
    d = declare("json", "data.*.p", "top", time_field="ts", stream_field="data.*.s")
    got = decode(d, b'{"ts":1700000000,"top":7,"data":[{"p":1,"s":"a"},{"p":2,"s":"b"}]}')
    assert got.streams == ("a", "b")
    assert got.values.tolist() == [[1, 7], [2, 7]]
    assert got.t_ns is not None
    assert got.t_ns.tolist() == [T, T]
    assert decode(d, b'{"ts":1700000000,"top":7,"data":[]}').skipped == {"empty": 1}


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_a_name_with_a_dot_and_a_key_that_is_a_number_are_found(form: str) -> None:
    encode = getattr(msgspec, form).encode
    d = declare(form, "a.b", "c.0", "d.e.f")
    got = decode(d, encode({"a.b": 1.5, "c": {"0": 2.5}, "d": {"e.f": 3.5}}))
    assert got.values.tolist() == [[1.5, 2.5, 3.5]]


@pytest.mark.parametrize("value", [None, "", " "])
def test_null_and_an_empty_text_are_missing(value: object) -> None:
    got = decode(declare("json", "x", "y"), json.dumps({"x": value, "y": "2.5"}).encode())
    assert np.isnan(got.values[0, 0])
    assert got.values[0, 1] == 2.5


@pytest.mark.parametrize(
    "payload",
    [
        b'{"x":true}',
        b'{"x":"1_0"}',
        b'{"x":"abc"}',
        b'{"x":[1]}',
        b'{"x":1e400}',
        b'{"x":NaN}',
        b'{"y":1}',
        b'{"x":1,"x":2}',
        b'{"x":1,"\\u0078":2}',
        b'{"x":1}x',
        b'[{"x":1},{"x":1,"x":2}]',
        b'[{"x":1},{"y":1}]',
        b"[1]",
        b"7",
        b"",
        b"\xff",
        b'{"x":"' + b"9" * 100 + b'"}',
    ],
)
def test_what_is_not_a_number_or_given_twice_is_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(declare("json", "x"), payload)


@pytest.mark.parametrize("key", ["x", "y" * 40, "z" * 300])
def test_a_key_that_is_given_twice_is_seen_in_every_length_of_msgpack(key: str) -> None:
    text = key.encode()
    heads = [b"\xdb" + len(text).to_bytes(4, "big"), b"\xda" + len(text).to_bytes(2, "big")]
    if len(text) < 256:
        heads.append(b"\xd9" + bytes([len(text)]))
    if len(text) < 32:
        heads.append(bytes([0xA0 | len(text)]))
    for one in heads:
        assert decode(declare("msgpack", key), b"\x81" + one + text + b"\x01").values.tolist() == [
            [1]
        ]
        for other in heads:
            with pytest.raises(DecodeError, match="twice"):
                decode(
                    declare("msgpack", key),
                    b"\x82" + one + text + b"\x01" + other + text + b"\x02",
                )


def test_a_value_that_is_also_the_name_of_a_key_is_no_repetition() -> None:
    payload = b'{"type":"x","x":1.5,"note":"a \\"x\\" b"}'
    assert decode(declare("json", "x"), payload).values.tolist() == [[1.5]]


def test_a_missing_field_is_named_with_those_that_are_there() -> None:
    with pytest.raises(DecodeError, match=r"topic b'EUR': no field 'ask'; it has bid, at"):
        decode(declare("json", "bid", "ask"), b"EUR", b'{"bid":1,"at":2}')


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ("EURUSD 1.5 2", [[1.5, 2]]),
        ("EURUSD,1.5,2\nEURUSD,2.5,3\r\n\0", [[1.5, 2], [2.5, 3]]),
        ("EURUSD:|:1.5;2", [[1.5, 2]]),
        ("EURUSD|1.5|2", [[1.5, 2]]),
        ("EURUSD:1.5:2", [[1.5, 2]]),
        ("EURUSD=1.5,2", [[1.5, 2]]),
    ],
)
def test_the_separators_of_a_text_are_found(line: str, rows: list[list[float]]) -> None:
    got = decode(Declaration("text", fields=("symbol", "bid", "ask")), line.encode())
    assert (got.streams, got.values.tolist()) == ("EURUSD", rows)


def test_colons_in_a_time_separate_nothing() -> None:
    d = Declaration("text", fields=("symbol", "time", "x"))
    got = decode(d, b"A:|:2023-11-14T22:13:20Z;1.5")
    assert got.t_ns is not None
    assert (got.t_ns.tolist(), got.values.tolist()) == ([T], [[1.5]])


def test_a_header_declares_an_array_and_holds_roles() -> None:
    d = declare(
        "array", "x", "y", dtype="header", time_field="header.t", where="header.kind = 'a'"
    )
    header = {"dtype": "<i2", "shape": [2, 2], "t": 1_700_000_000, "kind": "a"}
    payload = np.array([[1, 2], [3, 4]], "<i2").tobytes()
    got = decode(d, json.dumps(header).encode(), payload)
    assert got.t_ns is not None
    assert (got.values.tolist(), got.t_ns.tolist()) == ([[1, 2], [3, 4]], [T, T])
    skipped = decode(d, b"topic", json.dumps(header | {"kind": "b"}).encode(), payload)
    assert (skipped.values.shape, skipped.skipped) == ((0, 2), {"where": 2})
    for wrong in ({"shape": [4, 1]}, {"shape": [3]}, {"dtype": "O"}, {"dtype": "U8"}, {"t": None},
                  {"shape": [2**40, 2**40]}, {"shape": []}, {"order": "F"}):  # fmt: skip
        with pytest.raises(DecodeError):
            decode(d, json.dumps(header | wrong).encode(), payload)


# ---- streams, conditions, repetitions ----------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "settings", "stream"),
    [
        (b"md/AAPL/", {"topic": "md/"}, "AAPL"),
        (b"md/EUR/USD", {"topic": "md/"}, "EUR-USD"),
        (b"q.ES.trade", {"topic": "q.{}.trade"}, "ES"),
        (b"q.ES.quote", {"topic": "q.{}.trade"}, None),
        (b"md/", {"topic": "md/"}, "stream"),
        (b"md/", {"topic": "md/", "streams": ("A",)}, "A"),
        (b"anything", {"stream_name": "fixed"}, "fixed"),
        (b"B", {"streams": ("A", "C")}, None),
    ],
)
def test_a_topic_names_the_stream(topic: bytes, settings: Any, stream: str | None) -> None:
    got = decode(declare("json", "x", **settings), topic, b'{"x":1}')
    assert (got.streams if len(got.values) else None) == stream
    assert bool(got.skipped) == (stream is None)


@pytest.mark.parametrize("topic", [b"other/A", b"\xff", b"md/" + b"x" * 300, b"md/a\nb"])
def test_a_topic_that_names_nothing_is_refused(topic: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(declare("json", "x", topic="md/"), topic, b'{"x":1}')
    assert caught.value.cause == "topic"


def test_messages_that_do_not_meet_the_condition_are_counted() -> None:
    d = declare("json", "p", where='type = "trade" and p >= 2')
    for payload, kept in (
        (b'{"type":"trade","p":2}', 1),
        (b'{"type":"trade","p":"1"}', 0),
        (b'{"type":"status"}', 0),
        (b'{"type":["trade"],"p":3}', 0),
        (b'{"p":3}', 0),
    ):
        got = decode(d, payload)
        assert len(got.values) == kept
        assert dict(got.skipped) == ({} if kept else {"where": 1})
    got = decode(d, b'[{"type":"trade","p":2},{"type":"x"},{"type":"trade","p":5}]')
    assert (got.values.tolist(), dict(got.skipped)) == ([[2], [5]], {"where": 1})
    with pytest.raises(DecodeError, match="no field 'p'"):
        decode(declare("json", "p", where='type = "trade"'), b'{"type":"trade"}')


@pytest.mark.parametrize(
    ("condition", "values", "met"),
    [
        ("a = 1", [1], True),
        ("a = 1", ["1.0"], True),
        ("a = 1", [True], False),
        ("a != 1", [msgspec.UNSET], True),
        ("a = null", [None], True),
        ("a != null", [None], False),
        ("a = 'it' or b < 2", ["x", 1], True),
        ("not (a = 'it' or b < 2)", ["x", 1], False),
        ('a = "say \\"x\\""', ['say "x"'], True),
        ("a < 'b'", ["a"], True),
        ("a < 2", ["x"], False),
        ("a <> true", [True], False),
        ("\"odd name\" >= -1e3 AND NOT b = ''", [0, "x"], True),
    ],
)
def test_a_condition(condition: str, values: list[Any], met: bool) -> None:
    assert compile_where(condition).test(values) is met


@pytest.mark.parametrize(
    ("condition", "position"),
    [("", 1), ("a", 2), ("a =", 4), ("a = b", 5), ("(a = 1", 7), ("a = 1 b", 7), ("a ~ 1", 3),
     ("a = 'x", 5), ("a = nan", 5), ("= 1", 1), ("(" * 40, 33), ("not " * 40 + "a = 1", 129)],
)  # fmt: skip
def test_a_condition_that_cannot_be_parsed_shows_where(condition: str, position: int) -> None:
    with pytest.raises(
        ConfigurationError, match=f"character {position}$|character {position}\n"
    ) as e:
        compile_where(condition)
    assert e.value.key == "where"
    assert e.value.lines[-1].index("^") == position + 1


@given(st.text(alphabet="ab01 =<>!()'\"\\andornot.-", max_size=40))
def test_any_condition_compiles_or_is_refused(text: str) -> None:
    try:
        where = compile_where(text)
    except ConfigurationError:
        return
    assert where.test([msgspec.UNSET] * len(where.paths)) in (True, False)


def test_only_the_last_row_of_a_candle_counts() -> None:
    d = declare("json", "close", time_field="bar", last_per="bar", stream_field="s")
    run, last = compile_decoder(d), LastPer(2)
    given_: list[Any] = []
    for bar, close, s in (
        (1, 10, "A"),
        (1, 11, "A"),
        (1, 5, "B"),
        (2, 12, "A"),
        (3, 13, "A"),
        (2, 6, "B"),
    ):
        payload = json.dumps({"bar": 1_700_000_000 + bar, "close": close, "s": s}).encode()
        got = last.thin(run([payload]))
        assert got.t_ns is not None
        for name, t_ns, row in zip(got.streams, got.t_ns, got.values, strict=True):
            given_.append((name, (int(t_ns) - T) // 10**9, row.tolist()))
        assert got.skipped.get("last_per", 0) == 1 - len(got.values)
    assert given_ == [("A", 1, [11]), ("A", 2, [12]), ("B", 1, [5])]
    with pytest.raises(DecodeError, match="more than 2 streams"):
        last.thin(run([b'{"bar":1700000001,"close":1,"s":"C"}']))


# ---- times -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "unit", "expected"),
    [
        (1_700_000_000, "auto", T),
        (1_700_000_000_000, "auto", T),
        (1_700_000_000_000_000, "auto", T),
        (T, "auto", T),
        (1_700_000_000.5, "auto", T + 500_000_000),
        ("1700000000.000000001", "auto", T + 1),
        ("2023-11-14T22:13:20Z", "auto", T),
        (5, "s", 5_000_000_000),
        (5, "ns", 5),
        (-5, "ms", -5_000_000),
    ],
)
def test_a_time_in_every_unit(time: Any, unit: Any, expected: int) -> None:
    assert time_ns(time, unit) == expected


@given(
    st.floats()
    | st.integers()
    | st.text()
    | st.sampled_from(["9999-12-31", "1e99", True, "9" * 65])
)
def test_any_time_is_an_int64_or_refused(time: Any) -> None:
    with suppress(ValueError):
        assert -(2**63) <= time_ns(time) < 2**63


# ---- hostile payloads --------------------------------------------------------------------------

JSON, PACKED, BYTES = (
    declare("json", "x"),
    declare("msgpack", "x"),
    declare("array", "x", dtype="u1"),
)
ROWS, LINES = Declaration("json", fields=("x", "y")), Declaration("text", fields=("x", "y"))
STRUCT = Declaration("struct", dtype="t:f8,x:f8")


def bomb(kind: str) -> tuple[Declaration, Callable[[], bytes]]:
    d = declare("array", "x", compression=kind)
    return d, lambda: PACK[kind](bytes(64 << 20))


def listed(item: bytes, count: int) -> Callable[[], bytes]:
    return lambda: b"[" + b",".join([item] * count) + b"]"


HOSTILE: dict[str, tuple[Declaration, Callable[[], bytes]]] = {
    "deep JSON": (JSON, lambda: b'{"x":' * 10_000 + b"1" + b"}" * 10_000),
    "deep JSON beside": (JSON, lambda: b'{"x":1,"y":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    "deep msgpack": (PACKED, lambda: b"\x81\xa1x" + b"\x91" * 10_000 + b"\xc0"),
    "claimed list": (PACKED, lambda: b"\xdd\xff\xff\xff\xff\x80"),
    "claimed bytes": (PACKED, lambda: b"\x81\xa1x\xc6\xff\xff\xff\xff"),
    "empty maps": (PACKED, lambda: b"\xdd\x00\x10\x00\x00" + b"\x80" * 2**20),
    "empty objects": (JSON, listed(b"{}", 600_000)),
    "many keys": (JSON, lambda: b"{" + b",".join(b'"%x":1' % k for k in range(180_000)) + b"}"),
    "many rows": (JSON, listed(b'{"x":1}', 200_000)),
    "many numbers": (ROWS, listed(b"1", 10**6)),
    "rows of numbers": (ROWS, listed(b"[1,1]", 340_000)),
    "twice among many": (JSON, lambda: b"{" + b'"x":1,' * 300_000 + b'"x":1}'),
    "long number": (JSON, lambda: b'{"x":' + b"9" * 10**6 + b"}"),
    "long text number": (JSON, lambda: b'{"x":"' + b"9" * 10**6 + b'"}'),
    "blank": (JSON, lambda: b" " * 2**21),
    "blank topic": (declare("json", "x", frames=("topic+payload",)), lambda: b" " * 2**21 + b"{}"),
    "100 MB of text": (LINES, lambda: b"1" * 10**8),
    "lines": (LINES, lambda: b"1 1\n" * 2**19),
    "separators": (LINES, lambda: b";" * 2**21),
    "colons": (LINES, lambda: b":" * 2**21),
    "zlib bomb": bomb("zlib"),
    "gzip bomb": bomb("gzip"),
    "zstd bomb": bomb("zstd"),
    "two zstd bombs": (bomb("zstd")[0], lambda: bomb("zstd")[1]() * 2),
    "two gzip members": (bomb("gzip")[0], lambda: gzip.compress(bytes(8)) * 2),
    "cut zstd": (bomb("zstd")[0], lambda: PACK["zstd"](bytes(99))[:-4]),
    "cut zlib": (bomb("zlib")[0], lambda: PACK["zlib"](bytes(99))[:-4]),
    "not gzip": (bomb("gzip")[0], lambda: bytes(8)),
    "bytes as rows": (BYTES, lambda: bytes(2**23)),
    "bytes as columns": (Declaration("array", dtype="u1", channels=4096), lambda: bytes(2**23)),
    "large array": (declare("array", "x", dtype="f8"), lambda: bytes(2**23 + 8)),
    "a part of a row": (declare("array", "x", "y", dtype="f8"), lambda: bytes(24)),
    "a part of a struct": (STRUCT, lambda: bytes(17)),
    "time of a struct": (STRUCT, lambda: struct.pack("<dd", 1e300, 1)),
    "pickle": (JSON, lambda: pickle.dumps({"x": 1})),
    "pickle as an array": (BYTES, lambda: pickle.dumps({"x": 1})),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_payload_is_refused_within_bounds(name: str) -> None:
    d, make = HOSTILE[name]
    assert check(d, [make()]) is None


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("form", ["json", "msgpack", "text", "array"])
def test_pickles_are_refused_by_their_magic_bytes(form: Any, protocol: int) -> None:
    # one that is not framed is taken for numbers where its length fits
    more = {"text": {"fields": ("x", "y")}, "array": {"dtype": "u1" if protocol > 3 else "f8"}}
    d = declare(form, "x", **more.get(form, {}))
    for value in ({"x": 1.5, "y": [1, 2]}, [1.5, 2.5, "a" * 5], np.ones(3)):
        payload = pickle.dumps(value, protocol)
        with pytest.raises(DecodeError, match=PICKLED):
            decode(d, b"topic", payload if len(payload) % 8 else payload[:-1] + b"0.")


@pytest.mark.slow
def test_a_block_of_msgpack_that_claims_to_be_large_is_not_allocated() -> None:
    payload = b"\xdd" + struct.pack(">I", 65_537) + b"\x81\xa1x\x01" * 65_537
    assert check(declare("msgpack", "x"), [payload]) is None
    payload = b"\xdd" + struct.pack(">I", 65_536) + b"\x81\xa1x\x01" * 65_536
    got = check(declare("msgpack", "x"), [payload])
    assert got is not None
    assert got.values.sum() == 65_536


# ---- declarations ------------------------------------------------------------------------------


def test_columns_and_roles_follow_from_the_names() -> None:
    d = resolve(Declaration("struct", dtype="seq:u4,_:V4,t:i8,sym:S8,bid:f8,ask:>f4"))
    assert d.columns == ("bid", "ask")
    assert (d.seq_field, d.time_field, d.stream_field) == ("seq", "t", "sym")
    assert resolve(Declaration("text", fields=("t", "x"), columns=("t", "x"))).time_field is None
    assert resolve(Declaration("array", channels=2)).columns == ("c0", "c1")


@pytest.mark.parametrize(
    ("declaration", "key"),
    [
        (Declaration("json"), "columns"),
        (declare("json", "x", "x"), "columns"),
        (declare("json", "a", "a.b"), "columns"),
        (declare("json", "a..b"), "columns"),
        (declare("json", "a.*.b", "c.*.d"), "columns"),
        (declare("json", "a.99999"), "columns"),
        (declare("json", "x", time_field="x"), "time_field"),
        (declare("json", "x", where="y"), "where"),
        (declare("json", "x", topic="{}/{}"), "topic"),
        (declare("json", "x", frames=("topic",)), "frames"),
        (declare("json", "x", frames=("rest", "payload")), "frames"),
        (declare("msgpack", "x", frames=("topic+payload",)), "separator"),
        (declare("text", "x"), "fields"),
        (declare("text", "x", fields=("y",)), "columns"),
        (declare("array", "x", dtype="O"), "dtype"),
        (declare("array", "x", channels=2), "channels"),
        (declare("array", "x", time_field="t"), "fields"),
        (declare("struct", "x", dtype="x:O"), "dtype"),
        (declare("struct", "x", dtype="x:f8,x:f8"), "dtype"),
        (declare("struct", "x", dtype="x:S4"), "columns"),
        (Declaration("struct"), "dtype"),
    ],
)
def test_a_declaration_that_cannot_be_names_its_key(declaration: Declaration, key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compile_decoder(declaration)
    assert caught.value.key == key


@pytest.mark.parametrize("count", [0, 3, 5])
def test_other_numbers_of_frames_are_refused(count: int) -> None:
    for d in (JSON, declare("array", "x", dtype="header", frames=("header", "payload")),
              declare("json", "x", frames=("topic", "header", "seq", "payload"))):  # fmt: skip
        with pytest.raises(DecodeError) as caught:
            decode(d, *[b"{}"] * count)
        assert caught.value.cause == "frames"
