"""Every record survives both encodings, and bytes raise nothing but DecodeError."""

import contextlib
import json
import tracemalloc
from importlib.resources import files

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stream_lstm.errors import ConfigurationError, DecodeError, UsageError
from stream_lstm.events import MAX_SEQ, Expert, Label, Prediction, Score
from stream_lstm.feed import protocol, wire
from stream_lstm.feed.protocol import make_topic, parse_topic

COLUMNS = ("bid", "ask")
DECODER = wire.TickDecoder(COLUMNS)

int64s = st.integers(-(2**63), 2**63 - 1)
seqs = st.integers(1, MAX_SEQ)
names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1).filter(
    lambda name: "/" not in name and len(name.encode()) <= protocol.MAX_NAME_BYTES
)
sessions = st.text("0123456789abcdef", max_size=16)
encodings = st.sampled_from(["msgpack", "json"])
finite = st.floats(allow_nan=False, allow_infinity=False)
probabilities = st.floats(0, 1)

labels = st.builds(Label, names, seqs, st.integers(0, 1), int64s)
experts = st.lists(st.builds(Expert, names, probabilities, probabilities), max_size=3).map(tuple)
predictions = st.builds(
    Prediction, names, seqs, int64s, probabilities, sessions, st.booleans(), st.booleans(), experts
)
scores = st.builds(
    Score,
    names,
    seqs,
    int64s,
    probabilities,
    st.integers(0, 1),
    finite,
    probabilities,
    probabilities,
    sessions,
)
heartbeats = st.builds(
    protocol.Heartbeat,
    names,
    seqs,
    sessions,
    int64s,
    st.booleans(),
    st.booleans(),
    status=st.sampled_from(["", "live", "late", "ended"]),
)
blocks = st.integers(1, 8).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.int64, n, elements=int64s),
        hnp.arrays(np.float64, (n, len(COLUMNS)), elements=finite),
    )
)
sides = st.one_of(
    st.builds(protocol.Hello),
    st.builds(protocol.SnapshotRequest),
    st.builds(
        protocol.ReplayRequest,
        stream=names,
        run_id=sessions,
        from_seq=st.integers(1, 5),
        to_seq=st.integers(5, 9),
    ),
)
replies = st.one_of(
    st.builds(protocol.Welcome, run_id=sessions, columns=st.tuples(names, names)),
    st.builds(
        protocol.SnapshotReply,
        run_id=sessions,
        streams=st.dictionaries(names, st.tuples(seqs, seqs), max_size=3),
    ),
    st.just(
        protocol.Block(stream="a", run_id="s", seq=7, rows=2, t_ns=bytes(16), values=bytes(32))
    ),
    st.builds(protocol.Gone, stream=names, run_id=sessions, oldest_seq=seqs),
    st.builds(protocol.Busy, retry_ms=st.integers(0, 1000)),
)


def pack(**fields):
    return msgspec.msgpack.encode({"v": 1, **fields})


def ticks(payload, topic=b"tick/X/"):
    return DECODER.decode(topic, payload)


@given(names, blocks, sessions, st.none() | seqs, encodings)
def test_ticks_survive(name, block, session, seq, encoding):
    t_ns, values = block
    frames = protocol.encode_ticks(name, t_ns, values, run_id=session, seq=seq, encoding=encoding)
    got = DECODER.decode(*frames)
    assert (got.stream, got.session, got.seq) == (name, session, seq)
    assert got.values.dtype == np.float64
    assert got.t_ns.dtype == np.int64
    np.testing.assert_array_equal(got.t_ns, t_ns)
    assert got.values.tobytes() == values.tobytes()


ENCODE = {
    Label: protocol.encode_label,
    Prediction: protocol.encode_prediction,
    Score: protocol.encode_score,
    protocol.Heartbeat: protocol.encode_heartbeat,
}


@given(labels | predictions | scores | heartbeats, encodings)
def test_other_records_survive(record, encoding):
    frames = ENCODE[type(record)](record, encoding)
    assert wire.decode_message(*frames, COLUMNS) == record


@given(sides, replies, encodings)
def test_requests_and_replies_survive(request_, reply, encoding):
    assert wire.decode_request(protocol.encode_side(request_, encoding)) == request_
    assert wire.decode_reply(protocol.encode_side(reply, encoding)) == reply


@given(names, st.sampled_from(["tick", "label", "prediction", "score", "heartbeat"]))
def test_a_topic_survives(name, kind):
    topic = make_topic(kind, name)
    assert parse_topic(topic) == (kind, name, topic.decode())


FORMS = {
    "one tick by order": {"values": [1, 2.5]},
    "one tick by name": {"values": {"ask": 2.5, "bid": 1, "venue": "N", "lots": [True]}},
    "a block of one": {"values": [[1, 2.5]], "t_ns": [0]},
    "a block by name": {"values": {"ask": [2.5], "bid": [1]}},
    "a block in bytes": {"values": np.array([1.0, 2.5]).tobytes(), "rows": 1, "t_ns": bytes(8)},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_values_is_the_same(form):
    got = ticks(pack(**FORMS[form]))
    assert got.values.tolist() == [[1.0, 2.5]]
    assert got.t_ns.tolist() == [0]


def test_a_foreign_publisher_is_a_plain_json_object():
    got = ticks(json.dumps({"v": 1, "values": {"bid": [1, 2], "ask": [3, 4]}}).encode())
    assert got.values.tolist() == [[1, 3], [2, 4]]
    assert got.values.flags["C_CONTIGUOUS"]


def test_a_missing_value_is_nan_so_that_only_its_row_is_refused():
    got = ticks(b'{"v":1,"values":[[1,2],[null,3]]}')
    np.testing.assert_array_equal(got.values, [[1, 2], [np.nan, 3]])
    frames = protocol.encode_ticks("X", 0, [np.nan, 1.0], encoding="json")
    np.testing.assert_array_equal(DECODER.decode(*frames).values, [[np.nan, 1]])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"values": [1.0]}, "1 values, but the columns are 2: bid, ask"),
        ({"values": []}, "0 values"),
        ({"values": [[]]}, "0 values"),
        ({"values": {"bid": 1.0}}, "`ask`"),
        ({"values": {"bid": [], "ask": []}}, "a block of 0"),
        ({"values": {"bid": [1.0], "ask": [1.0, 2.0]}}, "differ in length"),
        ({"values": {"bid": [1.0], "ask": 2.0}}, "mixes"),
        ({"values": {"bid": True, "ask": 2.0}}, "bool"),
        ({"values": [True, 2.0]}, "bool"),
        ({"values": ["1", 2.0]}, "str"),
        ({"values": [1.0, [2.0]]}, "mixes numbers"),
        ({"values": [[1.0, 2.0], 3.0]}, "mixes"),
        ({"values": [[1.0, 2.0], [3.0]]}, "differ in length"),
        ({"values": bytes(16)}, "need the field `rows`"),
        ({"values": bytes(16), "rows": 2}, "16 bytes of values are not 2 rows"),
        ({"values": bytes(16), "rows": 0}, "rows"),
        ({"values": bytes(16), "rows": 2**40}, "rows"),
        ({"values": [1.0, 2.0], "rows": 3}, "rows=3, but there are 1"),
        ({"values": [1.0, 2.0], "t_ns": [1, 2]}, "2 times for 1 ticks"),
        ({"values": [1.0, 2.0], "t_ns": bytes(7)}, "7 bytes of times"),
        ({"values": [1.0, 2.0], "t_ns": 2**63}, "t_ns"),
        ({"values": [1.0, 2.0], "t_ns": 1.5}, "t_ns"),
        ({"values": [[1.0, 2.0]] * 2, "t_ns": 5}, "one time for a block of 2"),
        ({"values": [1.0, 2.0], "seq": 0}, "seq"),
        ({"values": [1.0, 2.0], "session": "x" * 65}, "session"),
        ({"values": [1.0, 2.0], "session": "a\nb"}, "control character"),
        ({"values": [[1.0, 2.0]] * (protocol.MAX_BLOCK_ROWS + 1)}, "65536"),
        ({}, "values"),
    ],
)
def test_wrong_ticks_are_refused_with_what_and_where(fields, said):
    with pytest.raises(DecodeError) as caught:
        ticks(pack(**fields))
    assert said in str(caught.value)
    assert "tick/X/" in str(caught.value)


def rows_of_the_manual():
    page = (files("stream_lstm") / "manual" / "wire.md").read_text()
    table = page.split("| field | type | least | most |\n|---|---|---|---|\n")[1].split("\n\n")[0]
    return [[cell.strip(" `") for cell in row.split("|")[1:-1]] for row in table.splitlines()]


def accepts(field, value):
    name = "label/X/" if field == "n" else "tick/X/"
    decode = wire.decode_label if field == "n" else DECODER.decode
    rest = {"y": 1} if field == "n" else {"values": [1.0, 2.0]}
    try:
        decode(name.encode(), msgspec.msgpack.encode({"v": 1, **rest, field: value}))
    except DecodeError:
        return False
    return True


@pytest.mark.parametrize(("field", "kind", "least", "most"), rows_of_the_manual())
def test_the_ranges_of_the_manual_are_those_of_the_decoder(field, kind, least, most):
    low, high = int(least), int(most)
    if kind.startswith("string"):
        assert accepts(field, "x" * low)
        assert accepts(field, "x" * high)
        assert not accepts(field, "x" * (high + 1))
        assert not accepts(field, 5)
        return
    assert accepts(field, low)
    assert accepts(field, high)
    for value in (low - 1, high + 1):
        if -(2**63) <= value < 2**64:  # MessagePack has no other integers
            assert not accepts(field, value)
    assert not accepts(field, "1")


@pytest.mark.parametrize("encoder", [msgspec.msgpack, msgspec.json])
def test_another_version_is_refused_naming_both_whatever_its_fields(encoder):
    for fields in ({"values": [1.0, 2.0]}, {"points": "of another shape"}):
        with pytest.raises(DecodeError, match="version 2 is not the supported version 1"):
            ticks(encoder.encode({"v": 2, **fields}))
    with pytest.raises(DecodeError, match="version 2 is not the supported version 1"):
        wire.decode_request(encoder.encode({"v": 2, "kind": "hello"}))


def test_a_record_without_a_version_is_refused():
    with pytest.raises(DecodeError, match="`v`"):
        ticks(msgspec.msgpack.encode({"values": [1.0, 2.0]}))


@pytest.mark.parametrize(
    "topic",
    [
        b"",
        b"tick",
        b"tick/",
        b"tick//",
        b"tick/a",
        b"tick/a/b/",
        b"tock/a/",
        b"tick/a\n/",
        b"tick/\xff/",
        b"/a/",
        b"tick/" + b"a" * 201 + b"/",
        b"tick/" + b"a" * 10**6 + b"/",
    ],
)
def test_wrong_topics_are_refused(topic):
    with pytest.raises(DecodeError, match="topic"):
        ticks(pack(values=[1.0, 2.0]), topic)
    with pytest.raises(DecodeError):
        wire.decode_message(topic, b"", COLUMNS)


@pytest.mark.parametrize("name", ["", "a/b", "a\x00", "a\u2028b", "\u00e9" * 101])
def test_invalid_stream_names_are_refused(name):
    with pytest.raises(UsageError):
        make_topic("tick", name)


def test_labels_and_predictions_out_of_range_are_refused():
    for fields in ({"n": 0, "y": 1}, {"n": 1, "y": "1"}, {"n": 1, "y": True}, {"n": 1}):
        with pytest.raises(DecodeError):
            wire.decode_label(b"label/X/", pack(**fields))
    with pytest.raises(DecodeError, match=r"label/X/.*`n`"):
        wire.decode_label(b"label/X/", pack(y=1))
    # the session checks whether a number is a class, since it may have a threshold
    assert wire.decode_label(b"label/X/", pack(n=1, y=2)).y == 2
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(DecodeError):
            wire.decode_prediction(b"prediction/X/", pack(n=1, t_ns=0, p=p))


def test_a_block_that_lies_about_its_size_takes_no_memory():
    lies = [
        b"\x82\xa1v\x01\xa6values\xdd\xff\xff\xff\xff",
        b"\x82\xa1v\x01\xa6values\xdd\x00\x00\xff\xff",
        b"\x82\xa1v\x01\xa6values\xc6\xff\xff\xff\xff",
        pack(values=b"", rows=protocol.MAX_BLOCK_ROWS),
        b"[" * 100_000,
        b'{"v":1,"values":' + b"[" * 100_000,
        b"\x91" * 100_000,
    ]
    tracemalloc.start()
    try:
        for lie in lies:
            with pytest.raises(DecodeError):
                ticks(lie)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_payload_above_the_limit_is_refused_unread():
    with pytest.raises(DecodeError, match="exceed"):
        ticks(b"{" + b" " * protocol.MAX_PAYLOAD_BYTES)


VALID = [
    frames
    for encoding in ("msgpack", "json")
    for frames in (
        protocol.encode_ticks("X", 5, [1.5, 2.5], run_id="s", seq=7, encoding=encoding),
        protocol.encode_ticks("X", [5, 6], [[1, 2], [3, 4]], seq=7, encoding=encoding),
        protocol.encode_label(Label("X", 3, 1, 9), encoding),
        protocol.encode_prediction(Prediction("X", 3, 9, 0.5, "s"), encoding),
        protocol.encode_score(Score("X", 3, 9, 0.5, 1, 0.7, 0.5, 0.5), encoding),
        protocol.encode_heartbeat(protocol.Heartbeat("X", 8, "s", 9, True), encoding),
    )
]


@given(st.sampled_from(VALID), st.data())
def test_mutated_messages_decode_or_raise_decode_error(frames, data):
    topic, payload = (bytearray(frame) for frame in frames)
    for target in (topic, payload):
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, len(target)))
            end = at + data.draw(st.integers(0, 4))
            target[at:end] = data.draw(st.binary(max_size=4))
    with contextlib.suppress(DecodeError):
        wire.decode_message(bytes(topic), bytes(payload), COLUMNS)


@given(st.sampled_from(VALID), st.binary(max_size=64))
def test_random_bytes_raise_decode_error_only(frames, payload):
    for attempt in (
        lambda: wire.decode_message(frames[0], payload, COLUMNS),
        # no text: random bytes can happen to be a topic
        lambda: wire.decode_message(b"\xff" + payload, frames[1], COLUMNS),
        lambda: wire.decode_request(payload),
        lambda: wire.decode_reply(payload),
    ):
        with pytest.raises(DecodeError):
            attempt()


def test_encoding_refuses_shapes_that_do_not_fit():
    for t_ns, values in (
        (0, [[[1.0]]]),
        ([1, 2], [[1.0]]),
        (5, [[1.0], [2.0]]),
        (0, []),
        (0, np.zeros((protocol.MAX_BLOCK_ROWS + 1, 1))),
    ):
        with pytest.raises(UsageError):
            protocol.encode_ticks("X", t_ns, values)


@pytest.mark.parametrize("columns", [(), ("a", "a"), ('a"b',)])
def test_invalid_columns_are_a_configuration_error(columns):
    with pytest.raises(ConfigurationError) as caught:
        wire.TickDecoder(columns)
    assert caught.value.key == "columns"


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_experts_are_on_the_wire_only_if_there_are_any(encoding):
    decode = {"msgpack": msgspec.msgpack.decode, "json": msgspec.json.decode}[encoding]
    said = (Expert("base-rate", 0.25, 0.5), Expert("lags", 0.75, 0.125))
    without, with_them = Prediction("a", 1, 2, 0.5), Prediction("a", 1, 2, 0.5, experts=said)
    payload = protocol.encode_prediction(without, encoding)[1]
    assert "experts" not in decode(payload)
    assert wire.decode_prediction(b"prediction/a/", payload).experts == ()
    payload = protocol.encode_prediction(with_them, encoding)[1]
    assert decode(payload)["experts"] == [["base-rate", 0.25, 0.5], ["lags", 0.75, 0.125]]
    assert wire.decode_prediction(b"prediction/a/", payload) == with_them


SCORED = Score("X", 3, 9, 0.5, 1, 0.7, 0.5, 0.5, "s", 3.5, -0.25, 0.5, frozen_p=0.75)


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_evidence_and_existing_forecasts_are_on_the_wire_and_missing_ones_are_not(encoding):
    module = msgspec.json if encoding == "json" else msgspec.msgpack
    topic, payload = protocol.encode_score(SCORED, encoding)
    assert wire.decode_score(topic, payload) == SCORED
    sent = module.decode(payload)
    assert sent["coin_evidence"] == 3.5
    assert sent["frozen_p"] == 0.75
    assert not {"raw_p", "stateless_p"} & set(sent)


def test_a_score_of_a_program_without_evidence_is_read():
    old = {"v": 1, "n": 3, "t_ns": 9, "p": 0.5, "label": 1, "log_loss": 0.7}
    old |= {"base_rate_p": 0.5, "last_label_p": 0.5, "session": "s"}
    found = wire.decode_score(b"score/X/", msgspec.json.encode(old))
    assert found == Score("X", 3, 9, 0.5, 1, 0.7, 0.5, 0.5, "s")
    assert (found.coin_evidence, found.raw_p) == (0.0, None)


@pytest.mark.parametrize("encode", [msgspec.json.encode, msgspec.msgpack.encode])
def test_whole_numbers_may_be_floats_and_parts_are_refused(encode):
    def tick(**fields):
        return wire.decode_message(
            b"tick/A/", encode({"v": 1.0, "values": [1.5], **fields}), ("x",)
        )

    found = tick(seq=5.0, t_ns=1.764e18)
    assert (found.seq, found.t_ns.tolist()) == (5, [1_764_000_000_000_000_000])
    block = {"values": {"x": [1.0, 2.0]}, "t_ns": [3.0, 4], "rows": 2.0}
    assert tick(**block).t_ns.tolist() == [3, 4]
    label = wire.decode_message(b"label/A/", encode({"v": 1, "n": 10.0, "y": 1.0}), ("x",))
    assert label.n == 10
    mixed = tick(values=[[1.0], [2.0]], t_ns=[2.0, 2**62 + 1], rows=2.0)
    assert mixed.t_ns.tolist() == [2, 2**62 + 1], "an integer keeps all its digits"
    for wrong in ({"t_ns": 1.5}, {"seq": 2.5}, {"seq": 0.0}, {"t_ns": 1e19}, {"t_ns": [0.5]}):
        (key,) = wrong
        with pytest.raises(DecodeError, match=key):
            tick(**wrong)
