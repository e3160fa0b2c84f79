"""Files of many streams, and streams in tables, from the command line."""

import math

import numpy as np
import pyarrow.parquet
import pytest

from stream_lstm.core.many import Many

SMALL = ("--hidden", 4, "--window", 20, "--bptt", 10, "--feature", "log_return(price)")
ALIKE = ("streams", "elements", "ticks", "predictions", "labels", "digest", "ece", "auc")


def write_prices(path, ticks=900, streams=7, bad=()):
    """Prices of several streams in disorder; line numbers in `bad` have a negative one."""
    rng = np.random.default_rng(2)
    prices = np.exp(rng.normal(0, 1e-2, ticks))
    names = [f"s{k}" for k in rng.integers(0, streams, ticks)]
    prices[np.array(bad, int) - 2] = -1.0
    rows = zip(names, prices.tolist(), strict=True)
    lines = ["symbol,price", *(f"{name},{price!r}" for name, price in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def prices(tmp_path):
    return write_prices(tmp_path / "prices.csv")


def summary(done):
    assert done.code == 0, done.err
    return done.json()


def test_columns_of_streams_give_what_each_gives_alone(cli, prices, tmp_path, monkeypatch):
    by_column = ("--stream-column", "symbol", *SMALL, "--json")
    told = {}
    for kind in ("columns", "alone"):
        out = tmp_path / f"{kind}.parquet"
        told[kind] = summary(cli("replay", prices, *by_column, "--out", out))
        monkeypatch.setattr(Many, "arrive", in_runs)
    one, two = told["columns"], told["alone"]
    assert {key: one[key] for key in ALIKE} == {key: two[key] for key in ALIKE}
    assert one["evidence"] == two["evidence"]
    assert one["streams"] == 7
    assert one["predictions"] > 60
    assert one["stream_column"] == "symbol"
    files = [pyarrow.parquet.read_table(tmp_path / f"{kind}.parquet") for kind in told]
    order = [("stream", "ascending"), ("n", "ascending")]
    assert files[0].sort_by(order).equals(files[1].sort_by(order))


def in_runs(many, arrivals):
    many._in_runs(arrivals, arrivals.streams)


def test_a_replay_learns_from_many_streams(cli, prices):
    told = summary(cli("replay", prices, "--stream-column", "symbol", *SMALL, "--learn", "--json"))
    assert told["updates"] == told["labels"] > 60
    assert math.isfinite(told["log_loss"])


@pytest.mark.parametrize("flags", [(), ("--learn",)])
def test_a_tick_that_is_not_let_in_is_named_by_its_line(cli, tmp_path, flags):
    path = write_prices(tmp_path / "prices.csv", bad=(400,))
    by_column = ("--stream-column", "symbol", *SMALL, *flags)
    done = cli("replay", path, *by_column)
    assert done.code == 65
    assert f"{path}:400: feature log_return(price) is nan" in done.err
    done = cli("replay", path, *by_column, "--on-bad-row", "skip", "--json")
    assert summary(done)["refused_ticks"] == 1
    assert "prices.csv:400)" in done.err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--stream-column", "symbl"), "did you mean 'symbol'"),
        (("--stream-column", "symbol", "--stream", "a"), "--stream is of one stream"),
        (("--stream-column", "symbol", "--state-check"), "--state-check is of one stream"),
    ],
)
def test_what_does_not_go_together_is_said(cli, prices, flags, says):
    done = cli("replay", prices, *SMALL, *flags)
    assert done.code == 2
    assert says in done.err


def test_more_streams_than_a_session_holds_are_said(cli, prices, monkeypatch):
    from stream_lstm.core.session import Session

    monkeypatch.setitem(Session.__init__.__kwdefaults__, "limit", 3)
    done = cli("replay", prices, "--stream-column", "symbol", *SMALL)
    assert done.code == 65
    assert "3 streams are the most" in done.err


def test_table_is_taken_for_one_more_release_and_warned_about_once(cli, prices):
    plain, flagged = (cli("replay", prices, *SMALL, *f, "--json") for f in ((), ("--table",)))
    assert summary(plain)["digest"] == summary(flagged)["digest"]
    assert plain.err.count("table does nothing") == 0
    assert flagged.err.count("table does nothing") == 1
