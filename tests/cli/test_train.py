"""`train` from the command line: what it writes, prints and refuses, and how it continues."""

import json
import math
import re
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy

from stream_lstm.cli.train import TrainingDisplay
from stream_lstm.store.weights import SCHEMA, load_scaler, load_weights

from .lines import write_csv

SMALL = ("--hidden", 4, "--window", 20, "--bptt", 10, "--lanes", 4, "--memory", 30)
KEYS = (
    *("validation_log_loss", "validation_accuracy", "train_loss", "learning_rate"),
    *("updates", "updates_refused", "best"),
)


def write_series(path, count=900, seed=0):
    """A column x whose next sign is likely the last one."""
    rng = np.random.default_rng(seed)
    values = np.repeat(rng.normal(size=count // 9 + 1), 9)[:count]
    return write_csv(path, x=(values + 0.3 * rng.normal(size=count)).round(6))


@pytest.fixture
def x(tmp_path):
    return write_series(tmp_path / "x.csv")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "w.safetensors"


def line(*files, out, **more):
    flags = [part for key, value in more.items() for part in (f"--{key.replace('_', '-')}", value)]
    return ("train", *files, "--feature", "x", *SMALL, "--out", out, "--epochs", 3, *flags)


@pytest.fixture(scope="module")
def trained(module_cli, tmp_path_factory):
    """A series, the command that trained on it with its results, and where its weights are."""
    folder = tmp_path_factory.mktemp("trained")
    x, out = write_series(folder / "x.csv"), folder / "w.safetensors"
    return x, module_cli(*line(x, out=out, history=folder / "h.parquet"), "--json"), out


@pytest.mark.slow
def test_weights_history_and_summary_are_written(trained):
    _, done, out = trained
    assert done.code == 0
    found = done.json()
    assert (found["elements"], found["epochs"], found["stopped"]) == (900, 3, "epochs")
    assert found["validation"]["labels"] == 8
    assert found["validation"]["coin_log_loss"] == math.log(2)
    assert min(found["seconds_per_epoch"], found["elements_per_s"]) > 0
    assert "too few to tell" in found["verdict"]
    assert {entry.name for entry in out.parent.iterdir()} == {"x.csv", "h.parquet", out.name}

    table = pyarrow.parquet.read_table(out.parent / "h.parquet")
    assert table.schema == SCHEMA
    assert table["epoch"].to_pylist() == [1, 2, 3]
    assert table["best"].to_pylist()[found["best_epoch"] - 1]
    assert table["train_loss"].to_pylist()[found["best_epoch"] - 1] == found["train_log_loss"]

    lines = re.findall(r"epoch (\d)/3: train 0\.\d+, validation 0\.\d+ \(coin 0\.6931", done.err)
    assert lines == ["1", "2", "3"]
    weights, about = load_weights(out)
    assert (about["version"], about["memory"], about["scaling"]) == ("2", "30.0", "sd")
    assert weights["layer_0"]["kernel"].shape == (6, 16)
    assert load_scaler(out).shape == (3,)


@pytest.mark.slow
def test_replay_with_the_weights_shows_the_figures_of_the_validation(cli, x, out, tmp_path):
    found = cli(*line(x, out=out, validation=0.5), "--json").json()["validation"]
    rows = tmp_path / "p.jsonl"
    # The scaler starts warm here and cold in training, which 450 elements make good.
    done = cli("replay", x, "--weights", out, "--window", 20, "--out", rows)
    assert done.code == 0
    assert "was trained with" not in done.err
    late = [r for r in map(json.loads, rows.read_text().splitlines()) if r["n"] > 450]
    losses = [row["log_loss"] for row in late if row["label"] is not None]
    assert len(losses) == found["labels"] == 44
    assert found["log_loss"] == pytest.approx(np.mean(losses), abs=2e-5)


@pytest.mark.slow
def test_each_file_is_a_series_of_its_own(cli, x, out, tmp_path):
    other = write_series(tmp_path / "y.csv", 500, seed=1)
    found = cli(*line(x, other, out=out), "--json").json()
    assert found["files"] == [str(x), str(other)]
    assert found["elements"] == 1400
    assert found["validation"]["labels"] == 8 + 4


@pytest.mark.slow
def test_existing_results_are_refused_with_the_way_out(cli, x, out):
    checkpoint = out.with_name(out.name + ".checkpoint")

    def refused(code, words, *flags):
        done = cli(*line(x, out=out), *flags)
        assert (done.code, words in done.err) == (code, True), done.err

    out.write_text("precious")
    refused(2, "exists; --overwrite restarts the training")
    refused(2, "its training has ended", "--resume")
    assert out.read_text() == "precious"
    checkpoint.write_text("half")
    refused(2, "--resume continues from it, --overwrite restarts")
    refused(65, "damaged", "--resume")
    assert cli(*line(x, out=out), "--overwrite").code == 0
    assert load_weights(out)
    assert not checkpoint.exists()
    out.unlink()
    done = cli(*line(x, out=out), "--resume")
    assert done.code == 0
    assert "no checkpoint" in done.err


def tensors(path):
    """The bytes of all tensors; the format writes its metadata in any order."""
    return {name: array.tobytes() for name, array in safetensors.numpy.load_file(path).items()}


def history_of(path):
    rows = pyarrow.parquet.read_table(path).to_pylist()
    return [[row[key] for key in KEYS] for row in rows]


KILLED = """
import os, signal
from stream_lstm.cli import train

def epoch(display, training):
    if training.position.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)

train.TrainingDisplay.epoch = epoch
from stream_lstm.cli.main import main
main()
"""


@pytest.mark.slow
def test_a_killed_training_continues_to_the_same_bits(cli, x, out, tmp_path):
    whole, one, two = (tmp_path / n for n in ("whole.safetensors", "a.parquet", "b.parquet"))
    assert cli(*line(x, out=whole, history=one)).code == 0
    arguments = line(x, out=out, history=two)
    killed = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], check=False)
    assert (killed.returncode, out.exists()) == (-signal.SIGKILL, False)

    changed = write_series(tmp_path / "z.csv", seed=5)
    for wrong, words in (
        (line(x, out=out, patience=7), "patience was 8 and is 7"),
        (line(changed, out=out), "z.csv (900 elements) differs"),
    ):
        done = cli(*wrong, "--resume")
        assert (done.code, words in done.err) == (65, True), done.err

    done = cli(*arguments, "--resume")
    assert done.code == 0
    assert "epochs are done" in done.err
    assert "epoch 1/" not in done.err
    assert tensors(out) == tensors(whole)
    assert history_of(two) == history_of(one)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order_and_it_can_continue(cli, x, out, monkeypatch, number):
    arguments = line(x, out=out)
    with monkeypatch.context() as patch:

        def epoch(display, training):
            if training.position.epoch == 2:
                signal.raise_signal(number)

        patch.setattr(TrainingDisplay, "epoch", epoch)
        done = cli(*arguments, "--json")
    found = done.json()
    assert (done.code, found["stopped"], found["interrupted"]) == (0, "signal", True)
    assert found["epochs"] == 2
    assert "--resume continues from" in done.err
    assert load_weights(out)  # the best so far
    assert cli(*arguments).code == 2
    done = cli(*arguments, "--resume", "--json")
    assert (done.code, done.json()["epochs"]) == (0, 3)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros(900), "x is never positive"),
        (np.ones(900), "x is always positive"),
        (np.arange(20.0), "x.csv is too short: of its 20 elements"),
    ],
)
def test_a_series_with_nothing_to_learn_is_refused(cli, tmp_path, out, values, words):
    done = cli(*line(write_csv(tmp_path / "x.csv", x=values), out=out))
    assert done.code == 65
    assert words in done.err
    assert not out.exists()


@pytest.mark.slow
def test_a_constant_feature_is_reported(cli, x, out):
    rows = [f"{text},3" for text in x.read_text().split()[1:]]
    x.write_text("x,c\n" + "\n".join(rows) + "\n")
    done = cli(*line(x, out=out), "--feature", "c")
    assert done.code == 0
    assert "the feature c is constant in training" in done.err


@pytest.mark.slow
def test_a_diverging_training_keeps_what_was_there(cli, x, out):
    out.write_text("precious")
    more = {"train_optimizer": "sgd", "train_rate": 3e38, "clip_norm": 0}
    done = cli(*line(x, out=out, **more), "--overwrite")
    assert done.code == 70
    assert "the training has diverged" in done.err
    assert "lower train_rate" in done.err
    assert out.read_text() == "precious"
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_training_starts_from_weights_of_its_shape_and_replay_keeps_the_scaler(
    cli, trained, tmp_path
):
    x, _, out = trained
    again, kept = tmp_path / "again.safetensors", tmp_path / "kept.safetensors"
    done = cli(*line(x, out=again), "--weights", out, "--layers", 2)
    assert done.code == 2
    assert "(6, 16)" in done.err
    assert "layer_1" in done.err
    assert cli(*line(x, out=again), "--weights", out).code == 0

    replay = ("replay", x, "--weights", out, "--window", 20)
    assert cli(*replay, "--save-weights", kept).code == 0
    state = load_scaler(out)
    assert load_scaler(kept)[0] == state[0] == 30
    np.testing.assert_allclose(load_scaler(kept)[1:], state[1:], rtol=1e-4)
    done = cli(*replay, "--memory", 50)
    assert done.code == 0
    assert "was trained with memory = 30.0, not 50.0" in done.err


@pytest.mark.parametrize("on_pause", ["continue", "forget", "reset"])
def test_after_a_pause_features_have_no_memory(cli, tmp_path, out, on_pause):
    """What `reset` does to the state is left out, with a warning."""
    rng, times = np.random.default_rng(0), np.arange(1, 901)
    times[300:] += 100_000
    times[600:] += 100_000
    path = write_csv(tmp_path / "x.csv", t=times, x=rng.normal(size=900).round(6))
    flags = ("--time", "t", "--time-unit", "s", "--pause", "1h", "--on-pause", on_pause)
    flags += ("--out", out, "--epochs", 1, "--json")
    done = cli("train", path, "--feature", "diff(x)", *SMALL, *flags)
    assert done.code == 0, done.err
    assert done.json()["elements"] == (899 if on_pause == "continue" else 897)
    assert ("counts as 'forget' in training" in done.err) == (on_pause == "reset")
