"""The demo's report: the four forecasters on the same labels."""

import numpy as np
import pytest

from stream_lstm.cli.demo_report import compare, lines, sentences
from stream_lstm.errors import StreamLSTMError
from stream_lstm.events import Score
from stream_lstm.feed.synthetic import HiddenLevel


def scores(p=0.6, seed=1, count=200):
    values = HiddenLevel(seed).block(10 * count + 100)
    return [
        Score("s", n, 0, p, int(values[n, 0] > 0), 0.0, 0.5, 0.5)
        for n in range(100, 100 + 10 * count, 10)
    ]


def test_the_best_is_the_filter_on_the_very_same_labels():
    source = HiddenLevel(1)
    values = source.block(2100)
    p = source.best(values)
    n = np.arange(100, 2100, 10)
    label = values[n, 0] > 0
    figures = compare(scores(), HiddenLevel(1))
    best = np.where(label, p[n - 1], 1 - p[n - 1])
    assert figures["all"]["best"]["accuracy"] == np.mean(best > 0.5)
    assert figures["all"]["best"]["log_loss"] == pytest.approx(-np.log(best).mean())
    assert figures["all"]["last_label"]["accuracy"] == np.mean((values[n - 1, 0] > 0) == label)
    assert figures["all"]["model"]["accuracy"] == label.mean()
    assert figures["second_half"]["model"]["accuracy"] == label[100:].mean()
    assert figures["all"]["base_rate"]["log_loss"] == pytest.approx(np.log(2))


def test_another_series_is_not_taken_for_it():
    with pytest.raises(StreamLSTMError, match="seed"):
        compare(scores(seed=1), HiddenLevel(2))


def test_nothing_scored_is_said():
    assert compare([], HiddenLevel(1)) == {}
    text = lines(0, {})
    assert "Nothing was scored" in text[0]
    assert "stream-lstm replay" in text[-1]


def test_the_sentences_say_what_the_figures_say():
    names = ("model", "last_label", "base_rate", "best")
    worse = {name: {"accuracy": 0.5, "log_loss": 0.69} for name in names}
    worse["model"]["log_loss"] = 0.7
    assert "does not beat the base rate" in sentences(10, worse)[1]
    better = {name: dict(figures) for name, figures in worse.items()}
    better["model"]["log_loss"], better["best"]["log_loss"] = 0.60, 0.59
    assert "came 90% of the way there" in sentences(10, better)[1]


def test_the_table_fits_a_terminal():
    text = lines(200, compare(scores(), HiddenLevel(1)))
    assert max(map(len, text[:6])) <= 80
    assert text[2].startswith("the model")
