"""`replay` of many streams and of synthetic ones, of a bank, and with kept executables."""

import csv
import math
import os
import subprocess
import sys

import msgspec
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from stream_lstm.config import DEFAULT_BANK, build, parse_bank
from stream_lstm.core.scores import FIGURES, BestPossible
from stream_lstm.core.snapshot import fingerprint
from stream_lstm.errors import ConfigurationError, StreamLSTMError
from stream_lstm.events import End, Score, Ticks
from stream_lstm.feed import merge, reader
from stream_lstm.feed.reader import CHUNK_ROWS
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.feed.synthetic import SOURCES
from stream_lstm.records import Batch
from stream_lstm.schema import FeedConfig
from stream_lstm.serve.training import terms_of
from stream_lstm.store import executables

from ..feed.received import blocks
from .lines import ran, write_csv

SMALL = ("--hidden", 4, "--window", 20, "--bptt", 5)


def summary(done):
    assert done.code == 0, done.err
    return done.json()


# ---- many streams -----------------------------------------------------------------------------

PRICE = (*SMALL, "--feature", "log_return(price)")
BY_COLUMN = ("--stream-column", "symbol", *PRICE)


def write_prices(path, ticks=900, streams=7, bad=()):
    """Prices of several streams in disorder; line numbers in `bad` have a negative one."""
    rng = np.random.default_rng(2)
    prices = np.exp(rng.normal(0, 1e-2, ticks))
    prices[np.array(bad, int) - 2] = -1.0
    symbols = [f"s{k}" for k in rng.integers(0, streams, ticks)]
    return write_csv(path, symbol=symbols, price=prices)


@pytest.fixture
def prices(tmp_path):
    return write_prices(tmp_path / "prices.csv")


def test_a_replay_learns_from_many_streams(cli, prices, tmp_path):
    out = tmp_path / "out.parquet"
    found = summary(cli("replay", prices, *BY_COLUMN, "--learn", "--out", out, "--json"))
    assert (found["streams"], found["stream_column"]) == (7, "symbol")
    assert found["updates"] == found["labels"] > 60
    assert math.isfinite(found["log_loss"])
    rows = pyarrow.parquet.read_table(out)
    assert len(rows) == found["predictions"]
    assert set(rows["stream"].to_pylist()) == {f"s{k}" for k in range(7)}


@pytest.mark.parametrize("flags", [(), ("--learn",)])
def test_a_tick_that_is_refused_is_named_by_its_line(cli, tmp_path, flags):
    path = write_prices(tmp_path / "prices.csv", bad=(400,))
    done = cli("replay", path, *BY_COLUMN, *flags)
    assert done.code == 65
    assert f"{path}:400: feature log_return(price) is nan" in done.err
    done = cli("replay", path, *BY_COLUMN, *flags, "--on-bad-row", "skip", "--json")
    assert summary(done)["refused_ticks"] == 1
    assert "prices.csv:400)" in done.err


def test_table_is_accepted_for_one_more_release_and_warned_about_once(cli, prices):
    plain, flagged = (cli("replay", prices, *BY_COLUMN, *f, "--json") for f in ((), ("--table",)))
    assert summary(plain)["digest"] == summary(flagged)["digest"]
    assert plain.err.count("table has no effect") == 0
    assert flagged.err.count("table has no effect") == 1


# ---- many files -------------------------------------------------------------------------------


def write_series(folder, seeds=(1, 2), bad=()):
    """Prices of a stream a file, and all of them by time in one file with a column of names."""
    parts = []
    for seed in seeds:
        draws = np.random.default_rng(seed)
        times = 1_700_000_000 + draws.integers(0, 400, 500 + 100 * seed).cumsum() // 400
        price = np.exp(draws.normal(0, 1e-2, len(times)))
        price[list(bad)] = -1.0
        part = pd.DataFrame({"time": times, "price": price}).assign(symbol=f"s{seed}")
        parts.append(part)
    whole = pd.concat(parts).sort_values("time", kind="stable")
    for part, name in zip((*parts, whole), ("s1.csv.gz", "b.parquet", "all.parquet"), strict=True):
        write = part.to_csv if "csv" in name else part.to_parquet
        write(folder / name, index=False)
    return folder / "s1.csv.gz", f"s2={folder / 'b.parquet'}", folder / "all.parquet"


@pytest.mark.parametrize("flags", [(), ("--learn",)])
def test_files_are_replayed_as_one_file_of_all_rows_by_time(cli, tmp_path, monkeypatch, flags):
    one, two, whole = write_series(tmp_path)
    flags = (*PRICE, *flags, "--json")
    wanted = summary(cli("replay", whole, "--time", "time", "--stream-column", "symbol", *flags))
    found = summary(cli("replay", one, two, *flags))
    assert found["files"] == {"s1": str(one), "s2": str(tmp_path / "b.parquet")}
    assert found["predictions"] > 100
    assert {"stream", "stream_column"}.isdisjoint(found)
    monkeypatch.setattr(reader, "CHUNK_ROWS", 17)
    monkeypatch.setattr(merge, "MIN_CHUNK_ROWS", 1)
    cut = summary(cli("replay", one, two, "--time", "time", *flags))
    for key in ("digest", "ticks", "elements", "log_loss", "accuracy"):
        assert wanted[key] == found[key] == cut[key]


def test_the_order_of_the_files_counts_at_equal_times_alone(cli, tmp_path):
    one, two, _ = write_series(tmp_path)
    there, back, learned, reverse = (
        summary(cli("replay", *files, *PRICE, *flags, "--json"))["digest"]
        for flags in ((), ("--learn",))
        for files in ((one, two), (two, one))
    )
    assert there == back != learned != reverse


def test_messages_name_the_file_of_a_row(cli, tmp_path):
    one, two, _ = write_series(tmp_path, bad=(400,))
    done = cli("replay", two, one, *PRICE)
    assert done.code == 65
    assert "b.parquet:401: feature log_return(price) is nan" in done.err
    done = cli("replay", one, two, *PRICE, "--on-bad-row", "skip", "--json")
    assert summary(done)["refused_ticks"] == 2
    assert "b.parquet:401)" in done.err
    late = write_csv(tmp_path / "late.csv", time=[*range(1, 40), 5], price=[1] * 40)
    assert f"{one}:402: feature log_return(price) is nan" in cli("replay", one, late, *PRICE).err
    done = cli("replay", one, late, *PRICE, "--on-bad-row", "skip")
    assert f"{late}:41: the time goes back" in done.err
    assert cli("replay", one, two, *PRICE, "--out", one).code == 2


def test_one_file_may_be_named_and_a_file_with_an_equals_sign_is_a_file(cli, prices, tmp_path):
    assert summary(cli("replay", f"ES={prices}", *PRICE, "--as-is", "--json"))["stream"] == "ES"
    whole = tmp_path / "day=1.csv"
    whole.write_bytes(prices.read_bytes())
    assert (
        summary(cli("replay", whole, *PRICE, "--as-is", "--stream", "x", "--json"))["stream"]
        == "x"
    )


# ---- synthetic streams, and the best possible forecast ----------------------------------------


def test_the_best_is_scored_on_the_labels_of_the_model(cli, tmp_path):
    out = tmp_path / "scores.csv"
    line = ("replay", "--synthetic", "s4-latch", "--series-seed", 3, "--limit", 5000, *SMALL)
    found = summary(cli(*line, "--learn", "--out", out, "--json"))
    assert (found["stream"], found["ticks"], found["updates"]) == ("s4-latch", 5000, 498)
    assert found["series"] == {"name": "s4-latch", "seed": 3}

    source = SOURCES["s4-latch"](3)
    values = source.block(5000)
    at = np.arange(20, 5000, 10)  # elements predicted from; row n is element n + 1
    label, best = values[at, 0] > 0, source.best(values)[at - 1]
    query = best != 0.5
    with out.open() as file:
        p = np.array([float(row["p"]) for row in csv.DictReader(file) if row["label"]])
    assert found["labels"] == len(p) == len(at)
    assert found["best_accuracy"] == pytest.approx(np.mean((best > 0.5) == label))
    losses = -np.log(np.where(label, best, 1 - best))
    assert found["best_log_loss"] == pytest.approx(losses.mean())
    assert found["query_labels"] == query.sum() > 20
    right = ((p > 0.5) == label)[query]
    assert found["query_accuracy"] == pytest.approx(right.mean())
    assert found["best_query_accuracy"] == pytest.approx(((best > 0.5) == label)[query].mean())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--feature", "diff(x)"),
        ("--feature", "x", "--feature", "diff(x)"),
        ("--horizon", 2),
        ("--window", 600, "--bptt", 5),
    ],
)
def test_of_other_labels_nothing_best_is_claimed(cli, arguments):
    line = ("replay", "--synthetic", "s1-ar", "--limit", 500, *SMALL, *arguments, "--json")
    found = summary(cli(*line))
    assert {found[key] for key in FIGURES} == {None}


def test_where_nothing_can_be_known_there_are_no_queries(cli):
    found = cli("replay", "--synthetic", "s0-garch", "--limit", 500, *SMALL, "--json").json()
    assert found["best_log_loss"] == pytest.approx(np.log(2))
    assert (found["query_labels"], found["query_accuracy"]) == (0, None)


@pytest.mark.parametrize(("name", "lines"), [("s6-echo", 1), ("s1-ar", 0)])
def test_people_read_the_best_too(cli, name, lines):
    done = cli("replay", "--synthetic", name, "--limit", 2000, *SMALL)
    assert done.code == 0
    assert "best possible on these labels: accuracy 0." in done.out
    assert done.out.count("at best 0.") == lines


def test_a_file_of_the_same_values_gives_the_same_predictions(cli, tmp_path):
    # the digest holds the name
    file = write_csv(tmp_path / "s1-ar.csv", x=SOURCES["s1-ar"](0).block(500)[:, 0])
    from_file = cli("replay", file, "--feature", "x", *SMALL, "--json").json()
    drawn = cli("replay", "--synthetic", "S1", "--limit", 500, *SMALL, "--json").json()
    assert from_file["digest"] == drawn["digest"]
    assert drawn["series"] == {"name": "s1-ar", "seed": 0}
    assert not {"series", *FIGURES} & set(from_file)
    latch = cli("replay", "--synthetic", "s4l", "--limit", 50, *SMALL, "--json")
    assert latch.json()["stream"] == "s4l-latch"


def test_it_is_published_whole_and_then_its_end(cli, tmp_path):
    endpoint, count = f"ipc://{tmp_path}/feed", CHUNK_ROWS + 100
    with Subscriber(FeedConfig(connect=(endpoint,), columns=("x",))) as subscriber:
        line = ("publish", "--synthetic", "s2-regime", "--series-seed", 5, "--limit", count)
        more = ("--bind", endpoint, "--block", 5000, "--wait-subscribers", 1, "--json")
        sent = summary(cli(*line, *more))
        assert (sent["stream"], sent["ticks"]) == ("s2-regime", count)
        events = []
        while not any(isinstance(event, End) for event in events):
            came = subscriber.receive(20.0)
            assert came
            events += blocks(came)
    values = np.concatenate([event.values for event in events if isinstance(event, Ticks)])
    assert values.tobytes() == SOURCES["s2-regime"](5).block(count).tobytes()


def test_another_series_is_not_taken_for_it():
    best = BestPossible(SOURCES["s1-ar"](1))
    xs = SOURCES["s1-ar"](2).block(50)[1:, 0]
    scores = [Score("s", n, 0, 0.5, int(x > 0), 0.7, 0.5, 0.5) for n, x in enumerate(xs, 1)]
    best.add(Batch.of(Score, scores))
    with pytest.raises(StreamLSTMError, match="not the one"):
        best.figures(build({"features": ["x"]}), {"ticks": 50, "elements": 50})


# ---- a bank -----------------------------------------------------------------------------------

GOOD = """
[[member]]
kind = "network"
name = "small"
hidden = 2
gradient = "snap1"

[[member]]
kind = "table"
name = "rate"
"""


@pytest.fixture
def x(tmp_path):
    return write_csv(tmp_path / "x.csv", x=np.random.default_rng(0).normal(size=80))


def with_bank(cli, x, bank, *more, learn=("--learn",)):
    small = ("--feature", "x", "--hidden", 2, "--window", 20, "--bptt", 5)
    return cli("replay", x, *small, *learn, "--bank", bank, *more)


@pytest.mark.slow
def test_a_bank_from_a_file_is_mixed_and_shown(cli, x, tmp_path):
    file = tmp_path / "bank.toml"
    file.write_text(GOOD)
    found = with_bank(cli, x, file, "--json").json()
    assert list(found["experts"]) == ["small", "rate"]
    weights = [figures["weight"] for figures in found["experts"].values()]
    assert sum(weights) == pytest.approx(1)
    assert min(weights) > 0
    losses = [figures["log_loss"] for figures in found["experts"].values()]
    assert found["log_loss"] <= min(losses) + np.log(2) / found["labels"] + 1e-4
    table = with_bank(cli, x, file)
    assert table.code == 0
    assert "\nsmall " in table.out
    assert "\nrate " in table.out
    assert "experts" not in with_bank(cli, x, "none", "--json", learn=()).json()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[member]]\nkind = "netwrok"\nname = "a"\n', "'netwrok'; choose one of network"),
        ('[[member]]\nname = "a"\n', "member 1 ('a'): kind = None"),
        ('[[member]]\nkind = "table"\nname = "a"\nfaed = 3\n', "no key 'faed'; did you mean 'fad"),
        ('[[member]]\nkind = "table"\nname = "a"\nsigns = 99\n', "member 1 ('a')"),
        ('[[member]]\nkind = "table"\n', "member 1: Object missing required field `name`"),
        (GOOD + GOOD, "not 'small'"),
        ("member = 3\n", "[[member]]"),
        ("", "[[member]]"),
        ("[[member]\n", "is not valid TOML"),
        (GOOD.replace("hidden", "layers"), "member 'small': gradient = 'snap1' is defined for on"),
    ],
)
def test_an_invalid_bank_is_refused_by_name(cli, x, tmp_path, text, words):
    file = tmp_path / "bank.toml"
    file.write_text(text)
    done = with_bank(cli, x, file)
    assert done.code in (2, 78), "a configuration is at fault"
    assert words in done.err.replace("\n", " ")
    assert "Traceback" not in done.err


def test_a_bank_that_is_missing_or_cannot_be_is_refused(cli, x, tmp_path):
    file, weights = tmp_path / "bank.toml", tmp_path / "w.safetensors"
    file.write_text(GOOD)
    assert with_bank(cli, x, tmp_path / "none.toml").code == 66
    without = with_bank(cli, x, file, learn=())
    assert without.code in (2, 78)
    for flag, words in (("--save-weights", "save one"), ("--weights", "start from weights")):
        refused = with_bank(cli, x, file, flag, weights)
        assert (refused.code, f"{words} with --bank none" in refused.err) == (2, True)
    assert not weights.exists()


def test_the_default_bank_can_be_written_as_a_file():
    tables = msgspec.to_builtins(DEFAULT_BANK)
    assert parse_bank({"member": tables}) == DEFAULT_BANK
    for table in tables:
        with pytest.raises(ConfigurationError):
            parse_bank({"member": [table, table]})


# ---- kept executables -------------------------------------------------------------------------

LINE = ("replay", "--synthetic", "s1-ar", "--limit", "300", "--feature", "x", "--hidden", "2")


def digest(*arguments, **variables) -> tuple[str, str]:
    """Of a replay in a process of its own, which JAX's cache belongs to; and its log."""
    hidden = "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "HOME", "LOCALAPPDATA", "USERPROFILE"
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    done = ran(*LINE, "--learn", "--json", *arguments, env=environment | variables)
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout)["digest"], done.stderr


def entries(folder) -> dict[str, bytes]:
    """The contents of the executables in a folder for caches."""
    (kept,) = folder.iterdir()
    found = {path.name: path.read_bytes() for path in kept.glob("*-cache")}
    assert all((kept / f"{name}.sha256").exists() for name in found)
    return found


@pytest.mark.slow
def test_a_second_start_compiles_nothing_and_altered_executables_are_not_run(tmp_path):
    folder = tmp_path / "stream-lstm"
    compiled, told = digest(XDG_CACHE_HOME=str(tmp_path))
    assert "compiling (about 2 s; kept for the next start)" in told
    kept = entries(folder)
    assert kept
    assert {path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())} == {0o700}
    again, told = digest(XDG_CACHE_HOME=str(tmp_path))
    assert (again, entries(folder)) == (compiled, kept), "the second start compiled something"
    assert "compiling" not in told
    (place,) = folder.iterdir()
    for k, (name, data) in enumerate(kept.items()):
        half = len(data) // 2
        altered = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
        (place / name).write_bytes((altered, data[:half], b"")[k % 3])
    again, told = digest(XDG_CACHE_HOME=str(tmp_path))
    assert again == compiled
    assert "compiling" in told
    assert entries(folder).keys() == kept.keys()


@pytest.mark.slow
def test_without_a_place_of_its_own_it_starts_and_keeps_nothing(tmp_path):
    compiled, told = digest()
    assert "not kept for the next start: --compile-cache" in told
    readable = tmp_path / "stream-lstm"
    readable.mkdir()
    readable.chmod(0o777)
    for place in (tmp_path, tmp_path / "file", "relative"):
        (tmp_path / "file").write_text("")
        again, told = digest(XDG_CACHE_HOME=str(place))
        assert (again, "not kept" in told) == (compiled, True)
    assert list(readable.iterdir()) == []
    off = digest("--compile-cache", "none", XDG_CACHE_HOME=str(tmp_path / "more"))
    assert off[0] == compiled
    assert not (tmp_path / "more").exists()


LIBRARY = """
import os, sys
import jax
if len(sys.argv) > 1:
    jax.config.update("jax_compilation_cache_dir", sys.argv[1])
import stream_lstm
from stream_lstm.store import executables
calls, check = [], executables._check
executables._check = lambda folder: (calls.append(folder), check(folder))
for _ in range(3):
    stream_lstm.Predictor, stream_lstm.Session
print(len(calls), jax.config.jax_compilation_cache_dir)
"""


@pytest.mark.parametrize("given", [(), ("elsewhere",)])
def test_the_library_looks_once_and_leaves_a_folder_that_the_user_gave_to_jax(tmp_path, given):
    hidden = "JAX_COMPILATION_CACHE_DIR"
    environment = {key: value for key, value in os.environ.items() if key != hidden}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    places = [str(tmp_path / name) for name in given]
    line = [sys.executable, "-c", LIBRARY, *places]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    calls, place = done.stdout.split()
    assert int(calls) == (0 if given else 1)
    assert place == places[0] if given else place.startswith(str(tmp_path / "stream-lstm"))


def test_the_oldest_executables_above_the_limit_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(executables, "MAX_BYTES", 25)
    for k in range(4):
        path = tmp_path / f"{k}-cache"
        path.write_bytes(bytes([k]) * 10)
        os.utime(path, (k, k))
        if k < 3:
            executables._write(executables._seal_of(path), executables._digest(path))
    executables._check(tmp_path)
    assert {path.name for path in executables._executables(tmp_path)} == {"1-cache", "2-cache"}
    assert {path.name for path in tmp_path.iterdir() if path.suffix} == {
        "1-cache.sha256",
        "2-cache.sha256",
    }


@pytest.mark.parametrize("rows", ["1\n2\nbad\n4\n", "1\n2\n"])
def test_the_first_rows_are_looked_at_before_anything_is_compiled(
    cli, tmp_path, monkeypatch, rows
):
    order = []

    def stop(*_):
        order.append("compile")
        raise ZeroDivisionError

    monkeypatch.setattr("stream_lstm.core.session.Engine", stop)
    monkeypatch.setattr("stream_lstm.cli.replay.warn", order.append)
    (tmp_path / "a.csv").write_text("x\n" + rows)
    line = "replay", tmp_path / "a.csv", "--feature", "x", "--hidden", "2"
    if "bad" in rows:
        done = cli(*line)
        assert (done.code, order) == (65, [])
        assert "a.csv, line 4: column" in done.err
        return
    with pytest.raises(ZeroDivisionError):
        cli(*line)
    assert "2 rows, and the first prediction comes after 100" in order[-2]
    assert order[-1] == "compile"


def test_a_cache_that_cannot_be_made_is_refused_and_no_state_depends_on_its_place(cli, tmp_path):
    (tmp_path / "file").write_text("")
    done = cli(*LINE, "--compile-cache", tmp_path / "file" / "cache")
    assert done.code == 74
    assert "cannot keep executables in" in done.err
    plain, there = (build({"features": ["x"], "compile_cache": c}) for c in (None, "somewhere"))
    assert fingerprint(there, ("x",)) == fingerprint(plain, ("x",))
    assert terms_of(there, []) == terms_of(plain, [])
