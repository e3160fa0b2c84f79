"""`stream-lstm demo` in a process of its own, and its report of four forecasters."""

import os
import re
import signal

import msgspec
import numpy as np
import pytest

from stream_lstm.cli.demo import lines, sentences
from stream_lstm.core.scores import compare_forecasters
from stream_lstm.errors import StreamLSTMError
from stream_lstm.events import Score
from stream_lstm.feed.synthetic import HiddenLevel

from .lines import WAIT_S, started, until


def assert_feed_is_gone(err):
    with pytest.raises(ProcessLookupError):
        os.kill(int(re.search(r"ready: .*process (\d+)", err)[1]), 0)


@pytest.mark.slow
def test_it_shows_a_model_that_learns():
    process = started("demo", "--seconds", "0.5", "--speed", "12000", "--json")
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
    assert_feed_is_gone(err)
    assert "\x1b" not in out + err
    summary = msgspec.json.decode(out)
    assert (summary["elements"], summary["labels"]) == (6000, 590)
    assert summary["interrupted"] is False
    figures = summary["forecasters"]["all"]
    prefixes = {"model": "", "base_rate": "base_rate_", "last_label": "last_label_"}
    for name, prefix in prefixes.items():
        for figure in ("accuracy", "log_loss"):
            assert figures[name][figure] == pytest.approx(summary[prefix + figure], abs=1e-6)
    order = ("best", "model", "last_label", "base_rate")
    losses = [figures[name]["log_loss"] for name in order]
    assert losses == sorted(losses)


@pytest.mark.slow
def test_ctrl_c_ends_it_with_the_figures_so_far():
    process = started("demo", "--seconds", "300", "--speed", "3000")
    try:
        ready = until(process.stderr, "ready: ")
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, rest) == (0, "")
    assert_feed_is_gone(ready)
    assert "Next, a file of yours: stream-lstm replay" in out


# ---- the report -------------------------------------------------------------------------------


def scores(p=0.6, seed=1, count=200):
    values = HiddenLevel(seed).block(10 * count + 100)
    return [
        Score("s", n, 0, p, int(values[n, 0] > 0), 0.0, 0.5, 0.5)
        for n in range(100, 100 + 10 * count, 10)
    ]


def test_the_best_is_the_filter_on_the_very_same_labels():
    source = HiddenLevel(1)
    values = source.block(2100)
    p, n = source.best(values), np.arange(100, 2100, 10)
    label = values[n, 0] > 0
    figures = compare_forecasters(scores(), HiddenLevel(1))
    best = np.where(label, p[n - 1], 1 - p[n - 1])
    assert figures["all"]["best"]["accuracy"] == np.mean(best > 0.5)
    assert figures["all"]["best"]["log_loss"] == pytest.approx(-np.log(best).mean())
    assert figures["all"]["last_label"]["accuracy"] == np.mean((values[n - 1, 0] > 0) == label)
    assert figures["all"]["model"]["accuracy"] == label.mean()
    assert figures["second_half"]["model"]["accuracy"] == label[100:].mean()
    assert figures["all"]["base_rate"]["log_loss"] == pytest.approx(np.log(2))
    with pytest.raises(StreamLSTMError, match="seed"):
        compare_forecasters(scores(seed=1), HiddenLevel(2))


def test_the_report_fits_a_terminal_and_names_the_next_step():
    text = list(lines(200, compare_forecasters(scores(), HiddenLevel(1))))
    assert max(map(len, text[:6])) <= 80
    assert text[2].startswith("the model")
    nothing = list(lines(0, compare_forecasters([], HiddenLevel(1))))
    assert "Nothing was scored" in nothing[0]
    for report in (text, nothing):
        assert "stream-lstm replay" in report[-1]


def test_the_sentences_follow_from_the_figures():
    names = ("model", "last_label", "base_rate", "best")
    worse = {name: {"accuracy": 0.5, "log_loss": 0.69} for name in names}
    worse["model"]["log_loss"] = 0.7
    assert "does not beat the base rate" in sentences(10, worse)[1]
    better = {name: dict(figures) for name, figures in worse.items()}
    better["model"]["log_loss"], better["best"]["log_loss"] = 0.60, 0.59
    assert "came 90% of the way there" in sentences(10, better)[1]
