"""`doctor` as a user meets it: a healthy file, a blind model, a store, and every misstep."""

from __future__ import annotations

import numpy as np
import pytest

from stream_lstm.cli.doctor_case import implied
from stream_lstm.cli.doctor_report import WIDTH
from stream_lstm.core.doctor.diagnosis import KINDS
from stream_lstm.core.doctor.series import LEVELS
from stream_lstm.feed.synthetic import SOURCES

from ..test_manual import documented_keys, mentioned_keys

SMALL = ("--hidden", 4, "--window", 20, "--bptt", 5, "--learning-rate", 0.01)
X = ("--feature", "x")


@pytest.fixture(scope="module")
def returns(tmp_path_factory):
    """Returns as small as those of the question, that can be foretold, at regular times."""
    values = 1e-5 * SOURCES["s1-ar"](1).block(3000)[:, 0]
    rows = [f"{1_700_000_000 + k},{x!r},{int(x > 0)}" for k, x in enumerate(values.tolist())]
    path = tmp_path_factory.mktemp("doctor") / "returns.csv"
    path.write_text("timestamp,x,up\n" + "\n".join(rows) + "\n")
    return path


def test_a_file_is_examined_and_told_of_as_json(cli, returns):
    asked = ("--expect-windows", 29, "--expect-weights", 4 * 4 * 8, "--accuracy", 0.6)
    done = cli("doctor", returns, *X, *SMALL, *asked, "--json")
    assert done.code == 0
    found = done.json()
    findings = {one["name"]: one for one in found["findings"]}
    assert found["kind"] == "learning"
    assert found["time_column"] == "timestamp", "by its name, and what is in it"
    assert findings["gaps"]["figures"]["usual_s"] == 1.0
    told = {n for n, one in findings.items() if one["level"] in ("warning", "fault")}
    assert told == {"window_count", "feature_count"}, "what was counted, and nothing else"
    assert findings["window_count"]["figures"]["stride_of_counted"] in (100, 103)
    assert findings["feature_count"]["figures"]["features_of_counted"] == 3
    assert findings["input_scale"]["level"] == "note"
    assert set(found) == documented_keys("doctor")
    named = set(found) | set(found["findings"][0]) | set(KINDS) | set(LEVELS)
    assert named == mentioned_keys("doctor")


def test_learning_is_on_unless_somebody_says_otherwise(monkeypatch, tmp_path):
    assert implied({"label_column": "up"}) == {"labels": "external", "learn": True}
    assert implied({"window": 20}) == {"learn": True, "bptt": 20}
    assert implied({"window": 20, "bptt": 5}) == {"learn": True}
    off = tmp_path / "off.toml"
    off.write_text("[learning]\nlearn = false\n")
    for said in ({"learn": False}, {"weights": "w.safetensors"}, {"config": off}):
        assert "learn" not in implied(said)
    monkeypatch.setenv("STREAM_LSTM_LEARN", "false")
    assert implied({}) == {}


def test_a_blind_model_is_told_with_the_worst_first_and_strict_makes_it_an_exit_code(cli, returns):
    done = cli("doctor", returns, *X, *SMALL, "--scaling", "none", "--strict")
    assert done.code == 65
    lines = done.out.splitlines()
    assert all(len(line) <= WIDTH for line in lines)
    levels = [line.split()[0] for line in lines if line[:1].isalpha() and ": " in line[:40]][1:]
    order = ["FAULT", "warning", "note", "ok"]
    assert levels[0] == "FAULT"
    assert [order.index(one) for one in levels if one in order] == sorted(
        order.index(one) for one in levels if one in order
    )
    assert "-> --scaling sd" in done.out
    assert "not learning: not even a strong signal" in " ".join(lines)
    assert "--strict: input_scale" in done.err


def test_a_store_is_examined_with_the_settings_that_it_holds(cli, returns, tmp_path):
    store = tmp_path / "kept.db"
    line = (
        returns,
        *X,
        *SMALL,
        "--learn",
        "--store",
        store,
        "--label-column",
        "up",
        "--horizon",
        0,
    )
    assert cli("replay", *line).code == 0
    done = cli("doctor", store, "--json")
    assert done.code == 0
    found = done.json()
    findings = {one["name"]: one for one in found["findings"]}
    assert (found["stream"], found["rows"], found["labels"]) == ("returns", 3000, 299)
    assert findings["stored_predictions"]["figures"]["labels"] == 299
    assert findings["stored_events"]["level"] == "ok"
    assert findings["label_alignment"]["figures"]["shift"] == 0
    for wrong in (("--hidden", 3), ("--time", "t"), ("--label-column", "up"), ("--stream", "b")):
        done = cli("doctor", store, *wrong)
        assert done.code == 2, wrong
        assert "Traceback" not in done.err


def test_every_misstep_ends_in_a_sentence(cli, returns, tmp_path):
    missing = cli("doctor", tmp_path / "none.csv", *X)
    assert (missing.code, "no such file" in missing.err) == (66, True)
    which = cli("doctor", returns)
    assert which.code == 2
    assert "--feature" in which.err
    unknown = cli("doctor", returns, "--feature", "y")
    assert unknown.code == 2
    assert "no column 'y'" in unknown.err
    assert cli("doctor").code == 2
    assert cli("doctor", returns, *X, "--time", "up2").code == 2
    assert cli("doctor", returns, *X, "--label-column", "upp").code == 2
    assert cli("doctor", returns, *X, "--labels", "external").code == 2
    assert cli("doctor", returns, *X, "--label-delay", "3").code == 2
    assert cli("doctor", returns, *X, "--limit", 0).code == 65
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    assert cli("doctor", empty, *X).code == 65
    other = tmp_path / "other.db"
    other.write_bytes(b"SQLite format 3\0" + bytes(100))
    assert cli("doctor", other).code == 65


def test_rows_that_replay_would_stop_at_are_counted(cli, returns, tmp_path):
    lines = returns.read_text().splitlines()[:16]
    lines[4], lines[9] = "oops", lines[9].replace(lines[9].split(",")[1], "")
    path = tmp_path / "torn.csv"
    path.write_text("\n".join(lines))
    done = cli("doctor", path, *X, *SMALL, "--json")
    assert done.code == 0
    found = {one["name"]: one for one in done.json()["findings"]}
    assert found["unusable_rows"]["figures"] == {"rows": 15, "unusable": 2}
    assert "torn.csv:5" in found["unusable_rows"]["evidence"]
    assert done.json()["kind"] == "no_labels"


def test_times_are_not_guessed_from_a_column_that_holds_none(cli, tmp_path):
    rows = np.random.default_rng(1).normal(size=15)
    path = tmp_path / "odd.csv"
    path.write_text("overtime,x\n" + "\n".join(f"never,{x!r}" for x in rows.tolist()))
    assert cli("doctor", path, *X, *SMALL, "--json").json()["time_column"] is None
    # a share of a year
    path.write_text("date,x\n" + "\n".join(f"{k / 15},{x!r}" for k, x in enumerate(rows.tolist())))
    assert cli("doctor", path, *X, *SMALL, "--json").json()["time_column"] is None


def test_dates_are_times_and_those_of_the_newest_row_first_are_told(cli, tmp_path):
    rows = np.random.default_rng(1).normal(size=28).tolist()
    lines = [f"2024-02-{28 - k:02},{x!r}" for k, x in enumerate(rows)]
    path = tmp_path / "newest.csv"
    path.write_text("\n".join(["Date,x", *lines]))
    found = cli("doctor", path, *X, *SMALL, "--json").json()
    assert found["time_column"] == "Date"
    (order,) = (one for one in found["findings"] if one["name"] == "time_order")
    assert order["level"] == "fault"
    assert "the newest row comes first" in order["evidence"]
