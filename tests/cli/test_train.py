"""`train` from the command line: what it writes, prints and refuses, and how it continues."""

import json
import math
import re
import signal

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy

from stream_lstm.store.weights import SCHEMA, load_scaler, load_weights

from .lines import started, until, write_csv

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


def line(*files, out, epochs=3, **more):
    flags = [part for key, value in more.items() for part in (f"--{key.replace('_', '-')}", value)]
    return ("train", *files, "--feature", "x", *SMALL, "--out", out, "--epochs", epochs, *flags)


def test_weights_history_and_summary_are_written(cli, x, out, tmp_path):
    history = tmp_path / "h.parquet"
    done = cli(*line(x, out=out, history=history), "--json")
    assert done.code == 0
    found = done.json()
    assert (found["elements"], found["epochs"], found["stopped"]) == (900, 3, "epochs")
    assert found["validation"]["labels"] == 8
    assert found["validation"]["coin_log_loss"] == math.log(2)
    assert found["seconds_per_epoch"] > 0
    assert found["elements_per_s"] > 0
    assert "too few to tell" in found["verdict"]
    assert [entry.name for entry in tmp_path.iterdir() if "checkpoint" in entry.name] == []

    table = pyarrow.parquet.read_table(history)
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


def test_each_file_is_a_series_of_its_own(cli, x, out, tmp_path):
    other = write_series(tmp_path / "y.csv", 500, seed=1)
    found = cli(*line(x, other, out=out), "--json").json()
    assert found["files"] == [str(x), str(other)]
    assert found["elements"] == 1400
    assert found["validation"]["labels"] == 8 + 4


def test_existing_results_are_refused_with_the_way_out(cli, x, out):
    checkpoint = out.with_name(out.name + ".checkpoint")

    def refused(code, words, *flags):
        done = cli(*line(x, out=out), *flags)
        assert (done.code, words in done.err) == (code, True), done.err

    out.write_text("precious")
    refused(2, "exists; --overwrite restarts the training")
    refused(2, "its training has ended", "--resume")
    assert out.read_text() == "precious"
    assert cli(*line(x, out=out, epochs=1), "--overwrite").code == 0
    assert load_weights(out)
    out.unlink()
    checkpoint.write_text("half")
    refused(2, "--resume continues from it, --overwrite restarts")
    refused(65, "damaged", "--resume")
    assert cli(*line(x, out=out, epochs=1), "--overwrite").code == 0
    assert not checkpoint.exists()
    out.unlink()
    done = cli(*line(x, out=out, epochs=1), "--resume")
    assert done.code == 0
    assert "no checkpoint" in done.err


def tensors(path):
    """The bytes of all tensors; the format writes its metadata in any order."""
    return {name: array.tobytes() for name, array in safetensors.numpy.load_file(path).items()}


def history_of(path):
    rows = pyarrow.parquet.read_table(path).to_pylist()
    return [[row[key] for key in KEYS] for row in rows]


@pytest.mark.slow
def test_a_killed_training_continues_to_the_same_bits(cli, x, out, tmp_path):
    whole, one, two = (tmp_path / n for n in ("whole.safetensors", "a.parquet", "b.parquet"))
    long = {"epochs": 150, "patience": 0}
    assert cli(*line(x, out=whole, history=one, **long)).code == 0
    arguments = line(x, out=out, history=two, **long)
    with started(*arguments) as process:
        until(process.stderr, "epoch 3/")
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()

    done = cli(*line(x, out=out, history=two, epochs=151, patience=0), "--resume")
    assert done.code == 65
    assert "epochs was 150 and is 151" in done.err
    changed = write_series(tmp_path / "z.csv", seed=5)
    done = cli(*line(changed, out=out, history=two, **long), "--resume")
    assert done.code == 65
    assert "z.csv (900 elements) differs" in done.err

    done = cli(*arguments, "--resume")
    assert done.code == 0
    assert "epochs are done" in done.err
    assert "epoch 1/" not in done.err
    assert tensors(out) == tensors(whole)
    assert history_of(two) == history_of(one)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order_and_it_can_continue(cli, x, out, number):
    arguments = line(x, out=out, epochs=400, patience=0)
    with started(*arguments, "--json") as process:
        until(process.stderr, "epoch 2/")
        process.send_signal(number)
        found = json.loads(process.stdout.read())
        assert "--resume continues from" in process.stderr.read()
    assert process.returncode == 0
    assert (found["stopped"], found["interrupted"]) == ("signal", True)
    assert 2 <= found["epochs"] < 400
    assert load_weights(out)  # the best so far
    assert cli(*arguments).code == 2
    if number == signal.SIGTERM:
        done = cli(*arguments, "--resume", "--json")
        assert (done.code, done.json()["epochs"]) == (0, 400)


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


def test_a_constant_feature_is_reported(cli, x, out):
    rows = [f"{text},3" for text in x.read_text().split()[1:]]
    x.write_text("x,c\n" + "\n".join(rows) + "\n")
    done = cli(*line(x, out=out, epochs=1), "--feature", "c")
    assert done.code == 0
    assert "the feature c is constant in training" in done.err


def test_a_diverging_training_keeps_what_was_there(cli, x, out):
    out.write_text("precious")
    more = {"train_optimizer": "sgd", "train_rate": 3e38, "clip_norm": 0}
    done = cli(*line(x, out=out, **more), "--overwrite")
    assert done.code == 70
    assert "the training has diverged" in done.err
    assert "lower train_rate" in done.err
    assert out.read_text() == "precious"
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--out", "no/such/w.safetensors"), 74, "there is no directory no/such"),
        (("--out", "w.npz"), 2, "the format is .safetensors"),
        (("--history", "h.csv"), 2, ".parquet"),
        (("--resume", "--overwrite"), 2, "give one of them"),
        (("--train-optimizer", "adamm"), 2, "did you mean 'adam'"),
        (("--validation", "1.5"), 2, "validation"),
        (("--time", "when"), 2, "no column 'when'"),
        (("--weights", "none.safetensors"), 66, "no such file"),
        (("--config", "c.toml"), 78, "cannot be trained"),
    ],
)
def test_what_cannot_work_is_refused_before_the_work(
    cli, x, tmp_path, monkeypatch, arguments, code, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text('[model]\nmode = "window"\n')
    out = () if "--out" in arguments else ("--out", "w.safetensors")
    done = cli("train", x, "--feature", "x", *SMALL, *out, *arguments)
    assert done.code == code
    assert words in done.err
    assert "Traceback" not in done.err
    assert {entry.name for entry in tmp_path.iterdir()} == {"x.csv", "c.toml"}


def test_training_starts_from_weights_of_its_shape_and_replay_keeps_the_scaler(
    cli, x, out, tmp_path
):
    again, kept = tmp_path / "again.safetensors", tmp_path / "kept.safetensors"
    assert cli(*line(x, out=out, epochs=1)).code == 0
    done = cli(*line(x, out=again), "--weights", out, "--layers", 2)
    assert done.code == 2
    assert "(6, 16)" in done.err
    assert "layer_1" in done.err
    assert cli(*line(x, out=again, epochs=1), "--weights", out).code == 0

    replay = ("replay", x, "--weights", out, "--window", 20)
    assert cli(*replay, "--save-weights", kept).code == 0
    state = load_scaler(out)
    assert load_scaler(kept)[0] == state[0] == 30
    np.testing.assert_allclose(load_scaler(kept)[1:], state[1:], rtol=1e-4)
    done = cli(*replay, "--memory", 50)
    assert done.code == 0
    assert "was trained with memory = 30.0, not 50.0" in done.err
