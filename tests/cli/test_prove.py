"""`prove state`, `causal` and `live`, and `replay --state-check`, on files and planted faults."""

import numpy as np
import pytest

from stream_lstm.cli.results import state_lines
from stream_lstm.core import expressions
from stream_lstm.core.proofs.state import effect, verdict
from stream_lstm.events import Ticks
from stream_lstm.feed.input_file import InputFile
from stream_lstm.feed.sending import file_feed
from stream_lstm.serve import proofs
from stream_lstm.store.weights import save_weights

from ..test_manual import documented_keys, mentioned_keys
from .lines import write_csv

SMALL = ("--hidden", 4, "--window", 20, "--bptt", 5)

# ---- state ------------------------------------------------------------------------------------

SERIES = ("--synthetic", "hidden-level", "--limit", 20_000)
STATE = ("prove", "state", *SERIES, "--stride", 1, "--window", 1)


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


def assert_documented(found):
    """The manual names the keys of a check, and no others."""
    assert set(found) == documented_keys("prove state")
    assert set(found["forgetting"]) == documented_keys("forgetting")
    parts = {*found["carried"], *found["windowed_more"]}
    assert parts <= mentioned_keys("prove state")


@pytest.mark.slow
def test_a_state_that_helps_is_found_and_a_replay_finds_the_same(cli, weights):
    done = cli(*STATE, "--weights", weights, "--json")
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
    assert_documented({k: v for k, v in found.items() if k not in beside})

    checked = cli("replay", *STATE[2:], "--weights", weights, "--state-check", "--json").json()
    assert checked["state_check"] == {k: found[k] for k in checked["state_check"]}
    text = cli(*STATE, "--weights", weights).out
    assert "fresh: accuracy" in text
    assert found["verdict"] in text


def test_the_queries_of_a_graded_stream_are_judged_apart(cli, weights):
    line = ("--synthetic", "s4", "--limit", 20_000, "--window", 10, "--weights", weights)
    found = cli("prove", "state", *line, "--json").json()
    assert 0 < found["queries"]["labels"] < found["labels"] / 10
    assert "predictable labels" in found["verdict"]
    assert "on the " in cli("prove", "state", *line).out


def test_bad_rows_count_as_in_a_replay(cli, weights, tmp_path):
    path = write_csv(tmp_path / "p.csv", x=[0 if k == 40 else k % 7 + 1 for k in range(90)])
    line = ("prove", "state", path, "--feature", "log_return(x)", "--weights", weights)
    done = cli(*line, "--window", 1)
    assert done.code == 65
    assert f"{path}:42: " in done.err
    found = cli(*line, "--window", 4, "--on-bad-row", "skip", "--json").json()
    assert (found["ticks"], found["elements"], found["refused_ticks"]) == (90, 88, 1)


@pytest.mark.slow
def test_the_check_is_an_object_of_the_summary_and_changes_nothing_else(cli):
    line = ("replay", "--synthetic", "s4-latch", "--limit", 3000, *SMALL)
    plain, checked = cli(*line, "--json").json(), cli(*line, "--state-check", "--json").json()
    assert plain["digest"] == checked["digest"]
    assert set(checked) - set(plain) == {"state_check"}
    found = checked["state_check"]
    assert_documented(found)
    assert found["predictions"] == checked["predictions"]
    assert found["carried"]["log_loss"] == pytest.approx(checked["log_loss"], abs=1e-6)
    out = cli(*line, "--state-check").out
    assert "state check, 299 predictions, 298 labels:" in out
    assert "elements until other starting states agree" in out
    assert "  the state forgets its start within" in out


def band(mean, low, high, cut=0):
    return {"log_loss": mean, "mean": mean, "low": low, "high": high, "cut": cut}


def record(**changes):
    half = {"accuracy": 0.5, "log_loss": 0.6931}
    found = {
        "predictions": 9, "labels": 8, "window": 100, "carried": half,
        "windowed": half | {"log_loss": 0.7}, "fresh": half, "queries": None,
        "windowed_more": band(0.0069, 0.002, 0.012), "fresh_more": band(0.0, -0.1, 0.1),
        "mean_abs_dp": 0.01, "max_abs_dp": 0.2,
        "max_abs_dp_n": 1200, "forgetting": forget(),
    }  # fmt: skip
    return found | changes


def forget(positions=4, longer=0, most=30):
    found = {"agree_within": 1e-6, "limit": 1000, "positions": positions, "median": most}
    return found | {"not_within_limit": longer, "max": None if longer else most}


QUERIES = {"labels": 3, "windowed_more": band(0.5, 0.3, 0.7)}
HURTS = {"windowed_more": band(-0.01, -0.02, -0.005, 7)}
NEITHER = {"windowed_more": band(0.01, -0.02, 0.04)}


@pytest.mark.parametrize(
    ("changes", "word", "words"),
    [
        (
            {},
            "helps",
            "; carried state helps here: log loss 0.0069 lower than from windows of 100",
        ),
        ({}, "helps", "(windowed less carried: +0.0069, band +0.0020 to +0.0120)"),
        (HURTS, "hurts", "carried state hurts here: log loss 0.0100 higher"),
        (HURTS, "hurts", "-0.0050, 7 differences cut at 1 nat)"),
        (
            NEITHER,
            "does not matter",
            "no evidence that carrying the state matters: log loss 0.010",
        ),
        (NEITHER | {"queries": QUERIES}, "helps", "3 predictable labels, carried state helps"),
        ({"max_abs_dp": 1e-6}, "does not matter", "give the same predictions (within 1e-06)"),
        ({"labels": 0, "windowed_more": band(*[None] * 3)}, "unknown", "no label to score"),
        ({"predictions": 0, "labels": 0}, "helps", "there were no predictions to compare"),
        ({"forgetting": forget(0)}, "helps", "memory of the state (1,100 elements)"),
        ({"forgetting": forget(4, 4)}, "helps", "its start for more than 1,000 elements;"),
        ({"forgetting": forget(4, 1)}, "helps", "more than 1,000 elements at 1 of 4 positions"),
    ],
)
def test_effect_and_verdict_follow_from_the_figures(changes, word, words):
    assert effect(record(**changes)) == word
    assert words in verdict(record(**changes))


def test_lines_name_place_and_size():
    lines = list(state_lines(record(forgetting=forget(4, 1)) | {"verdict": "so"}))
    assert "  difference of p: 0.01 on average, 0.2 at most (after element 1,200)" in lines
    assert any("agree: 30 (median), not within 1,000 (most), from 4 positions" in x for x in lines)
    nothing = record(predictions=0, labels=0, forgetting=forget(0)) | {"verdict": "so"}
    assert len(list(state_lines(nothing))) == 2


# ---- causal -----------------------------------------------------------------------------------

CAUSAL = (*SMALL, "--feature", "diff(price)", "--trials", 12)


@pytest.fixture
def prices(tmp_path):
    """A random walk, whose second column is what the price does next; and the walk alone."""
    steps = np.random.default_rng(5).normal(size=701)
    price = 100 + np.cumsum(steps)[:700]
    walk = write_csv(tmp_path / "walk.csv", price=price, tip=steps[1:], k=range(700))
    return walk, write_csv(tmp_path / "bare.csv", price=price)


@pytest.mark.slow
@pytest.mark.parametrize("learn", ["--no-learn", "--learn"])
def test_a_clean_file_is_proved_and_its_digest_is_a_replays(cli, prices, learn):
    line = ("prove", "causal", prices[1], *CAUSAL, learn, "--json")
    done = cli(*line)
    assert done.code == 0
    found = done.json()
    replayed = cli("replay", prices[1], *CAUSAL[:-2], learn, "--json").json()
    same = ("digest", "ticks", "elements", "predictions", "updates")
    assert [found[k] for k in same] == [replayed[k] for k in same]
    assert (found["trials"], found["comparisons"], found["leak"]) == (12, 72, None)
    assert all(part["differing"] == 0 for part in found["stages"].values())
    assert (found["stages"]["updates"]["bytes"] > 0) == (learn == "--learn")
    assert "nothing looks ahead" in found["verdict"]
    parts = {"bytes", "differing", "stage", "tick", "element", "n", "future"}
    parts |= {"column", "kind", "relation", "next", "own", *found["stages"]}
    assert set(found) == documented_keys("prove causal")
    assert set(found) | parts == mentioned_keys("prove causal")
    again, other = (cli(*line, "--trial-seed", seed).json() for seed in (0, 2))
    assert found["bytes_compared"] == again["bytes_compared"] != other["bytes_compared"]


def test_a_column_that_reveals_the_label_is_named_with_exit_code_65(cli, prices):
    done = cli("prove", "causal", prices[0], *CAUSAL)
    assert done.code == 65
    assert "the file reveals the label before it is due, in column 'tip'" in done.err
    assert "'k'" not in done.err
    assert "scores: " in done.out


def test_a_look_ahead_in_a_feature_is_named_with_exit_code_70(cli, prices, monkeypatch):
    """A diff against the tick that follows, as `shift(-1)` makes by mistake."""

    def ahead(now, _):
        return np.concatenate([now[1:], now[-1:]]) - now

    leaks = expressions.FUNCTIONS["diff"]._replace(block=ahead)
    monkeypatch.setitem(expressions.FUNCTIONS, "diff", leaks)
    done = cli("prove", "causal", prices[1], *CAUSAL, "--json")
    assert done.code == 70
    assert done.json()["leak"]["stage"] == "features"
    assert "something looks ahead in the features: after element" in done.err


def test_a_bad_row_ends_it_or_is_left_out_as_in_a_replay(cli, prices):
    rows = prices[1].read_text().splitlines()
    rows[300], rows[500] = "oops", "0"
    prices[1].write_text("\n".join(rows))
    line = ("prove", "causal", prices[1], *SMALL, "--feature", "log_return(price)", "--trials", 12)
    assert cli(*line).code == 65
    assert cli(*line, "--on-bad-row", "skip").code == 0


def test_a_position_without_a_past_in_its_piece_is_moved_on_and_never_dropped():
    """Pieces of one tick come at the ends of a file's blocks."""
    tried = []

    class Check:
        def push(self, ticks, places):
            tried.extend(ticks.t_ns[places].tolist())

    places = [3, 4, 5, 9]
    for first, count in ((0, 3), (3, 1), (4, 1), (5, 2), (7, 3)):
        times = np.arange(first, first + count)
        proofs.push_trials(Check(), Ticks("a", times, times[:, None] * 1.0), first, places)
    assert tried == [6, 8, 9]
    assert places == [9]


# ---- live -------------------------------------------------------------------------------------

LIVE = (*SMALL, "--learn", "--feature", "diff(x)", "--feature", "y")
X, Y = np.random.default_rng(3).normal(size=(2, 300))


@pytest.fixture
def file(tmp_path):
    return write_csv(tmp_path / "a.csv", x=X, y=Y)


@pytest.mark.slow
def test_live_is_replay(cli, file):
    done = cli("prove", "live", file, *LIVE, "--json")
    assert done.code == 0
    found = done.json()
    replayed = cli("replay", file, *LIVE, "--json").json()
    assert found["same"]
    assert found["first_difference"] is None
    for name in ("digest", "ticks", "predictions", "updates"):
        assert found[name] == dict.fromkeys(("live", "replay"), replayed[name])
    assert found["updates"]["live"] > 20
    assert "live is replay: the same 28 predictions" in found["verdict"]
    assert set(found) == documented_keys("prove live")


@pytest.mark.slow
def test_a_tick_that_the_feed_does_not_bring_is_named(cli, file, tmp_path, monkeypatch):
    other = write_csv(tmp_path / "b.csv", x=np.delete(X, 150), y=np.delete(Y, 150))

    def feed(file, columns):
        return file_feed(InputFile(other, file.stream), columns)

    monkeypatch.setattr(proofs, "file_feed", feed)
    done = cli("prove", "live", file, *LIVE, "--json")
    assert done.code == 70
    found = done.json()["first_difference"]
    assert (found["cause"], found["tick"]) == ("input", 151)
    assert found["what"] == "tick 151 was missing in the live feed"
    assert "live is not replay" in done.err
