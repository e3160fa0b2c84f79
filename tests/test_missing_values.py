"""A series with holes reaches the session with the same bits, whatever the input calls a hole.

Features use `x` alone where the input can have more columns: the session refuses no tick then.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import sqlite3
import threading
from contextlib import suppress

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from stream_lstm.core.session import Session
from stream_lstm.core.stateful import StatefulMaker
from stream_lstm.errors import ConfigurationError, DataError
from stream_lstm.events import Refusal, Ticks
from stream_lstm.feed.bridge import SourceTick, bridge
from stream_lstm.feed.protocol import encode_ticks
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.interop.predictor import Predictor, replay_frame
from stream_lstm.interop.river import ExampleClassifier, Lateness, _compared
from stream_lstm.interop.transports import MessageSource, transport_of
from stream_lstm.schema import FeedConfig

from .cli.conftest import exit_code
from .engines import engine_for
from .feed.received import ANY_PORT, WAIT_S, ended, gather, of
from .serve import live

NAN = math.nan
COLUMNS = ("x", "y")
HOLES = (1, 3, 4, 7)
SERIES = np.array([[k % 5 - 1.5, NAN if k in HOLES else k / 8] for k in range(9)])
TIMES = np.arange(1, len(SERIES) + 1)
ALLOWED = {"on_missing": ["y=last"]}
BOTH = ("--feature", "x", "--feature", "y", "--on-missing", "y=last", "--on-bad-row", "skip")
SMALL = ("--hidden", "4", "--window", "5", "--bptt", "5")


@pytest.fixture(autouse=True)
def shared_engines(monkeypatch):
    monkeypatch.setattr("stream_lstm.core.session.Engine", engine_for)


@pytest.fixture
def seen(monkeypatch):
    """The rows that reach a session, by whichever method."""
    rows, inside = [], []

    def watch(name, values_of):
        method = getattr(Session, name)

        def watched(self, *arguments, **more):
            if not inside:
                rows.extend(values_of(*arguments))
            inside.append(name)
            try:
                return method(self, *arguments, **more)
            finally:
                inside.pop()

        monkeypatch.setattr(Session, name, watched)

    watch("tick", lambda _, __, row, *___: [[NAN if v is None else v for v in row]])
    watch("push", lambda ticks: ticks.values.tolist())
    watch("arrive", lambda arrivals: arrivals.values.tolist())
    for name in ("tick", "push", "arrive"):
        monkeypatch.setattr(f"stream_lstm.core.atomic._{name}", getattr(Session, name))
    return rows


def bits(rows):
    return np.array(rows, np.float64).view(np.int64).tolist()


# ---- feeds ------------------------------------------------------------------------------------


def by_name(row):
    return dict(zip(COLUMNS, row, strict=True))


def nulls(row):
    return [None if v != v else v for v in row]


def named(row):
    return dict(zip(COLUMNS, nulls(row), strict=True))


def present(row):
    return {name: v for name, v in named(row).items() if v is not None}


def texts(empty):
    return lambda row: {name: empty if v is None else str(v) for name, v in named(row).items()}


def records(encode, values):
    return [
        (b"tick/a/", encode({"v": 1, "session": "s", "seq": k, "t_ns": k, "values": values(row)}))
        for k, row in enumerate(SERIES.tolist(), 1)
    ]


def block(values):
    return [(b"tick/a/", JSON({"v": 1, "session": "s", "seq": 1, "values": values}))]


def declared(encode, values):
    return [(b"a", encode(values(row))) for row in SERIES.tolist()]


JSON, PACK = msgspec.json.encode, msgspec.msgpack.encode
TREE = {"columns": COLUMNS}
STRUCT = np.dtype([("x", "<f8"), ("y", "<f4")])
MESSAGES = {
    "record: null in JSON": ({}, records(JSON, nulls)),
    "record: nil in msgpack": ({}, records(PACK, nulls)),
    "record: NaN in msgpack": ({}, records(PACK, lambda row: row)),
    "record: null by name": ({}, records(JSON, named)),
    "record: nil by name": ({}, records(PACK, named)),
    "record: absent in JSON": ({}, records(JSON, present)),
    "record: absent in msgpack": ({}, records(PACK, present)),
    "record: block of rows": ({}, block([nulls(row) for row in SERIES.tolist()])),
    "record: block by name": (
        {}, block(dict(zip(COLUMNS, map(nulls, SERIES.T.tolist()), strict=True)))
    ),
    "record: raw block": ({}, [encode_ticks("a", TIMES, SERIES, run_id="s", seq=1)]),
    "json: null": ({"payload": "json"}, declared(JSON, named)),
    "json: absent": ({"payload": "json"}, declared(JSON, present)),
    "json: empty text": ({"payload": "json"}, declared(JSON, texts(" "))),
    "json: NaN text": ({"payload": "json"}, declared(JSON, texts("NaN"))),
    "json: array": ({"payload": "json", "fields": COLUMNS}, declared(JSON, nulls)),
    "msgpack: nil": ({"payload": "msgpack"}, declared(PACK, named)),
    "msgpack: absent": ({"payload": "msgpack"}, declared(PACK, present)),
    "msgpack: NaN": ({"payload": "msgpack"}, declared(PACK, by_name)),
    "text: empty": (
        {"payload": "text", "fields": COLUMNS, "separator": [","]},
        declared(lambda row: ",".join(row).encode(), lambda row: texts("")(row).values()),
    ),
    "text: nan": (
        {"payload": "text", "fields": COLUMNS},
        declared(lambda row: f"{row[0]};{row[1]}".encode(), lambda row: row),
    ),
    "float64": ({"payload": "float64"}, [(b"a", SERIES.tobytes())]),
    "struct": (
        {"payload": "struct", "dtype": "x:f8,y:f4"},
        [(b"a", np.array([tuple(row) for row in SERIES.tolist()], STRUCT).tobytes())],
    ),
}  # fmt: skip


@pytest.fixture
def daemon(monkeypatch):
    monkeypatch.setattr(live, "COLUMNS", COLUMNS)
    opened = []

    def start(**values):
        opened.append(live.Live(**({"columns": COLUMNS} | values)))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.mark.parametrize("case", MESSAGES)
def test_each_message_gives_the_same_bits(daemon, seen, case):
    form, messages = MESSAGES[case]
    one = daemon(**form, **ALLOWED)
    for frames in messages:
        one.send(*frames)
    one.until(lambda: len(seen) == len(SERIES))
    assert bits(seen) == bits(SERIES)
    assert one.elements("a") == len(SERIES)
    assert not one.of(Refusal)


@pytest.mark.parametrize("case", [case for case in MESSAGES if "absent" in case])
def test_an_absent_value_without_a_policy_is_refused_by_the_decoder(daemon, seen, case):
    form, messages = MESSAGES[case]
    one = daemon(**form, on_missing=["y=refuse", "*=zero"])
    for frames in messages:
        one.send(*frames)
    one.until(lambda: one.daemon.subscriber.intake.counters.refused == len(HOLES))
    assert bits(seen) == bits(np.delete(SERIES, HOLES, axis=0))
    assert any("y" in reason for reason in one.daemon.subscriber.intake.reasons.first.values())


@pytest.mark.parametrize("case", ["record: null in JSON", "json: null", "float64"])
def test_the_session_refuses_a_missing_value_of_a_feature_without_a_policy(daemon, seen, case):
    form, messages = MESSAGES[case]
    one = daemon(**form, features=["mid(x, y)"])
    for frames in messages:
        one.send(*frames)
    one.until(lambda: len(one.of(Refusal)) == len(HOLES))
    assert {refusal.reason for refusal in one.of(Refusal)} == {"y is nan"}


@pytest.mark.parametrize("values", [{}, {"z": 1.0}])
@pytest.mark.parametrize("payload", ["record", "json"])
def test_a_message_without_any_column_is_no_tick(daemon, seen, payload, values):
    one = daemon(payload=payload, on_missing=["*=zero"])
    is_record = payload == "record"
    one.send(*((records(JSON, lambda _: values)[0]) if is_record else (b"a", JSON(values))))
    one.until(lambda: one.daemon.subscriber.intake.counters.refused == 1)
    assert not seen


def test_a_block_by_name_may_lack_a_whole_column(daemon, seen):
    one = daemon(**ALLOWED)
    one.send(*block({"x": [1.0, 2.0]})[0])
    one.until(lambda: len(seen) == 2)
    assert bits(seen) == bits([[1.0, NAN], [2.0, NAN]])


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_a_publisher_and_a_source_pass_missing_values_on(daemon, seen, encoding):
    feed = live.feed_of(encoding=encoding)
    one = daemon(feed=feed, **ALLOWED)

    async def source():
        for t_ns, row in zip(TIMES.tolist(), SERIES.tolist(), strict=True):
            yield SourceTick("b", t_ns, nulls(row))

    with feed:
        feed.publish("a", TIMES, SERIES)
        feed.publish("a", 100, [1.0, None])
        asyncio.run(bridge(source(), feed))
        one.until(lambda: len(seen) == 2 * len(SERIES) + 1)
    assert bits(seen) == bits([*SERIES, [1.0, NAN], *SERIES])


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_infinity_of_a_publisher_is_refused_and_not_missing(daemon, encoding):
    feed = live.feed_of(encoding=encoding)
    one = daemon(feed=feed, features=["mid(x, y)"], on_missing=["y=zero"])
    with feed:
        feed.publish("a", 1, [1.0, math.inf])
        feed.publish("a", [2, 3], [[1.0, -math.inf], [1.0, 1.0]])
        one.until(lambda: one.elements("a") == 1)
    assert [refusal.reason.partition("e+")[0] for refusal in one.of(Refusal)] == (
        ["y is 1.79769", "y is -1.79769"] if encoding == "json" else ["y is inf", "y is -inf"]
    )


def test_recovery_brings_missing_values_back(daemon, seen):
    with live.feed_of(recovery=ANY_PORT) as feed:
        for t_ns, row in zip(TIMES[:6].tolist(), SERIES[:6], strict=True):
            feed.publish("a", t_ns, row)
        one = daemon(feed=feed, recovery=[feed.recovery_endpoint], **ALLOWED)
        feed.publish("a", TIMES[6:], SERIES[6:])
        one.until(lambda: len(seen) == len(SERIES))
    assert bits(seen) == bits(SERIES)
    assert one.daemon.subscriber.counters.recovered == 6


def bridged(feed, lines, optional):
    """Return the ticks of lines that a TCP server sends, and their source."""

    async def run():
        writers = []

        async def serve(_, writer):
            writers.append(writer)
            writer.write(b"".join(lines))
            await writer.drain()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        url = f"tcp://127.0.0.1:{port}"
        source = MessageSource(url, transport_of(url), feed, optional=optional)
        found, ticks = [], aiter(source)
        async with server, asyncio.timeout(WAIT_S):
            while len(found) + source.refused < len(lines):
                found.append((await anext(ticks)).values)
            await ticks.aclose()
            for writer in writers:
                writer.close()
                await writer.wait_closed()
        return found, source

    return asyncio.run(run())


@pytest.mark.parametrize("values", [named, present, texts("")])
@pytest.mark.parametrize("optional", [("y",), ("*",), ()])
def test_a_bridge_passes_missing_values_on_if_they_are_allowed(values, optional):
    feed = FeedConfig(payload="json", columns=COLUMNS)
    lines = [JSON(values(row)) + b"\n" for row in SERIES.tolist()]
    found, source = bridged(feed, lines, optional)
    assert bits(found) == bits(SERIES if optional else np.delete(SERIES, HOLES, axis=0))
    assert source.refused == (0 if optional else len(HOLES))


def test_a_bridge_names_an_unknown_column():
    feed = FeedConfig(payload="json", columns=("bid", "ask"))
    with pytest.raises(ConfigurationError, match=r"unknown column 'aks'; did you mean 'ask'"):
        MessageSource("tcp://h:1", transport_of("tcp://h:1"), feed, optional=("aks",))


# ---- files ------------------------------------------------------------------------------------


def csv_text(cell, separator=","):
    rows = [separator.join(COLUMNS)]
    rows += [separator.join(cell if v != v else repr(v) for v in row) for row in SERIES.tolist()]
    return "\n".join(rows) + "\n"


def table(y=None):
    cells = [None if v != v else v for v in SERIES[:, 1].tolist()] if y is None else y
    return pa.table({"x": SERIES[:, 0], "y": cells})


CELLS = ["", " ", "nan", "NaN", "-nan", "NAN", "NA", " NA ", "N/A", "#N/A", "null", "NULL", '""']
WRITE = {
    **{
        f"csv {cell!r}": ("t.csv", lambda path, cell=cell: path.write_text(csv_text(cell)))
        for cell in CELLS
    },
    "csv with a bad row": ("t.csv", lambda path: path.write_text(csv_text("NA") + "1,oops\n")),
    "tsv": ("t.tsv", lambda path: path.write_text(csv_text("", "\t"))),
    "csv.gz": ("t.csv.gz", lambda path: path.write_bytes(gzip.compress(csv_text("").encode()))),
    "Parquet null": ("t.parquet", lambda path: pa.parquet.write_table(table(), path)),
    "Parquet NaN": ("t.parquet", lambda path: pa.parquet.write_table(table(SERIES[:, 1]), path)),
    "Feather null": ("t.feather", lambda path: pa.feather.write_feather(table(), path)),
    "npy": ("t.npy", lambda path: np.save(path, SERIES.view([("x", "f8"), ("y", "f8")])[:, 0])),
}


@pytest.fixture(params=WRITE)
def file(request, tmp_path):
    name, write = WRITE[request.param]
    write(tmp_path / name)
    return tmp_path / name


def stored(path):
    """Return the values in the journal of a store, bit by bit."""
    with sqlite3.connect(path) as connection:
        fields = connection.execute("SELECT fields FROM ticks ORDER BY pos").fetchall()
    return np.frombuffer(b"".join(one for (one,) in fields), "<i8").reshape(-1, 2).tolist()


def test_each_file_gives_the_same_bits_to_session_and_journal(file, seen, tmp_path):
    store = tmp_path / "s.db"
    assert exit_code(("replay", file, *BOTH, *SMALL, "--store", store)) == 0
    assert bits(seen) == stored(store) == bits(SERIES)


def test_each_file_gives_the_same_bits_in_training(file, monkeypatch, tmp_path):
    rows, make = [], StatefulMaker.make

    def watched(self, memory, t_ns, values, refused):
        rows.extend(values.tolist())
        return make(self, memory, t_ns, values, refused)

    monkeypatch.setattr(StatefulMaker, "make", watched)
    exit_code(("train", file, *BOTH, "--hidden", "4", "--out", tmp_path / "w.safetensors"))
    assert bits(rows) == bits(SERIES)


def test_a_file_without_a_policy_is_refused_where_it_was(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text(csv_text(""))
    line = ("replay", path, "--feature", "x", "--feature", "y", *SMALL)
    assert exit_code(line) == 65
    assert "t.csv, line 3: column 'y' is empty (--on-bad-row skip" in capsys.readouterr().err
    assert exit_code((*line, "--on-missing", "x=last")) == 65
    assert exit_code((*line, "--on-missing", "z=last")) == 2
    assert "on_missing = 'z=last': unknown column 'z' (there are x, y)" in capsys.readouterr().err


def test_infinity_is_never_missing(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n1,2\n2,inf\n")
    assert exit_code(("replay", path, *BOTH[:-2], *SMALL)) == 65
    assert "line 3: column 'y': 'inf' is not a finite number" in capsys.readouterr().err


def test_a_column_may_be_missing_in_every_row(seen, tmp_path):
    empty = [None] * len(SERIES)
    pa.parquet.write_table(table(pa.array(empty, pa.null())), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("x,y\n1,\n2,\n")
    assert exit_code(("replay", tmp_path / "t.parquet", *BOTH, *SMALL)) == 0
    assert exit_code(("replay", tmp_path / "t.csv", *BOTH, *SMALL)) == 0
    assert np.isnan(np.array(seen)[:, 1]).all()
    assert len(seen) == len(SERIES) + 2


def test_rows_of_many_streams_have_missing_values_too(seen, tmp_path):
    lines = csv_text("").splitlines()
    rows = [f"{'ab'[k % 2]},{line}" for k, line in enumerate(lines[1:])]
    (tmp_path / "t.csv").write_text("\n".join(["name," + lines[0], *rows]) + "\n")
    line = ("replay", tmp_path / "t.csv", "--stream-column", "name", *BOTH, *SMALL)
    assert exit_code(line) == 0
    assert bits(seen) == bits(SERIES)


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("allowed", ["y", "*"])
def test_publish_sends_missing_values_if_they_are_allowed(tmp_path, allowed, encoding):
    path, port = tmp_path / "t.csv", live.feed_of()
    path.write_text(csv_text("NA"))
    with port:
        endpoint = port.endpoint
    config = FeedConfig(connect=(endpoint,), columns=COLUMNS)
    with Subscriber(config) as into:
        words = ("--bind", endpoint, "--wait-subscribers", "1", "--encoding", encoding)
        line = ("publish", path, "--allow-missing", allowed, *words)
        events = []
        thread = threading.Thread(target=lambda: events.extend(gather(into, ended)))
        thread.start()
        assert exit_code(line) == 0
        thread.join(WAIT_S)
    rows = np.concatenate([ticks.values for ticks in of(Ticks, events)])
    assert bits(rows) == bits(SERIES)


def test_publish_names_an_unknown_column(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(csv_text(""))
    line = ("publish", tmp_path / "t.csv", "--bind", ANY_PORT)
    assert exit_code((*line, "--allow-missing", "z")) == 2
    assert "has no column 'z'" in capsys.readouterr().err
    assert exit_code(line) == 65, "without the flag an empty cell ends it"


def test_odd_bits_of_missing_values_are_stored_verified_and_recovered(tmp_path):
    values = SERIES.copy()
    values.view(np.int64)[list(HOLES), 1] = [0x7FF8 << 48 | 5, -1, -(1 << 51), 0x7FF8 << 48]
    assert np.isnan(values[list(HOLES), 1]).all()
    np.save(tmp_path / "t.npy", values.view([("x", "f8"), ("y", "f8")])[:, 0])
    line = ("replay", tmp_path / "t.npy", *BOTH, *SMALL, "--store", tmp_path / "s.db")
    assert exit_code(line) == 0
    assert stored(tmp_path / "s.db") == bits(values)
    assert exit_code(line) == 0, "the file begins with the ticks of the store"
    assert exit_code(("verify", tmp_path / "s.db")) == 0
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("DELETE FROM streams")
    assert exit_code(("recover", tmp_path / "s.db", "--to", tmp_path / "r.db")) == 0
    assert stored(tmp_path / "r.db") == bits(values)
    assert exit_code(("verify", tmp_path / "r.db")) == 0


def test_doctor_names_the_share_of_missing_values(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(csv_text("NA"))
    line = ("doctor", tmp_path / "t.csv", "--feature", "x", "--json")
    assert exit_code(line) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["findings"]}
    share = len(HOLES) / len(SERIES)
    assert found["missing_values"]["figures"]["shares"] == {"x": 0.0, "y": pytest.approx(share)}
    assert (found["missing_values"]["level"], found["missing_values"]["evidence"]) == (
        "note", "missing: y 44.4 %",
    )  # fmt: skip


def test_doctor_examines_features_of_columns_with_missing_values(tmp_path, capsys):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 1500))
    cells = ["" if k % 5 == 0 else f"{v:.4f}" for k, v in enumerate(y)]
    rows = [f"{a:.4f},{b}" for a, b in zip(x, cells, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["x,y", *rows]) + "\n")
    line = ("doctor", tmp_path / "t.csv", *BOTH[:-2], *SMALL, "--json")
    assert exit_code(line) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["findings"]}
    assert found["missing_values"]["evidence"] == "missing: y 20.0 %"
    assert found["missing_values"]["remedy"] == "", "the policy is given"
    assert found["look_ahead"]["level"] == "ok"
    assert found["planted_signal"]["figures"]["labels"] > 0


def test_init_names_columns_with_missing_values(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(csv_text("NA"))
    assert exit_code(("init", tmp_path / "t.csv", "--out", tmp_path / "c.toml")) == 0
    assert "Values are missing in y: see on_missing." in capsys.readouterr().err
    assert "#on_missing = []" in (tmp_path / "c.toml").read_text()


# ---- calls ------------------------------------------------------------------------------------


def frames():
    y = [None if v != v else v for v in SERIES[:, 1].tolist()]
    x = SERIES[:, 0]
    return {
        "pandas NaN": pd.DataFrame(SERIES, columns=COLUMNS),
        "pandas NA": pd.DataFrame({"x": x, "y": pd.array(y, "Float64")}),
        "pandas objects": pd.DataFrame({"x": x, "y": pd.Series(y, dtype=object)}).where(
            lambda frame: frame.notna(), pd.NA
        ),
        "Arrow null": table(),
        "lists with None": {"x": x.tolist(), "y": y},
        "arrays": {"x": x, "y": SERIES[:, 1]},
    }


@pytest.mark.parametrize("name", frames())
def test_each_frame_gives_the_same_bits(seen, name):
    frame = frames()[name]
    settings = {"hidden": 4, "window": 5, "skip_bad": True}
    replay_frame(frame, ["x", "y"], **ALLOWED, **settings)
    assert bits(seen) == bits(SERIES)
    with pytest.raises(DataError, match=r"row 1 .*: y is nan"):
        replay_frame(frame, ["x", "y"], hidden=4, window=5)


def test_a_column_of_a_frame_may_be_null_in_every_row(seen):
    replay_frame(
        {"x": [1.0, 2.0], "y": [None, None]}, ["x", "y"], hidden=4, skip_bad=True, **ALLOWED
    )
    assert bits(seen) == bits([[1.0, NAN], [2.0, NAN]])
    with pytest.raises(DataError, match="column 'y' has type null"):
        replay_frame({"x": [1.0], "y": [None]}, ["x", "y"], hidden=4)


ROWS = {
    "None": nulls,
    "NaN": lambda row: row,
    "pandas NA": lambda row: [pd.NA if v != v else v for v in row],
    "array": np.array,
    "None by name": named,
    "absent": present,
    "Series": lambda row: pd.Series(present(row)),
    "Series with NA": lambda row: pd.Series(named(row), dtype="Float64"),
}


@pytest.mark.parametrize("name", ROWS)
def test_each_row_of_a_predictor_gives_the_same_bits(seen, name):
    one = Predictor("x", COLUMNS, hidden=4, window=5, **ALLOWED)
    for row in SERIES.tolist():
        one.step(ROWS[name](row))
    assert bits(seen) == bits(SERIES)


@pytest.mark.parametrize("name", [name for name in ROWS if name not in ("NaN", "array")])
def test_a_row_without_a_policy_is_refused_as_it_was(name):
    one = Predictor("x", COLUMNS, hidden=4, window=5, on_missing=["x=last"])
    with pytest.raises(DataError, match=r"no field 'y'|not a number"):
        one.step(ROWS[name]([1.0, NAN]))
    with pytest.raises(DataError, match="no field"):
        one.step({"z": 1.0})


@pytest.mark.parametrize("key", [None, "id"])
@pytest.mark.parametrize("name", ["None by name", "absent", "NaN"])
def test_an_example_of_river_may_lack_a_value(seen, key, name):
    one = ExampleClassifier(["x", "y"], key, hidden=4, window=5, bptt=5, **ALLOWED)
    for k, row in enumerate(SERIES.tolist()):
        values = dict(zip(COLUMNS, row, strict=True)) if name == "NaN" else ROWS[name](row)
        with suppress(DataError):  # of a feature that does not know policies
            one.learn_one(values | {"id": k}, k % 2)
    assert bits(seen) == bits(SERIES)


@pytest.mark.parametrize("lag", [0, 3])
def test_late_labels_are_found_by_the_values_that_are_there(lag):
    lateness, rows = Lateness(2), np.random.default_rng(1).normal(size=(60, 2)).cumsum(axis=0)
    rows[::2, 1] = NAN
    found = []
    for k in range(lag, len(rows)):
        lateness.predicted(_compared(rows[k].tolist()))
        found.append(lateness.is_late(_compared((rows[k - lag] + 1e-6).tolist())))
        lateness.labelled()
    assert found[-1] == (lag > 0)
    assert _compared([NAN, 1.0]) == _compared([float("nan"), 1.0])
