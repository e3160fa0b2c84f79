"""`stream-lstm init`: what it finds in files and feeds, and how its file is read back."""

from __future__ import annotations

import gzip
import json
import pickle
import re
import shlex
import threading
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_lstm.cli.init import Draft, draft_file, render, suggest
from stream_lstm.cli.settings import resolve
from stream_lstm.config import KEYS, Config, flatten, parse_tables
from stream_lstm.core.expressions import columns_of
from stream_lstm.feed.input_file import InputFile
from stream_lstm.feed.look import rank
from stream_lstm.feed.publisher import Publisher

from .lines import ANY_PORT, COUNT, WAIT_S, sending, write_csv

SMALL = ("--hidden", 4, "--window", 20, "--bptt", 5)
RNG = np.random.default_rng(5)
PRICE = 1.3 * np.exp(np.cumsum(RNG.normal(0, 1e-4, COUNT)))
SIGNED = RNG.normal(size=COUNT)


def make_csv(folder):
    times, sizes = 10**18 + np.arange(COUNT), RNG.integers(1, 9, COUNT)
    columns = {"bid_size": sizes, "bid": PRICE, "ask": PRICE + 1e-4, "time_ns": times}
    return write_csv(folder / "x.csv", **columns)


def make_spoiled(folder):
    columns = {"level": PRICE, "ret": [0.5, "oops", *SIGNED[2:]], "empty": [""] * COUNT}
    return write_csv(folder / "x.csv", **columns)


def make_gz(folder):
    whens = [f"2024-03-01T09:{k // 60:02}:{k % 60:02}Z" for k in range(COUNT)]
    symbols = ["EURUSD", "GBPUSD"] * (COUNT // 2)
    plain = write_csv(folder / "bars.csv", when=whens, symbol=symbols, close=PRICE)
    (path := folder / "bars.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    return path


def make_parquet(folder):
    columns = {"id": np.arange(COUNT), "my price": PRICE, "t": np.arange(COUNT) * 0.5}
    pa.parquet.write_table(pa.table(columns), path := folder / "x.parquet")
    return path


def make_npy(folder):
    np.save(path := folder / "x.npy", SIGNED)
    return path


FILES = {
    make_csv: ("log_return(mid(bid, ask))", {"time": "time_ns", "stream_column": None}),
    make_gz: ("log_return(close)", {"time": "when", "stream_column": "symbol"}),
    make_parquet: ('log_return("my price")', {"time": "t", "stream_column": None}),
    make_npy: ("x", {"time": None, "columns": ["x"]}),
    make_spoiled: ("ret", {"time": None, "columns": ["level", "ret"]}),
}


@pytest.mark.parametrize("make", FILES)
def test_a_file_s_configuration_is_accepted_and_its_command_runs(cli, tmp_path, make):
    feature, facts = FILES[make]
    out = tmp_path / "own.toml"
    done = cli("init", make(tmp_path), "--out", out, "--json")
    assert done.code == 0, done.err
    record = done.json()
    assert record["features"][0] == feature
    assert {key: record[key] for key in facts} == facts
    assert resolve({}, out).config.stream.features == (feature,)
    check, replay = (shlex.split(line) for line in record["next"])
    assert [check[:1], replay[:1]] == [["stream-lstm"]] * 2
    assert cli(*check[1:]).code == 0
    done = cli(*replay[1:], *SMALL, "--json")
    assert done.code == 0, done.err
    assert done.json()["predictions"] > 0


@pytest.mark.parametrize(
    ("columns", "features"),
    [
        (["bid_size", "bid", "ask", "ask_size"],
         ["log_return(mid(bid, ask))", "imbalance(bid_size, ask_size)"]),
        (["volume", "price"], ["log_return(price)", "signed_volume(price, volume)"]),
        (["bid_size", "ask_size"], ["diff(bid_size)", "diff(ask_size)"]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_sizes_are_used_with_the_quotes_or_trades_that_they_belong_to(columns, features):
    values = np.column_stack([PRICE + RNG.random(COUNT) for _ in columns])
    assert suggest(columns, values)[:2] == features


def test_several_good_features_are_comments_that_can_be_chosen(cli, tmp_path):
    columns = {f"s{k}": RNG.normal(size=COUNT) for k in range(3)}
    path, out = write_csv(tmp_path / "s.csv", **columns), tmp_path / "c.toml"
    assert cli("init", path, "--out", out).code == 0
    lines = [line for line in out.read_text().splitlines() if "features = " in line]
    assert lines == ['features = ["s0"]', '#features = ["s1"]', '#features = ["s2"]']


def test_the_template_lists_every_key_with_its_default(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("init")
    assert done.code == 0
    assert done.out.splitlines()[0] == "stream-lstm check-config stream-lstm.toml"
    text = Path("stream-lstm.toml").read_text(encoding="utf-8")
    assert resolve({}, Path("stream-lstm.toml")).config == Config()
    every = parse_tables(tomllib.loads(re.sub("^#(?=[a-z])", "", text, flags=re.MULTILINE)))
    defaults = flatten(Config())
    assert {*KEYS} - {"table"} <= {*every}
    for key, value in every.items():
        want = defaults[key]
        assert want is None or value == (list(want) if isinstance(want, tuple) else want)


def test_an_existing_file_is_kept_unless_forced(cli, tmp_path):
    (out := tmp_path / "c.toml").write_text("mine")
    done = cli("init", "--out", out)
    assert (done.code, out.read_text()) == (2, "mine")
    assert "--force" in done.err
    assert cli("init", make_npy(tmp_path), "--out", out, "--force").code == 0
    assert resolve({}, out).config.stream.features == ("x",)
    source = make_csv(tmp_path)
    before = source.read_bytes()
    assert cli("init", source, "--out", source, "--force").code == 2
    assert source.read_bytes() == before
    assert cli("init", "--out", tmp_path / "nowhere" / "c.toml").code == 74


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, 66, ["x.csv"]),
        (b"", 65, ["empty"]),
        (b"a,b\n", 65, ["no rows", "a, b"]),
        (b"who,what\nx,y\nz,w\n", 65, ["'who'", "'what'"]),
        (b"time,who\n1700000000,y\n1700000001,w\n", 65, ["'time'"]),
        (b"x,x\n1,2\n", 65, ["more than one column 'x'"]),
        (b"\xff\xfex\x00", 65, ["no rows (it has x)"]),
        (b"a,b\n" + b"1,\n" * 600 + b"x,\n" * 5000, 65, ["cannot be used", "'x'"]),
        (pa.table({"who": ["a"], "what": ["b"]}), 65, ["no column of numbers (it has who, what)"]),
    ],
    ids=lambda part: part if isinstance(part, int) else "",
)
def test_what_cannot_be_read_is_one_sentence_and_writes_nothing(
    cli, tmp_path, content, code, words
):
    path, out = tmp_path / "x.csv", tmp_path / "c.toml"
    if isinstance(content, pa.Table):
        pa.parquet.write_table(content, path := tmp_path / "t.parquet")
    elif content is not None:
        path.write_bytes(content)
    done = cli("init", path, "--out", out)
    assert done.code == code
    assert all(word in done.err for word in words)
    assert "Traceback" not in done.err
    assert not out.exists()


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.lists(any_text, min_size=1, max_size=6, unique=True)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names)
def test_names_of_any_text_are_read_back_as_they_are(tmp_path, header):
    path = tmp_path / "any.parquet"
    pa.parquet.write_table(pa.table([SIGNED] * len(header), names=header), path)
    draft = draft_file(InputFile(path, "x"), "c.toml")
    (out := tmp_path / "any.toml").write_text(render("", draft), encoding="utf-8")
    config = resolve({}, out).config
    times = next((c for c in header if c not in config.feed.columns), None)
    assert config.feed.columns == tuple(name for name in header if name != times)
    assert set(columns_of(config.stream.features)) <= set(config.feed.columns)


@given(names)
def test_any_text_in_any_place_of_the_file_stays_inside_it(texts):
    draft = Draft({"connect": texts, "topic": texts[0]}, texts, texts[:0], texts[0], {})
    values = parse_tables(tomllib.loads(render(texts[0], draft)))
    assert (values["connect"], values["topic"]) == (texts, texts[0])


def test_words_are_found_in_names_however_they_are_joined():
    names = ("lastPrice", "nswprice", "BID_PX", "bidder", "", "é")
    assert [rank(name, ("price", "bid")) for name in names] == [0, 0, 1, 2, 2, 2]


# ---- feeds -------------------------------------------------------------------------------


def as_json(topic, **fields):
    return [topic.encode(), json.dumps(fields).encode()]


FEEDS = {
    "objects": (
        lambda k: as_json(f"quotes/{'AB'[k % 2]}", last=PRICE[k], ts=1.7e12 + k, venue="EBS"),
        {"payload": "json", "columns": ["last"], "topic": "quotes/", "time_field": "ts"},
        {"features": ["log_return(last)"], "streams": ["A", "B"], "sequence_numbers": False},
    ),
    "numbers without a topic": (
        lambda k: [np.array([SIGNED[k], PRICE[k]]).tobytes()],
        {"payload": "float64", "columns": ["c0", "c1"], "topic": None},
        {"features": ["c0", "diff(c1)"], "streams": ["stream"]},
    ),
    "records by name": (
        lambda k: as_json("tick/A/", v=1, values={"px": PRICE[k]}),
        {"payload": None, "columns": ["px"]},
        {"features": ["log_return(px)"], "streams": ["A"], "sequence_numbers": False},
    ),
    "records by place": (
        lambda k: as_json("tick/A/", v=1, values=[SIGNED[k]], seq=k + 1),
        {"payload": None, "columns": ["c0"]},
        {"features": ["c0"], "streams": ["A"], "sequence_numbers": True},
    ),
}


@pytest.mark.parametrize("form", FEEDS)
def test_a_feed_of_another_program_is_recognised(cli, tmp_path, form):
    message, keys, facts = FEEDS[form]
    out = tmp_path / "c.toml"
    with sending(message) as endpoint:
        done = cli("init", endpoint, "--out", out, "--wait", 60, "--json")
    assert done.code == 0, done.err
    record = done.json()
    assert {key: record[key] for key in keys | facts} == keys | facts
    feed = flatten(resolve({}, out).config)
    assert feed["connect"] == (endpoint,)
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in keys.items() if v is not None}
    assert {key: feed[key] for key in given} == given
    assert cli("check-config", out).code == 0


@pytest.mark.slow
def test_a_publisher_s_columns_come_from_its_heartbeats(cli, tmp_path):
    out = tmp_path / "c.toml"
    with Publisher(ANY_PORT, columns=("bid", "ask"), heartbeats=False) as publisher:
        values = np.column_stack([PRICE, PRICE + 1e-4])

        def work():
            publisher.wait_for_subscribers(1, WAIT_S)
            publisher.publish("EURUSD", 10**18 + np.arange(COUNT), values)
            publisher.end()

        thread = threading.Thread(target=work)
        thread.start()
        done = cli("init", publisher.endpoint, "--out", out, "--wait", 60)
        thread.join()
    assert done.code == 0, done.err
    assert "Streams: EURUSD" in done.err
    assert "sequence numbers" in done.err
    config = resolve({}, out).config
    assert config.feed.columns == ("bid", "ask")
    assert config.stream.features == ("log_return(mid(bid, ask))",)
    run = shlex.split(done.out.splitlines()[1])
    assert run == ["stream-lstm", "run", "--config", str(out), "--learn"]


REFUSED = {
    "text": (lambda k: [b"EURUSD", b"one two"], "it looks like text of 2 fields, without"),
    "no numbers": (lambda k: as_json("A", px="x"), "it looks like JSON without numbers"),
    "a pickle": (lambda k: [b"A", pickle.dumps(k)], "are never read; publish JSON or msgpack"),
    "predictions": (lambda k: as_json("prediction/A/", v=1, n=k), "that the daemon connects to"),
    "three frames": (lambda k: [b"A", b"B", b"C"], "it looks like text of 1 field"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_messages_that_cannot_be_read_are_quoted_with_what_to_do(cli, tmp_path, form):
    message, words = REFUSED[form]
    out = tmp_path / "c.toml"
    with sending(message) as endpoint:
        done = cli("init", endpoint, "--out", out, "--wait", 60)
    assert done.code == 65
    assert endpoint in done.err
    assert words in done.err
    assert not out.exists()


def test_a_silent_endpoint_is_named_with_what_to_check(cli, tmp_path):
    with Publisher(ANY_PORT, columns=("x",), heartbeats=False) as publisher:
        done = cli("init", publisher.endpoint, "--out", tmp_path / "c.toml", "--wait", 0.1)
        assert done.code == 69
        assert publisher.endpoint in done.err
        assert "check that the publisher runs" in done.err
    assert cli("init", "tcp://nonsense", "--out", tmp_path / "c.toml").code == 69
    assert not (tmp_path / "c.toml").exists()
