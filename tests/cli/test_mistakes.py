"""Mistakes on the command line: a code, one sentence with what to do, and nothing written."""

from __future__ import annotations

import shlex

import numpy as np
import pytest

from stream_lstm.core.session import Session
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.synthetic import SOURCES

from .lines import ANY_PORT, write_csv

REPLAY = "replay quotes.csv --feature bid"
LABELS = f"{REPLAY} --label-column ask"
MANY = "replay many.csv --feature x --stream-column symbol"
FILES = "replay quotes.csv b=quotes.csv --feature bid"
DOCTOR = "doctor x.csv --feature x"
PUBLISH = "publish quotes.csv --bind tcp://127.0.0.1:*"
NOWHERE = "run --connect tcp://127.0.0.1:1"
RUN = f"{NOWHERE} --feature x"
TRAIN = "train x.csv --feature x --window 20 --bptt 5 --out w.safetensors"
PROVE = "--feature diff(x) --hidden 3 --window 20 --bptt 5"

MISTAKES = {
    2: (
        ("replay quotes.csv", "time_ns, bid, ask, venue", "--feature 'log_return(mid(bid, ask))'"),
        ("replay quotes.csv --feature diff(bidd)", "no column 'bidd'", "did you mean 'bid'"),
        ("replay quotes.csv --feature diff(bid", "not closed", "\n  diff(bid\n      ^"),
        ("replay quotes.csv --feature elapsed()", "--time COLUMN"),
        ("replay quotes.csv --feature 'mean(bid, 30s)'", "the feature mean(bid, 30s) needs times"),
        ("replay quotes.csv --feature 'of(quote, bid)'", "unknown stream quote;", "'quotes'"),
        ("replay ES=quotes.csv NQ=quotes.csv --feature 'of(NG, bid)'", "'NQ'? (there are ES, NQ)"),
        (f"{NOWHERE} --stream ES --feature 'age(NQ)'", "unknown stream NQ (there are ES)"),
        ("replay odd.csv --feature close-price", 'write "close-price" in double quotes'),
        ("replay quotes.csv --feature 'min(bid, 200000)'", "window of min(x, window)", "3.0"),
        ("replay quotes.csv --feature bid --pause 1h", "pause = '1h'", "--time COLUMN"),
        (f"{REPLAY} --pause 1w", "'1w' is not a duration", "90s"),
        (f"{REPLAY} --holidays 2024-13-01", "'2024-13-01' is not a date"),
        (f"{REPLAY} --time when", "--time: ", "no column 'when'"),
        (f"{REPLAY} --time-unit days", "'days'", "auto, ns"),
        (f"{REPLAY} --on-bad-row x", "fail or skip"),
        (f"{REPLAY} --labels external", "--label-column", "stream-lstm run"),
        (f"{REPLAY} --label-delay 3", "--label-column"),
        (f"{REPLAY} --label-column asks", "'asks'", "did you mean 'ask'"),
        (f"{LABELS} --label-delay '3 days'", "30s"),
        (f"{LABELS} --label-delay 3s", "--time"),
        (f"{LABELS} --labels series", "--labels"),
        (f"{REPLAY} --horizon 0", "horizon=0", "labels=external"),
        (f"{REPLAY} --learning-rate 0", "learning_rate = 0.0"),
        (f"{REPLAY} --learn --bptt 500", "bptt=500", "window=100"),
        (f"{REPLAY} --stream a/b", "'a/b'", "--stream"),
        (f"{REPLAY} --out x.txt", ".parquet, .csv, .jsonl"),
        (f"{REPLAY} --out quotes.csv", "is the file that is read"),
        (f"{REPLAY} --trace x.csv", "x.csv", ".json"),
        (f"{REPLAY} --save-weights x.npz", ".safetensors"),
        (f"{REPLAY} --spreadsheet", "--out"),
        ("replay many.csv --feature x --stream-column symbl", "did you mean 'symbol'"),
        (f"{MANY} --stream a", "--stream is for one stream"),
        (f"{FILES} --stream a", "--stream is for one stream: replay one file"),
        (f"{FILES} --store s.db", "--store is for one stream"),
        (f"{FILES} --label-column ask", "--label-column is for one stream"),
        (f"{FILES} --synthetic s1", "--synthetic is for one stream"),
        (f"{FILES} --stream-column venue", "--stream-column is for one file"),
        (f"{FILES} --sharing per-stream --save-weights w", "writes one set of weights"),
        (f"{FILES} --time when", "--time: ", "quotes.csv has no column 'when'"),
        ("replay quotes.csv x.csv --feature x", "x.csv has no column", "--time COLUMN"),
        ("replay quotes.csv b=quotes.csv --feature z", "quotes.csv has no column 'z'"),
        ("replay quotes.csv b=quotes.csv", "--feature 'log_return(mid(bid, ask))'"),
        ("replay quotes.csv quotes.csv --feature bid", "both called 'quotes'", "NAME=quotes.csv"),
        ("replay a=x.csv --stream b --feature x", "--stream and a="),
        (f"{MANY} --state-check", "--state-check is for one stream"),
        (f"{MANY} --sharing per-stream --save-weights w", "writes one set of weights"),
        ("replay --synthetic s1 --feature diff(y)", "s1-ar has no column 'y' (it has x)"),
        (f"publish --synthetic s1 --columns x,y --bind {ANY_PORT}", "s1-ar has no column 'y'"),
        ("replay --synthetic s1 --limit 100 --learn --state-check", "omit --learn"),
        ("doctor x.csv", "--feature"),
        ("doctor x.csv --feature y", "no column 'y'"),
        ("doctor", "FILE or --synthetic"),
        (f"{DOCTOR} --time up2", "--time: "),
        (f"{DOCTOR} --label-column upp", "--label-column: "),
        (f"{DOCTOR} --labels external", "--label-column"),
        (f"{DOCTOR} --label-delay 3", "--label-column"),
        (f"{PUBLISH} --speed fast", "'fast'", "10x", "5000/s"),
        (f"{PUBLISH} --speed 10x", "--time COLUMN"),
        (f"{PUBLISH} --speed recorded", "--time COLUMN"),
        (f"{PUBLISH} --columns bid,last", "no column 'last'"),
        (f"{PUBLISH} --time when", "no column 'when'"),
        (f"{PUBLISH} --encoding xml", "msgpack or json"),
        (f"{PUBLISH} --on-bad-row x", "fail or skip"),
        (f"{PUBLISH} --block 0", "--block"),
        (f"{PUBLISH} --stream a/b", "'a/b'"),
        ("run --feature x", "--connect tcp://127.0.0.1:5555"),
        (NOWHERE, "--feature"),
        (f"{RUN} --columns y", "x"),
        (f"{RUN} --sharing per-stream --save-weights w", "per-stream"),
        (f"{RUN} --out x.txt", "x.txt"),
        (f"{RUN} --trace x.csv", "x.csv"),
        (f"{RUN} --payload float64", "--columns price,size"),
        (f"{RUN} --spreadsheet", "--out"),
        (f"{RUN} --watch", "add --publish tcp://127.0.0.1:5556"),
        (f"{RUN} --republish", "--store"),
        ("train x.csv --feature x --out w.npz", "the format is .safetensors"),
        (f"{TRAIN} --history h.csv", ".parquet"),
        (f"{TRAIN} --resume --overwrite", "give one of them"),
        (f"{TRAIN} --train-optimizer adamm", "did you mean 'adam'"),
        (f"{TRAIN} --validation 1.5", "validation"),
        (f"{TRAIN} --time when", "no column 'when'"),
        ("prove state --synthetic s1", "prove state needs --weights", "--save-weights"),
        ("prove causal x.csv", "--feature"),
        ("prove causal", "FILE or --synthetic"),
        (f"prove live x.csv {PROVE} --labels external", "omit labels=external"),
    ),
    65: (
        ("replay quotes.csv --feature venue", "line 2", "'EBS'"),
        (f"{DOCTOR} --limit 0", "no rows"),
        ("doctor empty.csv --feature x", "empty.csv"),
        ("doctor other.db", "other.db"),
        (f"prove causal x.csv {PROVE} --limit 15", "no prediction before a tried"),
        (f"prove live x.csv {PROVE} --limit 10", "give no prediction"),
    ),
    66: (
        ("replay quote.csv --feature bid", "did you mean 'quotes.csv'"),
        (f"{REPLAY} --weights none.safetensors", "none.safetensors"),
        ("doctor none.csv --feature x", "no such file"),
        ("publish none.csv --bind tcp://127.0.0.1:*", "none.csv"),
        (f"{TRAIN} --weights none.safetensors", "no such file"),
        ("prove causal none.csv --feature x", "none.csv"),
        ("prove live none.csv --feature x", "none.csv"),
    ),
    69: (
        ("publish quotes.csv --bind 127.0.0.1:5555", "'127.0.0.1:5555'", "tcp://ADDRESS:PORT"),
        (f"{PUBLISH} --wait-subscribers 1 --wait-timeout 0 -q", "0 of 1 subscribers"),
    ),
    74: (
        (f"{REPLAY} --out /no/where/x.csv", "there is no directory"),
        (f"{REPLAY} --trace /no/where/x.json", "/no/where/x.json"),
        (f"{REPLAY} --save-weights /no/where.safetensors", "no directory"),
        ("train x.csv --feature x --out no/w.safetensors", "there is no directory no"),
    ),
    78: (
        (f"{TRAIN} --config c.toml", "cannot be trained"),
        ("run --config others.toml", "unknown stream NG; did you mean 'NQ'? (there are ES, NQ)"),
        ("check-config others.toml", "unknown stream NG"),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("mistakes"), np.random.default_rng(3)
    (folder / "odd.csv").write_text("close-price\n1\n")
    (folder / "others.toml").write_text(
        '[stream]\nfeatures = ["of(NG, x)"]\n'
        '[feed]\nconnect = ["tcp://127.0.0.1:1"]\nstreams = ["ES", "NQ"]\n'
    )
    bid = 1.3 * np.exp(np.cumsum(rng.normal(0, 1e-4, 300)))
    times, venues = range(10**18, 10**18 + 300), ["EBS"] * 300
    write_csv(folder / "quotes.csv", time_ns=times, bid=bid, ask=bid + 1e-4, venue=venues)
    x, symbols = rng.normal(size=120), [f"s{k % 4}" for k in range(120)]
    write_csv(folder / "x.csv", x=x, up=1 * (x > 0))
    write_csv(folder / "many.csv", x=x, up=1 * (x > 0), symbol=symbols)
    (folder / "empty.csv").write_text("")
    (folder / "other.db").write_bytes(b"SQLite format 3\0" + bytes(100))
    (folder / "c.toml").write_text('[model]\nmode = "window"\n')
    return folder


@pytest.fixture
def mistaken(cli, folder, monkeypatch):
    """Run a command in the folder and expect a code, words in its one message, and no trace."""
    monkeypatch.chdir(folder)

    def run(line, code, *words):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        done = cli(*shlex.split(line))
        assert (done.code, done.out) == (code, ""), done.err
        assert all(part in done.err for part in words), done.err
        assert done.err.count("stream-lstm: ") <= 1
        assert "Traceback" not in done.err
        assert before == {path.name: path.read_bytes() for path in folder.iterdir()}

    return run


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [(line, code, words) for code, rows in MISTAKES.items() for line, *words in rows],
)
def test_a_mistake_is_one_sentence_and_an_exit_code(mistaken, line, code, words):
    mistaken(line, code, *words)


@pytest.mark.parametrize("command", ["replay", "publish --bind tcp://127.0.0.1:*"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", ["FILE or --synthetic NAME, one of them"]),
        ("x.csv --synthetic s1-ar", ["not both"]),
        ("--synthetic s4-lach", ["'s4-lach'", "did you mean 's4-latch'", *SOURCES]),
        ("--synthetic s1-ar --time t", ["--time", "no times"]),
        ("--synthetic s1-ar --series-seed -1", ["--series-seed"]),
        ("x.csv --series-seed 1", ["--series-seed", "--synthetic"]),
        ("--synthetic s1-ar --stream a/b", ["'a/b'"]),
    ],
)
def test_a_synthetic_series_is_named_in_place_of_a_file(mistaken, command, arguments, words):
    mistaken(f"{command} {arguments}", 2, *words)


def test_an_endpoint_in_use_is_named(mistaken):
    with Publisher(ANY_PORT, columns=("x",)) as other:
        mistaken(f"publish quotes.csv --bind {other.endpoint}", 69, other.endpoint)
        mistaken(f"{RUN} --hidden 2 --publish {other.endpoint}", 69, other.endpoint)


def test_external_labels_from_the_environment_need_a_column_too(mistaken, monkeypatch):
    monkeypatch.setenv("STREAM_LSTM_LABELS", "external")
    mistaken(REPLAY, 2, "--label-column")


def test_streams_beyond_the_limit_are_refused(mistaken, monkeypatch):
    monkeypatch.setitem(Session.__init__.__kwdefaults__, "limit", 3)
    mistaken(f"{MANY} --hidden 4 --window 5", 65, "3 streams are the limit")
