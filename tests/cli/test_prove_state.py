"""`prove state` from the command line, with weights whose memory is known."""

import numpy as np
import pytest

from stream_lstm.store.weights import save_weights

from .test_state_check import assert_told

SERIES = ("--synthetic", "hidden-level", "--limit", 20_000)
LINE = ("prove", "state", *SERIES, "--stride", 1, "--window", 1)


@pytest.fixture
def weights(tmp_path):
    """One unit that sums what it sees and forgets a fifth each time, near to the best forecast."""
    kernel = np.zeros((3, 4), np.float32)
    kernel[0, 2] = 0.1
    kernel[2] = [20.0, 1.5, 0.0, 20.0]  # input and output open, forget gate at 0.82
    path = tmp_path / "w.safetensors"
    layers = {"layer_0": {"kernel": kernel}, "head": {"kernel": np.float32([2.0, 0.0])}}
    save_weights(path, layers, {})
    return path


def test_a_state_that_helps_is_seen_to(cli, weights):
    done = cli(*LINE, "--weights", weights, "--json")
    assert done.code == 0
    found = done.json()
    assert found["effect"] == "helps"
    assert "carried state helps here" in found["verdict"]
    assert found["carried"]["log_loss"] < found["windowed"]["log_loss"]
    assert 0 < found["windowed_more"]["low"] < found["windowed_more"]["high"]
    more = found["windowed"]["log_loss"] - found["carried"]["log_loss"]
    assert found["windowed_more"]["log_loss"] == pytest.approx(more)
    beside = {"version", "stream", "ticks", "elements", "refused_ticks", "compile_s", "wall_s"}
    assert beside <= set(found)
    assert_told({k: v for k, v in found.items() if k not in beside})


def test_a_replay_checks_the_same(cli, weights):
    found = cli(*LINE, "--weights", weights, "--json").json()
    checked = cli("replay", *LINE[2:], "--weights", weights, "--state-check", "--json").json()
    assert checked["state_check"] == {k: found[k] for k in checked["state_check"]}
    told = cli(*LINE, "--weights", weights).out
    assert "fresh: accuracy" in told
    assert found["verdict"] in told


def test_the_queries_of_a_graded_stream_are_judged_apart(cli, weights):
    line = ("--synthetic", "s4", "--limit", 20_000, "--window", 10, "--weights", weights)
    found = cli("prove", "state", *line, "--json").json()
    assert 0 < found["queries"]["labels"] < found["labels"] / 10
    assert "labels that are no coins" in found["verdict"]
    assert "on the " in cli("prove", "state", *line).out


def test_untrained_weights_are_refused_with_what_to_do(cli):
    done = cli(*LINE)
    assert done.code == 2
    assert "prove state needs --weights" in done.err
    assert "--save-weights" in done.err


def test_bad_rows_count_as_in_a_replay(cli, weights, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("x\n" + "\n".join("0" if k == 40 else f"{k % 7 + 1}" for k in range(90)))
    line = ("prove", "state", path, "--feature", "log_return(x)", "--weights", weights)
    done = cli(*line, "--window", 1)
    assert done.code == 65
    assert f"{path}:42: " in done.err
    found = cli(*line, "--window", 4, "--on-bad-row", "skip", "--json").json()
    assert (found["ticks"], found["elements"], found["refused_ticks"]) == (90, 88, 1)
