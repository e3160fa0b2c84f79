"""What the figures say and show of a track, without a browser."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("bokeh", reason="bokeh is not installed")

from bokeh.document import Document

from stream_lstm.view.figures import Panel, panels, plot, set_powers
from stream_lstm.view.track import Track, Updates


def panel(name: str) -> Panel:
    return next(one for one in panels() if one.name == name)


def learnt(norms: list[float], *, accepted: bool = True) -> Track:
    track, n = Track("a"), np.arange(100, 100 + 10 * len(norms), 10)
    flags = np.full(len(n), accepted)
    reasons = [] if accepted else ["change too large"] * len(n)
    track.update(Updates(n, n, np.full(len(n), 0.7), np.array(norms), flags, reasons))
    return track


@pytest.mark.parametrize("name", ["series", "updates"])
def test_without_a_store_a_figure_says_in_its_place_what_to_do(name: str) -> None:
    track = Track("a")
    assert not panel(name).has_data(track)
    assert "start watch with --store FILE to see it" in panel(name).note(track)


def test_with_a_store_that_has_nothing_yet_it_does_not_ask_for_one() -> None:
    track = Track("a")
    track.has_store = True
    assert panel("series").note(track) == "The store has no element yet."
    assert "the model does not learn (--learn)" in panel("updates").note(track)


def test_updates_that_were_all_refused_are_shown() -> None:
    track = learnt([2.0, 3.0], accepted=False)
    shown = panel("updates")
    assert shown.has_data(track)
    shown.fill(track)
    drawn = [one.data_source.data for one in shown.figure.renderers]
    assert [100.0, 110.0] in [list(data["x"]) for data in drawn if "x" in data]


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.04, 0.9), (0.2, 0.9), (1.0, 1400.0), (1e-9, 1e6), (0.99, 1.01), (3.0, 4.0)],
)
def test_a_logarithmic_axis_has_a_few_round_ticks(low: float, high: float) -> None:
    axis = plot("y", y_axis_type="log").yaxis[0]
    set_powers(axis, low, high)
    inside = [tick for tick in axis.ticker.ticks if low <= tick <= high]
    assert 1 <= len(inside) <= 10


def test_figures_that_are_filled_again_keep_their_models() -> None:
    # Bokeh looks through a whole document for each model that is put in another's place
    shown, document = panel("updates"), Document()
    document.add_root(shown.figure)
    shown.fill(learnt([0.2, 0.5]))
    before = set(document.models)
    shown.fill(learnt([0.021, 52.0, 0.3]))
    assert set(document.models) == before
