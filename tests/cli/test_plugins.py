"""Plug-ins of the command line: they run only where allowed, and then as anything else."""

import os
import sys

import numpy as np
import pytest

from stream_lstm.core.functions import FUNCTIONS
from stream_lstm.core.plugins import FEATURES

from ..test_manual import documented_keys
from .lines import ran, write_csv

MODULE = """
from pathlib import Path

import numpy as np

import stream_lstm

Path(__file__).with_suffix(".ran").touch()


def step(state, t_ns, x):
    mean, count = state
    new = x if not count[0] else mean[0] + 0.1 * (x - mean[0])
    return (np.array([new]), count + 1), new


def start():
    return np.zeros(1), np.zeros(1, np.int64)


slow = stream_lstm.feature("slow", start, step, doc="a slow mean")
leak = stream_lstm.feature("leak", tuple, lambda s, t, x: (s, x), lambda s, t, x: (s, x[::-1]))
short = stream_lstm.feature("short", tuple, lambda s, t, x: (s, x), lambda s, t, x: (s, x[1:]))
number = 3


def made():
    return stream_lstm.register_feature("made", start, step)


def wrong():
    return stream_lstm.feature("mid", start, step)
"""
SMALL = ("--hidden", 4, "--window", 20, "--bptt", 5)
SLOW = ("--plugin", "own_mean:slow", "--feature", "slow(x)")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A module and a file; what it registers is forgotten afterwards."""
    (tmp_path / "own_mean.py").write_text(MODULE)
    (tmp_path / "breaks.py").write_text("raise RuntimeError('no\\nluck')")
    (tmp_path / "needs.py").write_text("import nothing_of_this_name")
    monkeypatch.syspath_prepend(tmp_path)
    x = [k * k % 17 - 5.0 for k in range(200)]
    y = x[:1]
    for value in x[1:]:
        y.append(y[-1] + 0.1 * (value - y[-1]))
    write_csv(tmp_path / "x.csv", x=x, y=y)
    before = dict(FEATURES), dict(FUNCTIONS)
    yield tmp_path
    forget(before)


def forget(before):
    for name in ("own_mean", "breaks", "needs"):
        sys.modules.pop(name, None)
    for known, old in zip((FEATURES, FUNCTIONS), before, strict=True):
        known.clear()
        known.update(old)


def test_a_process_replays_with_a_plug_in_as_with_the_values_made_by_hand(folder):
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    line = ("replay", folder / "x.csv", *SMALL, "--learn", "--json")
    environment = os.environ | {"PYTHONPATH": path}
    own = ran(*line, *SLOW, "--allow-plugins", env=environment)
    assert (own.returncode, own.stderr) == (0, "")
    plain = ran(*line, "--feature", "y", env=environment)
    digests = [done.stdout.split('"digest":"')[1][:64] for done in (own, plain)]
    assert digests[0] == digests[1]


def test_a_block_that_fails_is_one_line_and_changes_nothing(folder):
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    line = ("replay", folder / "x.csv", *SMALL, "--json", "--feature")
    own = ran(*line, "short(x)", *SLOW[:1], "own_mean:short", "--allow-plugins", env=environment)
    assert own.returncode == 0
    assert own.stderr.startswith("stream-lstm: feature short: its block (<lambda>) returned the v")
    assert own.stderr.count("\n") == 1
    plain = ran(*line, "x", env=environment)
    digests = [done.stdout.split('"digest":"')[1][:64] for done in (own, plain)]
    assert digests[0] == digests[1]


REFUSED = {
    "replay": ("replay", "x.csv", *SLOW),
    "train": ("train", "x.csv", *SLOW, "--out", "w.safetensors"),
    "run": ("run", "--connect", "tcp://127.0.0.1:1", *SLOW),
    "doctor": ("doctor", "x.csv", *SLOW),
    "state": ("prove", "state", "x.csv", *SLOW, "--weights", "w.safetensors"),
    "features": ("prove", "features", "x.csv", *SLOW),
    "import": ("import", "m.keras", "--out", "w.safetensors", *SLOW),
    "configuration": ("replay", "x.csv", "--config", "c.toml"),
    "check-config": ("check-config", "c.toml"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_command_runs_no_plug_in_unless_it_is_allowed(cli, folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    (folder / "c.toml").write_text('[stream]\nplugins=["own_mean:slow"]\nfeatures=["slow(x)"]\n')
    done = cli(*REFUSED[name])
    assert done.code == 78
    assert done.err.startswith("stream-lstm: plugins = own_mean:slow: plug-ins run code")
    assert "--allow-plugins" in done.err
    assert not (folder / "own_mean.ran").exists()
    if name == "check-config":
        assert cli(*REFUSED[name], "--allow-plugins").code == 0


def test_the_environment_names_plug_ins_and_does_not_allow_them(cli, folder, monkeypatch):
    monkeypatch.setenv("STREAM_LSTM_PLUGINS", "own_mean:slow")
    assert cli("replay", folder / "x.csv", "--feature", "slow(x)").code == 78
    monkeypatch.setenv("STREAM_LSTM_ALLOW_PLUGINS", "true")
    done = cli("replay", folder / "x.csv", "--feature", "slow(x)")
    assert (done.code, "STREAM_LSTM_ALLOW_PLUGINS sets nothing" in done.err) == (78, True)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("own_mean", "plug-in own_mean: write it as package.module:name"),
        ("own_mean:slow()", "write it as package.module:name"),
        ("no_such.module:slow", "there is no module no_such; install the package that has it"),
        ("own_mean.sub:slow", "there is no module own_mean.sub; install"),
        (
            "own_mean:fast",
            "fast does not exist; make a feature with stream_lstm.feature(name, init",
        ),
        ("own_mean:number", "number is of the type int; make a feature with"),
        ("own_mean:start", "start is of the type tuple; make"),
        ("own_mean:step", "loading it raised TypeError: step() missing"),
        ("own_mean:wrong", "own_mean:wrong: mid is a built-in function: choose another"),
        ("breaks:slow", "loading it raised RuntimeError: no luck"),
        ("needs:slow", "loading it raised ModuleNotFoundError: No module named 'nothing_of"),
    ],
)
def test_an_entry_that_cannot_be_loaded_is_one_line(cli, folder, entry, words):
    line = ("replay", folder / "x.csv", "--feature", "slow(x)", "--allow-plugins")
    done = cli(*line, "--plugin", entry)
    assert done.code == 78
    assert words in done.err
    assert "plug-in" in done.err
    assert done.err.count("\n") == 1


def test_two_plug_ins_of_one_name_are_refused(cli, folder):
    text = MODULE.replace('"slow"', '"made"')
    (folder / "own_mean.py").write_text(text)
    both = ("--plugin", "own_mean:slow", "--plugin", "own_mean:made", "--allow-plugins")
    done = cli("replay", folder / "x.csv", *both, "--feature", "made(x)")
    assert done.code == 78
    assert "own_mean:made: there is another feature made" in done.err


def test_a_store_with_a_plug_in_needs_leave_to_be_verified_and_none_to_be_read(cli, folder):
    before = dict(FEATURES), dict(FUNCTIONS)
    store, out = folder / "s.db", folder / "r.html"
    line = ("replay", folder / "x.csv", *SMALL, *SLOW, "--allow-plugins", "--store", store)
    assert cli(*line).code == 0
    assert cli(*line, "--quiet").code == 0  # continues
    forget(before)
    (folder / "own_mean.ran").unlink()
    for command in (("inspect", store), ("report", store, "--out", out)):
        assert cli(*command).code == 0
    for command in (("verify", store), ("doctor", store)):
        done = cli(*command)
        assert (done.code, "--allow-plugins" in done.err) == (78, True)
    assert not (folder / "own_mean.ran").exists()
    done = cli("verify", store, "--allow-plugins")
    assert (done.code, done.err) == (0, "")
    assert "the same 19 predictions to the last bit" in done.out
    forget(before)
    text = (folder / "own_mean.py").read_text().replace("0.1 *", "0.25 *")
    (folder / "own_mean.py").write_text(text)
    done = cli("verify", store, "--allow-plugins")
    assert done.code == 70
    assert "has the code of a plug-in changed?" in done.err


def test_weights_of_a_training_with_a_plug_in_are_used(cli, folder):
    weights = folder / "w.safetensors"
    more = ("--plugin", "own_mean:made", "--allow-plugins")
    series = (folder / "x.csv", "--window", 20, "--hidden", 4)
    line = ("train", *series, "--bptt", 5, "--epochs", 1, "--feature", "made(x)", *more)
    assert cli(*line, "--out", weights).code == 0
    assert cli("replay", *series, "--weights", weights, *more).code == 0


# ---- prove features ---------------------------------------------------------------------------


def test_features_are_proved(cli, folder):
    line = ("prove", "features", folder / "x.csv", "--allow-plugins")
    done = cli(*line, *SLOW, "--feature", "lag(y, 20)", "--json")
    assert done.code == 0
    found = done.json()
    assert set(found) == documented_keys("prove features")
    assert found["functions"] == ["slow(x)", "lag(y, 20)"]
    assert found["verdict"].startswith("cuts do not matter: 2 functions with memory and 2 feat")
    done = cli(*line, "--plugin", "own_mean:leak", "--feature", "leak(y)")
    assert done.code == 70
    assert "leak(y) depends on how ticks are cut into blocks: at row 2 it is -5.0 tick" in done.err
    assert np.isfinite(found["wall_s"])


def test_features_without_memory_are_proved_too(cli):
    done = cli("prove", "features", "--synthetic", "s1", "--limit", 500, "--json")
    assert done.code == 0
    assert done.json()["ticks"] == 500
