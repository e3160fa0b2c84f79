"""The report in a real browser, opened from a file with the network off."""

from __future__ import annotations

import numpy as np
import pytest

from ..store.stores import StoredSession, series, ticks
from .browser import SIZES, Tab, chromium

pytest.importorskip("bokeh", reason="bokeh is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports on one run and on two, as files."""
    from stream_lstm.view.report import read_runs, report

    folder = tmp_path_factory.mktemp("pages")
    for name, seed in (("a", 3), ("b", 4)):
        with StoredSession(folder / f"{name}.db") as kept:
            kept.feed(ticks(np.cumsum(series(600, seed), axis=0)))
    one, _ = read_runs([folder / "a.db"])
    two, _ = read_runs([folder / "a.db", folder / "b.db"])
    (folder / "one.html").write_text(report(one, "One", []), encoding="utf-8")
    (folder / "two.html").write_text(report(two, "Two", []), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize(
    ("size", "scheme"), [("desk", "light"), ("desk", "dark"), ("phone", "light")]
)
def test_it_opens_without_a_network_and_fits_the_window(browser, pages, size, scheme):
    assert size in SIZES
    tab = Tab(browser, size=size, scheme=scheme, offline=True)
    tab.open((pages / "one.html").as_uri())
    drawn = tab.drawn()
    assert len(drawn) == 7
    assert all(points > 10 for points in drawn.values())
    assert not tab.overflows()
    assert tab.errors == []
    assert all(url.startswith(("file:", "data:")) for url in tab.requests)
    tab.close()


def test_runs_side_by_side_share_figures(browser, pages):
    tab = Tab(browser, offline=True)
    tab.open((pages / "two.html").as_uri())
    drawn = tab.drawn()
    assert {"evidence-all", "loss-all"} < set(drawn)
    assert len(drawn) == 2 + 2 * 7
    assert "Comparison" in tab.text()
    assert tab.errors == []
    tab.close()
