"""Each subject runs, and is not timed where its numbers are wrong; speed is not tested."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[1]

FEW = {"count": 20, "length": 10}


def options(bench: Any, *words: str) -> argparse.Namespace:
    parsed: argparse.Namespace = bench("__main__").parser().parse_args(words)
    return parsed


# ---- stride -------------------------------------------------------------------------


def test_a_stride_is_timed_tick_by_tick_and_in_one_call(bench: Any, given: Any) -> None:
    stride = bench("stride")
    found = stride.subject_engine(given, FEW)
    assert list(found) == ["", "each alone"]
    assert set(found[""]) == {"ours", "an empty call"}
    session = stride.subject_session(given, FEW)
    for rows in [*found.values(), *session.values()]:
        for figures in rows.values():
            assert figures["us_per_element"] > 0
            assert figures["last_p50"] > 0


def test_the_warm_up_of_rounds_is_not_counted(bench: Any) -> None:
    timing = bench("timing")
    lasts = iter([1_000_000] * 100 + [5_000] * 1000)
    found = timing.rounds({"a": lambda _xs: next(lasts)}, length=2, count=1000)
    assert found["a"]["last_p50"] == 5.0
    assert found["a"]["last_p99.9"] == 5.0
    assert next(lasts, None) is None, "all rounds were made"


def test_a_peer_is_timed_singly_and_in_one_block_or_refused(bench: Any, given: Any) -> None:
    main = bench("peers.__main__")
    found = main.measure("NumPy by hand", "stride", given, FEW)
    assert list(found) == ["each alone"]
    assert found["each alone"]["us_per_element"] > 0
    off = given._replace(p=given.p + np.float32(1e-3))
    assert set(main.measure("NumPy by hand", "stride", off, FEW)) == {"note"}


def test_where_the_time_goes_adds_up_to_the_session(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = bench("parts")
    monkeypatch.setattr(parts, "fresh", lambda *_: {"features": 2.0, "scores": 10.0})
    rows = parts.explained(6.0, 9.0, 30.0, share=0.1, repeats=3, columns="x")
    us = {name.split(": ")[1]: row["us"] for name, row in rows.items()}
    assert us["network and scaler"] == 3.0
    assert us["scores"] == 1.0
    assert us["the rest of the session"] == 18.0
    assert sum(us.values()) == pytest.approx(30.0)
    assert sum(row["of the session"] for row in rows.values()) == pytest.approx(1.0)


def test_features_and_scores_are_timed_alone(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = bench("parts")
    monkeypatch.setattr(parts, "CALLS", 40)
    monkeypatch.setattr(parts, "BATCH", 10)
    parts.main("quotes")
    assert '"features"' in capsys.readouterr().out
    assert parts.features_call("x", ("x",), 1)(0).shape == (1, 1)
    assert parts.features_call("x", ("x",), 10)(0) is True


# ---- learn --------------------------------------------------------------------------


@pytest.mark.slow
def test_an_update_is_timed_beside_a_plain_gradient_with_the_same_weights(
    bench: Any, given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = bench("learn")
    monkeypatch.setattr(learn, "TAPES", (6,))
    ours = learn.subject_ours(given, {"count": 3})
    plain = learn.subject_gradient(given, {"count": 3})
    assert ours["K = 6"]["ours"]["p50"] > 0
    assert plain["K = 6"]["jax.grad through lax.scan"]["p50"] > 0


def test_a_gradient_with_other_weights_is_told_and_not_timed(
    bench: Any, given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = bench("learn")
    weights = {"layer_0": np.zeros((34, 128)), "head": np.zeros(33)}
    off = {"layer_0": np.zeros((34, 128)), "head": np.full(33, 1e-3)}

    def update(weights: Any, loss: float) -> Any:
        return lambda _xs, _targets: (weights, loss)

    assert learn.differing(update(weights, 0.7), update(weights, 0.7), 6) == ""
    for other in (update(off, 0.7), update(weights, 0.6), update(weights, float("nan"))):
        assert learn.differing(update(weights, 0.7), other, 6).startswith("wrong: weights are")
    monkeypatch.setattr(learn, "TAPES", (6,))
    monkeypatch.setattr(learn, "ours", lambda _: update(weights, 0.7))
    monkeypatch.setattr(learn, "gradient", lambda _: update(off, 0.7))
    with pytest.raises(SystemExit, match="wrong: weights"):
        learn.subject_gradient(given, {"count": 3})


@pytest.mark.slow
def test_a_file_is_learned_from_at_each_label(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = bench("learn")
    monkeypatch.setenv("STREAM_LSTM_DATA", str(tmp_path))
    assert learn.quotes(400)[1] == "a random walk"
    found = learn.whole_file({"tape": 10, "elements": 400})
    assert found["updates"] == 30
    assert found["seconds"] >= 0


def test_a_peer_whose_weights_do_not_move_is_not_timed(bench: Any) -> None:
    main = bench("peers.__main__")
    module = type("Peer", (), {"learn": lambda _k: (lambda _x: None, lambda: np.ones(3))})
    assert main.learning(module, {"count": 3})["note"].startswith("wrong: its weights")
    bad = type("Peer", (), {"learn": lambda _k: (lambda _x: None, lambda: np.array([np.nan]))})
    assert main.learning(bad, {"count": 3})["note"].startswith("wrong: its weights")


def test_deep_river_learns_or_says_how_it_is_installed(bench: Any) -> None:
    registry = bench("peers.registry")
    if reason := registry.missing(registry.PEERS["deep-river"]):
        assert "--no-deps deep-river" in reason or "torch" in reason
        pytest.skip(reason)
    given = bench("peers.workload")
    found = bench("peers.__main__").measure("deep-river", "learn", None, {"count": 3})
    assert list(found) == [f"K = {length}" for length in given.TAPES]


# ---- streams ------------------------------------------------------------------------


def test_every_stream_gets_as_many_arrivals_as_any_other(bench: Any) -> None:
    streams = bench("streams")
    for together in (False, True):
        first, timed = streams.arrivals(7, 500, together=together)
        for blocks, least in ((first, 10), (timed, 70)):
            counts = np.bincount(np.concatenate([which for which, _ in blocks]), minlength=7)
            assert set(counts.tolist()) == {counts[0]}
            assert counts[0] >= least
    which = np.concatenate([which for which, _ in first])
    assert (which.reshape(-1, 10) == which[::10, None]).all(), "ten of a stream stand together"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["runs", "columns"])
def test_streams_are_stepped_and_weighed(bench: Any, name: str) -> None:
    streams = bench("streams")
    assert streams.one(name, 3, 60, traced=False)["elements_per_s"] > 0
    assert streams.one(name, 3, 60, traced=True)["traced_per_stream"] > 100


def test_counts_of_streams_are_checked(bench: Any) -> None:
    assert options(bench, "streams", "--counts", "1,20").counts == [1, 20]
    for text in ("0", "100001", "3,,4", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="whole numbers"):
            bench("streams")._counts(text)


# ---- start --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_start_is_split_into_its_parts(bench: Any) -> None:
    found = bench("start").session("learning off", "")
    parts = found["python_s"] + found["import_s"] + found["compile_s"]
    assert found["ready_s"] == pytest.approx(parts, abs=0.01)
    assert found["compile_s"] > 0
    assert found["compilations"] == len(found["programs"]) >= 2
    assert all(program["s"] >= 0 for program in found["programs"])
    assert sum(program["mb"] for program in found["programs"]) < found["rss_mb"]


def test_what_is_started_is_checked(bench: Any) -> None:
    assert options(bench, "start", "--started", "the bank").started == ["the bank"]
    with pytest.raises(argparse.ArgumentTypeError, match="'x' is not one of"):
        bench("start")._started("x")


# ---- train --------------------------------------------------------------------------


def test_training_that_learned_nothing_is_not_timed(bench: Any) -> None:
    train = bench("train")
    assert train.figures([9.0, 1.0, 3.0], 0.55, 1000)["seconds_per_epoch"] == 2.0
    for loss in (0.6931, float("nan")):
        assert "wrong" in train.figures([9.0, 1.0], loss, 1000)["note"]


def test_training_is_told_as_a_ratio_to_ours(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train = bench("train")
    seconds = iter([1.0, 12.0, 2.0, 20.0, 1.0, 11.0])
    monkeypatch.setattr(
        train, "fresh", lambda *_: {"seconds_per_epoch": next(seconds), "elements_per_s": 1}
    )
    rows = train.run(options(bench, "train", "--repeats", "3"))
    assert rows["ours"]["of ours"] == 1.0
    assert rows["keras"]["of ours"] == 11.0
    assert rows["keras"]["seconds_per_epoch"] == 12.0


# ---- roundtrip and sustained --------------------------------------------------------


@pytest.mark.slow
def test_the_daemon_and_the_echo_answer_what_is_due(bench: Any) -> None:
    roundtrip, exchange = bench("roundtrip"), bench("exchange").exchange
    plan = roundtrip.plan("2000", 0.5)
    for flags in (None, []):
        found = exchange(plan, flags)
        assert found.lost == 0
        assert len(found.delays) == 90
        assert found.delays.min() > 0
        assert roundtrip.figures(found)["max"] >= roundtrip.figures(found)["p50"]


@pytest.mark.slow
def test_back_to_back_each_stride_is_answered(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    roundtrip = bench("roundtrip")
    monkeypatch.setattr(roundtrip, "STRIDES", 20)
    found = bench("exchange").exchange(roundtrip.plan("back to back", 1.0), None)
    assert len(found.delays) == 18, "twenty, and a tenth of them warm-up"


def test_a_store_is_refused_where_the_daemon_has_none(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    roundtrip = bench("roundtrip")
    asked = options(bench, "roundtrip", "--store", "both", "--busy-poll", "off")
    monkeypatch.setattr(roundtrip, "KEYS", {})
    with pytest.raises(SystemExit, match="keeps no store"):
        roundtrip.subjects(asked, "/folder")
    monkeypatch.setattr(roundtrip, "KEYS", {"store": "store"})
    found = roundtrip.subjects(asked, "/folder")
    assert list(found) == [
        "echo",
        "learning off",
        "learning off, store",
        "learning on",
        "learning on, store",
    ]
    assert found["learning on, store"] == ["--learn", "--store", "/folder/{}.db"]


def test_ways_are_checked(bench: Any) -> None:
    assert options(bench, "roundtrip", "--ways", "10x,2000").ways == ["10x", "2000"]
    for text in ("fast", "0", "-5", "1e3"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a way"):
            bench("roundtrip")._ways(text)


def test_troubles_are_checked(bench: Any) -> None:
    assert options(bench, "roundtrip", "--beside", "keys, full log").beside == ["keys", "full log"]
    assert options(bench, "roundtrip", "--beside", "all").beside == list(bench("troubles").NAMES)
    with pytest.raises(argparse.ArgumentTypeError, match="is not a trouble"):
        bench("roundtrip")._troubles("rain")


@pytest.mark.slow
def test_with_keys_the_daemon_answers_all_that_is_due(bench: Any, tmp_path: Path) -> None:
    trouble = bench("troubles").make("keys", tmp_path / "keys")
    plan = bench("roundtrip").plan("2000", 0.5)
    found = bench("exchange").exchange(plan, trouble.flags, keys=trouble.keys)
    assert (found.lost, len(found.delays)) == (0, 90)


@pytest.mark.slow
def test_with_every_trouble_beside_it_the_daemon_answers_all_that_is_due(
    bench: Any, tmp_path: Path
) -> None:
    troubles = bench("troubles")
    names = [name for name in troubles.NAMES if name != "keys"]  # which the watchers do not have
    made = {name: troubles.make(name, tmp_path / name.replace(" ", "")) for name in names}

    @contextmanager
    def beside(subject: Any) -> Iterator[None]:
        with ExitStack() as stack:
            entered = {
                name: stack.enter_context(trouble.beside(subject))
                for name, trouble in made.items()
            }
            assert is_full(troubles.log_of(subject.pid))
            yield
            assert_served_as_far_as_they_asked(entered["dead clients"])
            killed, stopped = entered["dead watchers"]
            assert killed.wait(30) == -signal.SIGKILL
            assert os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT) is not None

    flags = [flag for trouble in made.values() for flag in trouble.flags]
    found = bench("exchange").exchange(bench("roundtrip").plan("2000", 0.5), flags, beside=beside)
    assert (found.lost, len(found.delays)) == (0, 90)


def is_full(path: str) -> bool:
    """Whether the pipe of a process's log takes nothing more."""
    pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(pipe, b"x" * 4096)
    except BlockingIOError:
        return True
    finally:
        os.close(pipe)
    return False


def assert_served_as_far_as_they_asked(clients: list[socket.socket]) -> None:
    asked, stuck, silent = clients[:3]
    assert asked.recv(12) == b"HTTP/1.1 200"
    for client in (stuck, silent):
        client.setblocking(False)
        # The daemon may have ended by now, and its connections with it.
        with suppress(BlockingIOError, ConnectionResetError):
            assert client.recv(1) == b"", "who asked for nothing was answered"


def test_what_runs_with_trouble_is_compared_with_the_run_without(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    roundtrip, exchange = bench("roundtrip"), bench("exchange")
    heard: list[tuple[Any, str]] = []

    def exchanged(_plan: Any, flags: Any, *, keys: str, **_: Any) -> Any:
        heard.append((flags, keys))
        us = 100 if flags is None else 300 if keys else 200
        return exchange.Run(np.arange(500), np.full(500, us * 1000), 0, 0.0, 0.0, 0.0)

    monkeypatch.setattr(roundtrip, "exchange", exchanged)
    asked = options(
        *(bench, "roundtrip", "--ways", "1000", "--repeats", "1", "--learning", "off"),
        *("--busy-poll", "off", "--beside", "keys"),
    )
    rows = roundtrip.run(asked)
    plain, keyed = (rows[f"1,000 ticks/s, learning off{more}"] for more in ("", ", keys"))
    assert (plain["p50 / echo"], keyed["p50 / echo"], keyed["p99 / without"]) == (2.0, 3.0, 1.5)
    assert "p50 / without" not in plain
    assert [flags for flags, _ in heard[:2]] == [None, []]
    assert heard[2] == (["--curve-dir", heard[2][1]], heard[2][1])


def test_histograms_are_written_or_refused(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roundtrip = bench("roundtrip")
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda _name: None)
        with pytest.raises(argparse.ArgumentTypeError, match="pip install hdrhistogram"):
            roundtrip._hdr("folder")
    pytest.importorskip("hdrh", reason="hdrhistogram is not installed")
    roundtrip.write_histogram(tmp_path, "1000, echo", np.arange(1, 1001) * 1000)
    lines = (tmp_path / "1000-echo.hgrm").read_text().splitlines()
    rows = [list(map(float, line.split()[:3])) for line in lines[2:] if line[:1] == " "]
    assert rows[-1] == [pytest.approx(1000.0, rel=0.01), 1.0, 1000]
    for value, percentile, _ in rows[1:]:
        assert value == pytest.approx(1000 * percentile, rel=0.01)


def test_the_highest_rate_is_the_first_that_the_subject_keeps_up_with(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sustained, exchange = bench("sustained"), bench("exchange")
    offered: list[float] = []

    def served(plan: dict[str, Any], _flags: Any) -> Any:
        """A subject that gets through 800 ticks a second, where a flood shows 1,000."""
        if plan["way"] == "flood":
            return exchange.Run(np.zeros(1), np.zeros(1), 0, 1000.0, 0.0, 0.5)
        offered.append(plan["rate"])
        intended = np.arange(4000) * 1e9 / plan["rate"]
        done = np.maximum(intended, np.arange(4000) * 1e9 / 800.0)
        return exchange.Run(intended, done - intended, 0, 0.0, 0.0, 0.0)

    monkeypatch.setattr(sustained, "exchange", served)
    found = sustained.highest([], 1, options(bench, "sustained"))
    assert found["ticks_per_s"] == 800
    assert offered == [950.0, 900.0, 850.0, 800.0]
    assert found["sender"] == 200_000
