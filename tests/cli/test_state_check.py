"""`replay --state-check` and `prove state` from the command line, and their sentences."""

import pytest

from stream_lstm.cli.state_check import effect, state_lines, verdict

from ..test_manual import documented_keys, mentioned_keys

SMALL = ("--hidden", 4, "--window", 20)


def test_the_check_is_an_object_of_the_summary_and_changes_nothing_else(cli):
    line = ("replay", "--synthetic", "s4-latch", "--limit", 3000, *SMALL, "--json")
    plain, checked = cli(*line).json(), cli(*line, "--state-check").json()
    assert plain["digest"] == checked["digest"]
    assert set(checked) - set(plain) == {"state_check"}
    found = checked["state_check"]
    assert_told(found)
    assert found["predictions"] == checked["predictions"]
    assert found["carried"]["log_loss"] == pytest.approx(checked["log_loss"], abs=1e-6)


def assert_told(found):
    """The manual names the keys of a check, and no others."""
    assert set(found) == documented_keys("prove state")
    assert set(found["forgetting"]) == documented_keys("forgetting")
    parts = {*found["carried"], *found["windowed_more"]}
    assert parts <= mentioned_keys("prove state")


def test_people_are_told_in_lines(cli):
    line = ("replay", "--synthetic", "s1", "--limit", 2100, *SMALL, "--state-check")
    out = cli(*line).out
    assert "state check, 209 predictions, 208 labels:" in out
    assert "elements until other starting states agree" in out
    assert "  the state has forgotten its start after" in out


def test_learning_and_the_check_do_not_go_together(cli):
    done = cli("replay", "--synthetic", "s1", "--limit", 100, "--learn", "--state-check")
    assert done.code == 2
    assert "leave out --learn" in done.err


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


QUERIES = {"labels": 3, "windowed_more": band(0.5, 0.3, 0.7)}


def forget(positions=4, longer=0, most=30):
    found = {"agree_within": 1e-6, "limit": 1000, "positions": positions, "median": most}
    return found | {"not_within_limit": longer, "max": None if longer else most}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "at most; carried state helps here: log loss 0.0069 lower than from windows of 100"),
        ({}, "(windowed less carried: +0.0069, band +0.0020 to +0.0120)"),
        ({"windowed_more": band(-0.01, -0.02, -0.005)}, "hurts here: log loss 0.0100 higher"),
        ({"windowed_more": band(-0.01, -0.02, -0.005, 7)}, "-0.0050, 7 differences cut at 1 nat)"),
        (
            {"windowed_more": band(0.01, -0.02, 0.04)},
            "does not matter here that these labels could show: log loss",
        ),
        (
            {"windowed_more": band(0.01, -0.02, 0.04)},
            "0.0100 lower than from windows of 100 (windowed less",
        ),
        ({"queries": QUERIES}, "on the 3 labels that are no coins carried state helps here"),
        ({"max_abs_dp": 1e-6}, "windows of 100 give the same predictions (within 1e-06)"),
        ({"labels": 0}, "there was no label to judge by"),
        ({"predictions": 0, "labels": 0}, "there were no predictions to compare"),
        ({"forgetting": forget(0)}, "too short to see what the state remembers (1,100 elements)"),
        ({"forgetting": forget(4, 4)}, "remembers its start for more than 1,000 elements;"),
        ({"forgetting": forget(4, 1)}, "more than 1,000 elements at 1 of 4 positions"),
    ],
)
def test_the_verdict_says_what_the_figures_say(changes, words):
    assert words in verdict(record(**changes))


def test_lines_say_where_and_how_much():
    found = record(forgetting=forget(4, 1))
    lines = state_lines(found | {"verdict": "so"})
    assert "  difference of p: 0.01 on average, 0.2 at most (after element 1,200)" in lines
    assert any("agree: 30 (median), not within 1,000 (most), from 4 positions" in x for x in lines)
    nothing = record(predictions=0, labels=0, forgetting=forget(0))
    assert len(state_lines(nothing | {"verdict": "so"})) == 2


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "helps"),
        ({"windowed_more": band(-0.01, -0.02, -0.005)}, "hurts"),
        ({"windowed_more": band(0.01, -0.02, 0.04)}, "does not matter"),
        ({"max_abs_dp": 1e-6}, "does not matter"),
        ({"windowed_more": band(0.01, -0.02, 0.04), "queries": QUERIES}, "helps"),
        ({"windowed_more": band(None, None, None), "labels": 0}, "unknown"),
    ],
)
def test_the_effect_is_one_word(changes, word):
    assert effect(record(**changes)) == word
