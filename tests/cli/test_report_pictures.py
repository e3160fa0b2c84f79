"""Pictures of a report, made by a real browser."""

from __future__ import annotations

import re
import socket
import struct
from xml.etree import ElementTree

import numpy as np
import pytest

from stream_lstm.errors import UsageError

from ..store.stores import Kept, series, ticks
from ..view.browser import path_of_chromium

pytest.importorskip("bokeh", reason="bokeh is not installed")

DRAWN = "<script>Bokeh = {documents: [{is_idle: true}]}</script>"
"""What a page has once its figures are drawn."""

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module", autouse=True)
def browser():
    return path_of_chromium()


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two stores, of a run each."""
    folder = tmp_path_factory.mktemp("stores")
    for name, seed in (("one", 3), ("two", 4)):
        with Kept(folder / f"{name}.db") as kept:
            kept.give(ticks(np.cumsum(series(600, seed), axis=0)))
    return folder


def size_of_png(data: bytes) -> tuple[int, int]:
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", data[16:24])


def size_of_pdf(data: bytes) -> tuple[float, float]:
    """In points, of its first page."""
    assert data.startswith(b"%PDF-")
    box = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", data)
    return float(box[1]), float(box[2])


def test_the_page_as_a_png_has_two_pixels_for_each_that_was_asked_for(cli, stores, tmp_path):
    out = tmp_path / "r.png"
    outcome = cli("report", stores / "one.db", "--out", out, "--width", 900, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json()["out"] == str(out)
    width, height = size_of_png(out.read_bytes())
    assert width == 1800
    assert height > 2000


def test_the_page_as_a_pdf_is_on_a4(cli, stores, tmp_path):
    out = tmp_path / "r.pdf"
    outcome = cli("report", stores / "one.db", stores / "two.db", "--out", out)
    assert outcome.code == 0, outcome.err
    assert size_of_pdf(out.read_bytes()) == pytest.approx((595, 842), abs=1)


def test_a_figure_as_an_svg_has_its_title_its_key_and_its_lines(cli, stores, tmp_path):
    out = tmp_path / "r.svg"
    outcome = cli("report", stores / "one.db", "--out", out, "--figure", "loss")
    assert outcome.code == 0, outcome.err
    root = ElementTree.parse(out).getroot()
    assert root.tag == f"{SVG}svg"
    texts = ["".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")]
    assert texts[:5] == [
        "Rolling log loss: a (one.db)",
        "model",
        "base rate",
        "last label",
        "ln 2",
    ]
    assert "log loss (nats)" in texts
    longest = max(root.iter(f"{SVG}path"), key=lambda path: len(path.get("d", "")))
    assert longest.get("d").count("L") > 30
    assert not list(root.iter(f"{SVG}image"))


@pytest.mark.parametrize("form", ["png", "pdf"])
def test_a_figure_that_runs_share_has_the_size_that_was_asked_for(cli, stores, tmp_path, form):
    out = tmp_path / f"r.{form}"
    sources = stores / "one.db", stores / "two.db"
    outcome = cli("report", *sources, "--out", out, "--figure", "evidence", "--width", 800)
    assert outcome.code == 0, outcome.err
    width, height = {"png": size_of_png, "pdf": size_of_pdf}[form](out.read_bytes())
    assert width == pytest.approx(1600 if form == "png" else 600, abs=1)
    assert 0.4 < height / width < 0.7


def test_what_asks_the_network_while_a_picture_is_made_gets_nowhere(browser):
    from stream_lstm.view.pictures import page_picture

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        page = f"<img src='{address}'>{DRAWN}"
        assert size_of_png(page_picture(page, "png", 400, browser))[0] == 800
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_page_too_long_for_a_png_is_refused(browser):
    from stream_lstm.view.pictures import page_picture

    page = f"<div style='height: 9000px'></div>{DRAWN}"
    with pytest.raises(UsageError, match=r"too long for a \.png: make a \.pdf"):
        page_picture(page, "png", 400, browser)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("one.db", "--out", "r.svg"), "an .svg shows one figure; name it with --figure: series,"),
        (("one.db", "--out", "r.svg", "--figure", "los"), "did you mean 'loss'?"),
        (("one.db", "two.db", "--out", "r.svg", "--figure", "series"), "shows one stream"),
        (("one.db", "--out", "r.png", "--browser", "/bin/false"), "/bin/false does not start"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(cli, stores, monkeypatch, arguments, told):
    monkeypatch.chdir(stores)
    outcome = cli("report", *arguments)
    assert outcome.code == 2
    assert told in outcome.err
    assert outcome.err.count("\n") == 1


def test_without_a_browser_it_says_how_to_get_one(cli, stores, tmp_path, monkeypatch):
    monkeypatch.setattr("stream_lstm.view.pictures.BROWSERS", ("no-browser",))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    outcome = cli("report", stores / "one.db", "--out", tmp_path / "r.png")
    assert outcome.code == 2
    assert "apt-get install chromium, or playwright install chromium" in outcome.err


def test_without_playwright_it_says_how_to_install_it(cli, stores, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "playwright", None)
    outcome = cli("report", stores / "one.db", "--out", tmp_path / "r.png")
    assert outcome.code == 2
    assert "needs the package playwright: pip install 'stream-lstm[pictures]'" in outcome.err
