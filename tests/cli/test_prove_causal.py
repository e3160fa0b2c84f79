"""`prove causal` from the command line: a clean file, a file that knows, and a planted leak."""

import numpy as np
import pytest

from stream_lstm.cli import prove_causal
from stream_lstm.core import expressions
from stream_lstm.events import Ticks

from ..test_manual import documented_keys, mentioned_keys

SIZES = ("--hidden", 3, "--window", 20, "--bptt", 5)
SMALL = (*SIZES, "--trials", 12)


@pytest.fixture
def prices(tmp_path):
    """A random walk, whose second column says what the price does next."""
    steps = np.random.default_rng(5).normal(size=701)
    price = 100 + np.cumsum(steps)[:700]
    rows = [
        f"{p!r},{s!r},{k}"
        for k, (p, s) in enumerate(zip(price.tolist(), steps[1:].tolist(), strict=True))
    ]
    path = tmp_path / "walk.csv"
    path.write_text("price,tip,k\n" + "\n".join(rows) + "\n")
    bare = tmp_path / "bare.csv"
    bare.write_text("price\n" + "\n".join(row.split(",")[0] for row in rows) + "\n")
    return path, bare


@pytest.mark.parametrize("learn", ["--no-learn", "--learn"])
def test_a_clean_file_is_proved_and_its_digest_is_a_replays(cli, prices, learn):
    line = (prices[1], "--feature", "diff(price)", learn)
    done = cli("prove", "causal", *line, *SMALL, "--json")
    assert done.code == 0
    found = done.json()
    replayed = cli("replay", *line, *SIZES, "--json").json()
    assert found["digest"] == replayed["digest"]
    same = ("ticks", "elements", "predictions", "updates")
    assert [found[k] for k in same] == [replayed[k] for k in same]
    assert (found["trials"], found["comparisons"], found["leak"]) == (12, 72, None)
    assert all(part["differing"] == 0 for part in found["stages"].values())
    assert (found["stages"]["updates"]["bytes"] > 0) == (learn == "--learn")
    assert "nothing looks ahead" in found["verdict"]
    assert set(found) == documented_keys("prove causal")
    parts = set(found["stages"]) | {"bytes", "differing"}
    parts |= {"stage", "tick", "element", "n", "future"}
    parts |= {"column", "kind", "relation", "next", "own"}
    assert set(found) | parts == mentioned_keys("prove causal")


def test_places_and_futures_come_from_the_seed(cli, prices):
    line = ("prove", "causal", prices[1], "--feature", "diff(price)", *SMALL, "--json")
    one, again, other = (cli(*line, "--trial-seed", seed).json() for seed in (1, 1, 2))
    assert one["bytes_compared"] == again["bytes_compared"] != other["bytes_compared"]


def test_a_column_that_knows_the_label_is_named_with_exit_code_65(cli, prices):
    done = cli("prove", "causal", prices[0], "--feature", "diff(price)", *SMALL)
    assert done.code == 65
    assert "the file knows the label before it is there, in column 'tip'" in done.err
    assert "'k'" not in done.err
    assert "scores: " in done.out


def test_a_look_ahead_in_a_feature_is_named_with_exit_code_70(cli, prices, monkeypatch):
    """A diff against the tick that follows, as `shift(-1)` makes by mistake."""

    def ahead(x):
        return np.concatenate([x[2:], x[-1:]]) - x[1:]

    leaks = expressions.FUNCTIONS["diff"]._replace(block=ahead)
    monkeypatch.setitem(expressions.FUNCTIONS, "diff", leaks)
    done = cli("prove", "causal", prices[1], "--feature", "diff(price)", *SMALL, "--json")
    assert done.code == 70
    assert done.json()["leak"]["stage"] == "features"
    assert "something looks ahead in the features: after element" in done.err


def test_what_cannot_be_tried_is_said(cli, prices, tmp_path):
    line = ("prove", "causal", prices[1], "--feature", "diff(price)")
    short = cli(*line, "--limit", 15, *SMALL)
    assert short.code == 65
    assert "no prediction before a place" in short.err
    assert cli("prove", "causal", tmp_path / "none.csv", "--feature", "x").code == 66
    assert cli("prove", "causal", prices[1]).code == 2
    assert cli("prove", "causal").code == 2


def test_a_bad_row_ends_it_or_is_left_out_as_in_a_replay(cli, prices):
    rows = prices[1].read_text().splitlines()
    rows[300], rows[500] = "oops", "0"
    prices[1].write_text("\n".join(rows))
    line = ("prove", "causal", prices[1], "--feature", "log_return(price)", *SMALL)
    assert cli(*line).code == 65
    assert cli(*line, "--on-bad-row", "skip").code == 0


def test_a_place_without_a_past_in_its_piece_is_moved_on_and_never_dropped():
    """Pieces of one tick come at the ends of a file's blocks."""
    tried = []

    class Check:
        def push(self, ticks, places):
            tried.extend(ticks.t_ns[places].tolist())

    places = [3, 4, 5, 9]
    for first, count in ((0, 3), (3, 1), (4, 1), (5, 2), (7, 3)):
        times = np.arange(first, first + count)
        prove_causal._push(Check(), Ticks("a", times, times[:, None] * 1.0), first, places)
    assert tried == [6, 8, 9]
    assert places == [9]
