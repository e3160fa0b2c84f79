"""`doctor` as a user meets it: a healthy file, a blind model, a store, and every misstep."""

from __future__ import annotations

import numpy as np
import pytest

from stream_lstm.cli.doctor import WIDTH, implied
from stream_lstm.core.doctor.diagnosis import KINDS
from stream_lstm.core.doctor.inputs import LEVELS
from stream_lstm.feed.synthetic import SOURCES

from ..test_manual import documented_keys, mentioned_keys
from .lines import write_csv

SMALL = ("--hidden", 4, "--window", 20, "--bptt", 5, "--learning-rate", 0.01)
X = ("--feature", "x")


@pytest.fixture(scope="module")
def returns(tmp_path_factory):
    """Returns as small as those of the question, that can be foretold, at regular times."""
    x = 1e-5 * SOURCES["s1-ar"](1).block(3000)[:, 0]
    path = tmp_path_factory.mktemp("doctor") / "returns.csv"
    return write_csv(path, timestamp=range(1_700_000_000, 1_700_003_000), x=x, up=1 * (x > 0))


@pytest.mark.slow
def test_a_file_is_examined_as_json(cli, returns):
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


def test_learning_is_on_unless_it_is_set_otherwise(monkeypatch, tmp_path):
    assert implied({"label_column": "up"}) == {"labels": "external", "learn": True}
    assert implied({"window": 20}) == {"learn": True, "bptt": 20}
    assert implied({"window": 20, "bptt": 5}) == {"learn": True}
    off = tmp_path / "off.toml"
    off.write_text("[learning]\nlearn = false\n")
    for said in ({"learn": False}, {"weights": "w.safetensors"}, {"config": off}):
        assert "learn" not in implied(said)
    monkeypatch.setenv("STREAM_LSTM_LEARN", "false")
    assert implied({}) == {}


@pytest.mark.slow
def test_a_blind_model_is_reported_worst_first_and_strict_makes_it_an_exit_code(cli, returns):
    done = cli("doctor", returns, *X, *SMALL, "--scaling", "none", "--strict", "-v")
    assert done.code == 65
    lines = done.out.splitlines()
    assert all(len(line) <= WIDTH for line in lines)
    found = lines[lines.index("") :]
    levels = [line.split()[0] for line in found if line[:1].isalpha() and ": " in line[:40]]
    order = ["FAULT", "warning", "note", "ok"]
    assert levels[0] == "FAULT"
    assert [order.index(one) for one in levels if one in order] == sorted(
        order.index(one) for one in levels if one in order
    )
    assert "-> --scaling sd" in done.out
    verdict = "not learning: not even a strong signal"
    assert " ".join(lines).find(verdict) < " ".join(lines).find("FAULT")
    brief = cli("doctor", returns, *X, *SMALL, "--scaling", "none").out.splitlines()
    fine = [line for line in lines if line.startswith("ok ")]
    assert fine
    assert brief[-1] == f"{len(fine)} checks found nothing; -v prints them"
    assert brief[:-1] == lines[: lines.index(fine[0])]
    assert "--strict: input_scale" in done.err


@pytest.mark.slow
def test_a_store_is_examined_with_the_settings_that_it_holds(cli, returns, tmp_path):
    store = tmp_path / "kept.db"
    more = ("--learn", "--store", store, "--label-column", "up", "--horizon", 0)
    assert cli("replay", returns, *X, *SMALL, *more).code == 0
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


def test_each_reason_of_unusable_rows_is_told_and_not_only_the_first(cli, returns, tmp_path):
    lines = returns.read_text().splitlines()[:60]
    lines[3:40] = [line.replace(",", ",oops", 1) for line in lines[3:40]]
    lines[50] = "1"
    path = tmp_path / "torn.csv"
    path.write_text("\n".join(lines))
    done = cli("doctor", path, *X, *SMALL, "--json")
    (found,) = (one for one in done.json()["findings"] if one["name"] == "unusable_rows")
    assert "37 times: " in found["evidence"]
    assert "1 time: " in found["evidence"]


@pytest.mark.slow
def test_times_are_found_by_name_and_content(cli, tmp_path):
    x, path = np.random.default_rng(1).normal(size=28), tmp_path / "odd.csv"

    def examined(**columns):
        return cli("doctor", write_csv(path, **columns, x=x), *X, *SMALL, "--json").json()

    assert examined(overtime=["never"] * 28)["time_column"] is None
    assert examined(date=np.arange(28) / 28)["time_column"] is None, "a share of a year"
    found = examined(Date=[f"2024-02-{28 - k:02}" for k in range(28)])
    assert found["time_column"] == "Date"
    (order,) = (one for one in found["findings"] if one["name"] == "time_order")
    assert order["level"] == "fault"
    assert "the newest row comes first" in order["evidence"]
