"""From history to live with one predictor: files, frames and feeds, all to the same bits."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import datetime
import itertools
import json
import os
import pickle
import pickletools
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm import (
    ConfigurationError,
    DataError,
    InputWarning,
    Predictor,
    Publisher,
    replay_frame,
)
from stream_lstm.cli.main import main
from stream_lstm.errors import InputMissingError, OutputError, SnapshotError, UsageError
from stream_lstm.interop.river import ExampleClassifier
from stream_lstm.store.weights import load_scaler, load_weights

SMALL = {"hidden": 4, "window": 12, "stride": 3, "bptt": 5}
FEATURE = "log_return(price)"
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
PRICES = 100 * np.exp(np.cumsum(np.random.default_rng(5).normal(size=200)) * 1e-3)
TIMES = START + np.arange(200) * SECOND


def table(first: int = 0, last: int = 200) -> pa.Table:
    return pa.table({"at": TIMES[first:last], "price": PRICES[first:last]})


def stepped(predictor: Predictor, first: int, last: int) -> list:
    ticks = zip(PRICES[first:last].tolist(), TIMES[first:last].tolist(), strict=True)
    made = [predictor.step([price], t_ns) for price, t_ns in ticks]
    return [one for one in made if one is not None]


def state(predictor: Predictor) -> tuple:
    return predictor.snapshot(), predictor.last_update, predictor.last_score


# ---- frames -------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["still", "learning"])
def pair(request):
    """Two predictors of equal settings, and the snapshot of both before any tick."""
    one, two = (Predictor(FEATURE, learn=request.param, **SMALL) for _ in range(2))
    return one, two, one.snapshot()


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 200), max_size=3), kinds=st.lists(st.integers(0, 2)))
def test_any_mix_of_replay_frames_and_steps_is_one_series(pair, cuts, kinds):
    mixed, plain, empty = pair
    for predictor in (mixed, plain):
        predictor.restore(empty)
        predictor.last_update = predictor.last_score = None
    wanted, found = stepped(plain, 0, 200), []
    edges = [0, *sorted(cuts), 200]
    for k, (first, last) in enumerate(itertools.pairwise(edges)):
        kind = kinds[k] if k < len(kinds) else 0
        if kind == 0 or first == last:
            found += [(one.n, one.p) for one in stepped(mixed, first, last)]
        elif kind == 1:
            made = mixed.step_frame(table(first, last), time="at", time_unit="ns")
            found += [(one.n, one.p) for one in made]
        else:
            rows = mixed.replay(table(first, last), time="at", time_unit="ns").table
            found += zip(rows["n"].to_pylist(), rows["p"].to_pylist(), strict=True)
    assert found == [(one.n, one.p) for one in wanted]
    assert state(mixed) == state(plain)


def test_the_predictor_of_a_replayed_frame_continues():
    replayed = replay_frame(table(0, 150), FEATURE, time="at", time_unit="ns", learn=True, **SMALL)
    other = Predictor(FEATURE, learn=True, **SMALL)
    stepped(other, 0, 150)
    assert stepped(replayed.predictor, 150, 200) == stepped(other, 150, 200)
    assert state(replayed.predictor) == state(other)


def test_a_replay_that_fails_changes_nothing():
    predictor = Predictor("x", learn=True, **SMALL)
    predictor.replay({"x": PRICES[:60]})
    before = state(predictor)
    bad = PRICES[:60].copy()
    bad[55] = np.nan
    for call in (predictor.replay, predictor.step_frame):
        with pytest.raises(DataError, match=r"row 55 \(counted from 0\): .*skip_bad=True"):
            call({"x": bad})
        assert state(predictor) == before
    assert predictor.replay({"x": bad}, skip_bad=True).skipped == 1


def test_an_empty_frame_of_a_loop_has_no_predictions_and_an_empty_replay_is_a_mistake():
    predictor = Predictor("x", **SMALL)
    assert predictor.step_frame({"x": np.zeros(0)}) == []
    with pytest.raises(DataError, match="no rows"):
        predictor.replay({"x": np.zeros(0)})


def test_old_rows_warn_once_and_at_the_line_of_the_caller():
    predictor = Predictor("price", **SMALL)
    with pytest.warns(InputWarning, match=r"row 1 \(counted from 0\)") as caught:
        predictor.replay(table().take(pa.array([5, 4, 6, 3])), time="at", time_unit="ns")
    assert [one.filename for one in caught] == [__file__]
    predictor.replay(table(0, 2), time="at", time_unit="ns")  # no second warning
    other = Predictor("price", **SMALL)
    stepped(other, 10, 20)
    with pytest.warns(InputWarning, match="the tick is taken although") as caught:
        other.replay(table(0, 5), time="at", time_unit="ns")  # before the ticks of the steps
    assert len(caught) == 1


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_times_come_back_as_timestamps_of_their_zone(zone):
    at = pd.date_range("2026-01-01", periods=200, freq="s", tz=zone)
    frame = pd.DataFrame({"price": PRICES, "at": at})
    found = replay_frame(frame, FEATURE, time="at", **SMALL).table
    times = found.to_pandas()["time"]
    assert times.dtype == f"datetime64[ns, {zone}]" if zone else times.dtype == "datetime64[ns]"
    n = found["n"].to_numpy()
    assert (times.to_numpy() == frame["at"].iloc[n].to_numpy()).all()
    assert "time" not in replay_frame(frame, FEATURE, **SMALL).table.column_names


def test_an_arrow_reader_is_read_batch_by_batch():
    reader = pa.RecordBatchReader.from_batches(table().schema, table().to_batches(max_chunksize=7))
    found = Predictor(FEATURE, **SMALL).replay(reader, time="at", time_unit="ns")
    assert found.table == replay_frame(table(), FEATURE, time="at", time_unit="ns", **SMALL).table


def test_polars_frames_are_read_and_lazy_ones_in_batches():
    pl = pytest.importorskip("polars", reason="Polars is not installed")
    wanted = replay_frame(table(), FEATURE, time="at", time_unit="ns", **SMALL)
    at = pl.from_epoch(pl.Series("at", TIMES), "ns").dt.replace_time_zone("UTC")
    frame = pl.DataFrame({"at": at.dt.convert_time_zone("Asia/Tokyo"), "price": PRICES, "y": "a"})
    for one in (frame, frame.lazy(), frame.lazy().filter(pl.col("price") > 0)):
        found = replay_frame(one, FEATURE, time="at", **SMALL)
        assert found.summary["digest"] == wanted.summary["digest"]
        times = pl.from_arrow(found.table)["time"]
        assert times.dtype == pl.Datetime("ns", "Asia/Tokyo")
        assert times.to_list() == frame["at"].gather(found.table["n"].to_numpy()).to_list()
    with pytest.raises(DataError, match="no column 'price'; its columns are at"):
        replay_frame(frame.lazy().drop("price"), FEATURE, time="at", **SMALL)


# ---- files of rows ------------------------------------------------------------------------


def test_a_file_has_the_bits_of_the_command(tmp_path, monkeypatch, capsys):
    path = tmp_path / "series.csv"
    table().to_pandas().rename(columns={"at": "time"}).to_csv(path, index=False)
    flags = [f"--{name}={value}" for name, value in SMALL.items()]
    line = ["stream-lstm", "replay", str(path), "--feature", FEATURE, "--learn", "--json", *flags]
    monkeypatch.setattr(sys, "argv", line)
    with contextlib.suppress(SystemExit):
        main()
    digest = json.loads(capsys.readouterr().out)["digest"]
    predictor = Predictor(FEATURE, learn=True, stream="series", **SMALL)
    found = predictor.replay(path)
    assert found.summary["digest"] == digest
    assert found.table.schema.field("time").type == pa.timestamp("ns", "UTC")
    assert found.table["time"][0].as_py().tzinfo is not None
    other = Predictor(FEATURE, learn=True, stream="series", **SMALL)
    stepped(other, 0, 200)
    assert state(predictor) == state(other)
    assert replay_frame(str(path), FEATURE, **SMALL).summary["elements"] == 199


def test_a_bad_line_of_a_file_is_named_and_changes_nothing(tmp_path):
    path = tmp_path / "series.csv"
    path.write_text("x\n" + "\n".join(map(str, PRICES[:30])) + "\noops\n1.0\n")
    predictor = Predictor("x", **SMALL)
    before = predictor.snapshot()
    with pytest.raises(DataError, match=r"line 32"):
        predictor.replay(path)
    assert predictor.snapshot() == before
    found = predictor.replay(path, skip_bad=True)
    assert (found.skipped, found.summary["elements"]) == (1, 31)
    with pytest.raises(InputMissingError):
        predictor.replay(tmp_path / "none.csv")


# ---- saved predictors ---------------------------------------------------------------------

KINDS = {
    "still": {},
    "learning": {"learn": True},
    "external": {"learn": True, "labels": "external"},
    "bank": {"learn": True, "bank": "default"},
    "memory": {"learn": True, "features": [FEATURE, "ewm_mean(price, 5)"]},
}


@pytest.mark.parametrize("ticks", [0, 7, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_predictor_continues_to_the_same_bits(tmp_path, kind, ticks):
    more = {"features": FEATURE, **SMALL, **KINDS[kind]}
    made = Predictor(**more, stream="S")
    stepped(made, 0, ticks)
    made.save(tmp_path / "p.safetensors")
    loaded = Predictor.load(str(tmp_path / "p.safetensors"))
    assert state(loaded) == state(made)
    assert (loaded.columns, loaded.stream) == (made.columns, "S")
    assert stepped(loaded, ticks, 200) == stepped(made, ticks, 200)
    assert state(loaded) == state(made)


@pytest.mark.parametrize("sharing", ["shared", "per-stream"])
def test_a_saved_predictor_keeps_what_it_started_from(tmp_path, sharing):
    """A stream that has not begun starts from the first weights, and a rollback ends there."""
    first = Predictor(FEATURE, learn=True, **SMALL)
    stepped(first, 0, 100)
    first.save(tmp_path / "first.safetensors")
    weights, _ = load_weights(tmp_path / "first.safetensors")
    scaler = load_scaler(tmp_path / "first.safetensors")
    settings = SMALL | {"learn": True, "twins": ["frozen"], "sharing": sharing}
    second = Predictor(FEATURE, weights=weights, scaler=scaler, **settings)
    second.save(tmp_path / "second.safetensors")
    loaded = Predictor.load(tmp_path / "second.safetensors")
    (tmp_path / "first.safetensors").unlink()
    assert stepped(loaded, 0, 200) == stepped(second, 0, 200)
    assert state(loaded) == state(second)


def test_a_saved_predictor_is_a_file_of_weights_too(tmp_path):
    made = Predictor(FEATURE, learn=True, scaling="zscore", **SMALL)
    stepped(made, 0, 100)
    path = tmp_path / "p.safetensors"
    made.save(path)
    for where in (path, str(path)):
        other = Predictor(FEATURE, weights=where, window=12)  # hidden and scaling are the file's
        assert other._session.config.scaling.scaling == "zscore"
        for layer, body in made.weights().items():
            assert np.array_equal(other.weights()[layer]["kernel"], body["kernel"])
        other.save(path)
        path.unlink()
        made.save(path)
    with pytest.warns(InputWarning, match="was trained on the features") as caught:
        Predictor("diff(price)", weights=path, window=12)
    assert caught[0].filename == __file__
    classifier = ExampleClassifier(FEATURE, weights=path, window=12)
    data = pickle.dumps(classifier)
    path.unlink()
    assert pickle.loads(data).predictor.snapshot() == classifier.predictor.snapshot()


def test_settings_that_differ_are_named(tmp_path):
    made = Predictor(FEATURE, **SMALL)
    path = tmp_path / "p.safetensors"
    made.save(path)
    with pytest.raises(SnapshotError, match="stride is 3 in the snapshot, and 5 here") as error:
        Predictor.load(path, stride=5, hidden=4)
    assert "hidden" not in str(error.value)
    with pytest.raises(
        SnapshotError, match=r'features is \["log_return\(price\)"\] in the snapshot, and'
    ):
        Predictor.load(path, features="price")
    with pytest.raises(ConfigurationError, match="did you mean 'stride'"):
        Predictor.load(path, strid=3)
    same = Predictor.load(path, features=FEATURE, **SMALL, table=True)
    assert same._session.config.stream.table  # the state does not depend on it


def test_a_file_that_is_no_saved_predictor_is_refused(tmp_path):
    made = Predictor(FEATURE, **SMALL)
    path = tmp_path / "p.safetensors"
    made.save(path)
    whole = path.read_bytes()
    for at in range(0, len(whole), len(whole) // 40):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with contextlib.suppress(DataError, SnapshotError):
            assert state(Predictor.load(path)) == state(made)  # in a copy of the weights
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="damaged or not a safetensors file"):
        Predictor.load(path)
    with pytest.raises(InputMissingError):
        Predictor.load(tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match=r"the format is \.safetensors"):
        made.save(tmp_path / "p.bin")
    with pytest.raises(OutputError):
        made.save(tmp_path / "none" / "p.safetensors")
    from stream_lstm.store.weights import save_weights

    save_weights(path, made.weights(), {})
    with pytest.raises(DataError, match=r"weights and no state .*Predictor\(features, weights="):
        Predictor.load(path)


def test_a_pickle_names_two_things_and_contains_bytes():
    made = Predictor(FEATURE, learn=True, **SMALL)
    stepped(made, 0, 60)
    data = pickle.dumps(made)
    operations = [op.name for op, *_ in pickletools.genops(data)]
    assert sum(name in ("GLOBAL", "STACK_GLOBAL") for name in operations) == 2
    texts = {text for op, text, _ in pickletools.genops(data) if op.name == "SHORT_BINUNICODE"}
    assert texts == {"stream_lstm.interop.predictor", "_unpickled", "Predictor"}
    for other in (pickle.loads(data), copy.deepcopy(made), Predictor.from_bytes(made.to_bytes())):
        assert state(other) == state(made)


# ---- feeds --------------------------------------------------------------------------------


@contextlib.contextmanager
def feed(**more):
    with Publisher("tcp://127.0.0.1:*", columns=["price"], **more) as out:
        yield out


async def publish(out: Publisher, first: int, last: int, stream: str = "S") -> None:
    """Publish some ticks once somebody listens."""
    await asyncio.to_thread(out.wait_for_subscribers, 1, timeout_s=60)
    for k in range(first, last):
        out.publish(stream, int(TIMES[k]), [float(PRICES[k])])


def sockets() -> int:
    """The open descriptors of this process; Python's own are the same before and after."""
    return len(os.listdir("/proc/self/fd"))


def test_history_then_a_live_feed_is_one_series():
    async def live(predictor: Predictor) -> list:
        async def all_of_it() -> list:
            return [one async for one in predictor.follow(out.endpoint)]

        with feed() as out:
            following = asyncio.ensure_future(all_of_it())
            await publish(out, 120, 200)
            out.end()
            return await following

    predictor, other = (Predictor(FEATURE, learn=True, **SMALL) for _ in range(2))
    predictor.replay(table(0, 120), time="at", time_unit="ns")
    stepped(other, 0, 120)
    assert asyncio.run(live(predictor)) == stepped(other, 120, 200)
    assert state(predictor) == state(other)


@pytest.mark.parametrize("how", ["break", "cancel", "aclosing", "error"])
def test_the_sockets_close_however_it_ends(how):
    predictor = Predictor("price", **SMALL)

    async def follow(endpoint: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            predictions = predictor.follow(endpoint, "S")
            if how == "aclosing":
                await stack.enter_async_context(contextlib.aclosing(predictions))
            async for _ in predictions:
                if how == "error":
                    raise LookupError
                if how != "cancel":
                    return

    async def session() -> None:
        with feed() as out:
            following = asyncio.ensure_future(follow(out.endpoint))
            before = sockets()
            await publish(out, 0, 20)
            if how == "cancel":
                await asyncio.to_thread(out.wait_for_subscribers, 1, timeout_s=60)
                following.cancel()
            with contextlib.suppress(asyncio.CancelledError, LookupError):
                await following
            del following
            while sockets() > before:  # the test's timeout is the limit
                await asyncio.sleep(0)

    asyncio.run(session())


def test_a_feed_of_two_streams_needs_a_name_and_more_columns_are_named():
    async def first(out: Publisher, **how) -> int:
        async def one() -> int:
            async with contextlib.aclosing(predictor.follow(out.endpoint, **how)) as predictions:
                async for prediction in predictions:
                    return prediction.n
            return 0

        following = asyncio.ensure_future(one())
        await asyncio.to_thread(out.wait_for_subscribers, 1, timeout_s=60)
        for k in range(20):
            for name in "AB":
                out.publish(name, int(TIMES[k]), [7.0, float(PRICES[k])])
        return await following

    both = ["size", "price"]
    predictor = Predictor("price", **SMALL)
    with (
        Publisher("tcp://127.0.0.1:*", columns=both) as out,
        pytest.raises(DataError, match="A and B: follow one, with stream='A'"),
    ):
        asyncio.run(first(out, columns=both))
    predictor = Predictor("price", **SMALL)
    with Publisher("tcp://127.0.0.1:*", columns=both) as out:  # a new one, without old subscribers
        assert asyncio.run(first(out, stream="B", columns=both)) == 12
    with pytest.raises(ConfigurationError, match="the features use 'price'"):
        asyncio.run(anext(predictor.follow("tcp://127.0.0.1:1", columns=["size"])))
    with pytest.raises(ConfigurationError, match="unknown key 'paylod'"):
        asyncio.run(anext(predictor.follow("tcp://127.0.0.1:1", paylod="json")))


def test_a_refused_tick_warns_and_the_feed_continues():
    predictor = Predictor(FEATURE, **SMALL)

    async def session() -> list:
        async def all_of_it() -> list:
            return [one.n async for one in predictor.follow(out.endpoint)]

        with feed() as out:
            following = asyncio.ensure_future(all_of_it())
            await publish(out, 0, 10)
            out.publish("S", int(TIMES[10]), [-1.0])
            await publish(out, 11, 20)
            out.end()
            return await following

    with pytest.warns(InputWarning, match="the tick is refused: feature log_return"):
        assert asyncio.run(session()) == [12, 15, 18]


def test_a_step_takes_the_time_of_a_row_of_results():
    """Results and ticks have the same times, so that one can be joined to the other."""
    found = replay_frame(table(), FEATURE, time="at", time_unit="ns", **SMALL)
    first = found.table["time"][0].as_py()
    assert isinstance(first, datetime.datetime | pd.Timestamp)
    predictor = Predictor(FEATURE, **SMALL)
    assert predictor.step([1.0], first) is None
