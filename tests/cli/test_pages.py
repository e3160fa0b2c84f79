"""`report` and `watch` from the command line, and progress on a terminal; see also tests/view."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import sys
import threading
import urllib.error
import urllib.request
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from stream_lstm.cli.run import page_process
from stream_lstm.config import build
from stream_lstm.errors import EndpointError, UsageError
from stream_lstm.feed.predictions import PredictionPublisher
from stream_lstm.feed.security import Security, make_keys
from stream_lstm.schema import SecurityConfig
from stream_lstm.view import report

from ..store.stores import StoredSession, series, ticks
from ..view.browser import path_of_chromium
from .lines import ANY_PORT, started, until, write_csv

pytest.importorskip("bokeh", reason="bokeh is not installed")

SMALL = ("--hidden", 4, "--window", 20, "--bptt", 5, "--feature", "x", "--learn")


@pytest.fixture(scope="module")
def made(module_cli, tmp_path_factory):
    """A folder with a store and with results of one replay, and two stores of one run each."""
    folder = tmp_path_factory.mktemp("made")
    times = [f"2026-03-0{1 + k // 300}T00:{k // 60 % 60:02}:{k % 60:02}Z" for k in range(900)]
    x = np.random.default_rng(1).normal(size=900)
    file = write_csv(folder / "walk.csv", t=times, x=x)
    to = ("--store", folder / "walk.db", "--out", folder / "walk.parquet", "--json")
    assert module_cli("replay", file, *SMALL, *to).code == 0
    for name, seed in (("one", 3), ("two", 4)):
        with StoredSession(folder / f"{name}.db") as kept:
            kept.feed(ticks(np.cumsum(series(600, seed), axis=0)))
    return folder


def text_of(path) -> str:
    """What a reader sees of a page, about."""
    html = re.sub(r"(?s)<(script|style).*?</\1>", " ", path.read_text())
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


# ---- report -----------------------------------------------------------------------------------


def test_a_report_has_verdict_figures_and_settings_and_asks_no_network(cli, made, tmp_path):
    title, out = "<script>alert(1)</script>", tmp_path / "r.html"
    done = cli("report", made / "walk.db", "--out", out, "--title", title)
    assert done.code == 0, done.err
    assert "walk (walk.db): " in done.out
    html, text = out.read_text(), text_of(out)
    assert done.out.splitlines()[0].split(": ", 1)[1][1:] in text
    for words in ("Series", "Rolling accuracy", "Reliability", "Learning", "hidden"):
        assert words in text
    assert title not in html, "what users wrote is text"
    assert not re.search(r"""<(script|link|img|iframe)[^>]+(src|href)=["']?(http|//)""", html)


@pytest.mark.slow
def test_several_runs_are_shown_beside_each_other(cli, made, tmp_path):
    sources = made / "walk.db", made / "walk.parquet"
    runs = cli("report", *sources, "--out", tmp_path / "r.html", "--json").json()["runs"]
    assert [run["name"] for run in runs] == ["walk (walk.db)", "walk (walk.parquet)"]
    assert runs[0]["verdict"] == runs[1]["verdict"], "the same run, from store and results"
    assert "Comparison" in text_of(tmp_path / "r.html")


@pytest.mark.slow
def test_streams_beyond_those_that_are_shown_are_counted(cli, made, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_RUNS", 3)
    table = pyarrow.parquet.read_table(made / "walk.parquet")
    place = table.schema.get_field_index("stream")
    many = [table.set_column(place, "stream", pa.array([f"s{k}"] * len(table))) for k in range(5)]
    pyarrow.parquet.write_table(pa.concat_tables(many), tmp_path / "many.parquet")
    line = ("report", tmp_path / "many.parquet", "--out", tmp_path / "r.html")
    assert "2 more streams are not shown; name them with --stream" in cli(*line).out
    done = cli(*line, "--stream", "s4", "--stream", "s1")
    assert done.out.count("many.parquet): ") == 2
    assert "more streams" not in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("report", "no.db", "--out", "r.html"), 66, "no such file: no.db"),
        (("report", "walk.csv", "--out", "r.html"), 65, "neither a store nor a Parquet file"),
        (("report", "walk.db", "--out", "r.html", "--figure", "loss"), 2, "are for pictures"),
        (("report", "walk.db", "--out", "r.txt"), 2, "use one of these suffixes"),
        (("report", "walk.db", "--out", "no/r.html"), 74, "there is no directory no"),
        (("report", "walk.db", "--out", "r.html", "--stream", "walks"), 2, "did you mean 'walk'?"),
        (("report", "one.db", "--out", "r.svg"), 2, "an .svg shows one figure; name it with"),
        (("report", "one.db", "--out", "r.svg", "--figure", "los"), 2, "did you mean 'loss'?"),
        (
            ("report", "one.db", "two.db", "--out", "r.svg", "--figure", "series"),
            2,
            "shows one stream",
        ),
        (("watch", "--connect", "nowhere"), 69, "cannot connect to 'nowhere'"),
        (("watch", "--connect", "tcp://127.0.0.1:5999", "--store", "no.db"), 66, "no such store"),
    ],
)
def test_a_mistake_is_one_sentence_and_an_exit_code(
    cli, made, monkeypatch, arguments, code, words
):
    monkeypatch.chdir(made)
    done = cli(*arguments)
    assert (done.code, done.err.count("\n")) == (code, 1)
    assert words in done.err


def test_without_predictions_a_report_names_the_reason(cli, tmp_path):
    file, store = write_csv(tmp_path / "short.csv", x=range(1, 15)), tmp_path / "short.db"
    assert cli("replay", file, *SMALL, "--store", store).code == 0
    done = cli("report", store, "--out", tmp_path / "r.html")
    assert done.code == 65
    assert "the series has 14 elements and the warm-up is 20" in done.err


@pytest.mark.parametrize(
    ("package", "extra", "line"),
    [
        ("bokeh", "view", ("report", "walk.db", "--out", "r.html")),
        ("bokeh", "view", ("watch", "--connect", "tcp://127.0.0.1:5999")),
        ("playwright", "pictures", ("report", "walk.db", "--out", "r.png")),
    ],
)
def test_a_missing_extra_is_named_with_its_install_line(
    cli, made, monkeypatch, package, extra, line
):
    monkeypatch.chdir(made)
    monkeypatch.setitem(sys.modules, package, None)
    done = cli(*line)
    assert done.code == 2
    assert f"needs the package {package}: pip install 'stream-lstm[{extra}]'" in done.err


# ---- pictures, made by a real browser ---------------------------------------------------------

DRAWN = "<script>Bokeh = {documents: [{is_idle: true}]}</script>"
"""What a page has once its figures are drawn."""

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def browser():
    return path_of_chromium()


def size_of(data: bytes) -> tuple[float, float]:
    """Of a PNG in pixels, of the first page of a PDF in points."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return struct.unpack(">II", data[16:24])
    assert data.startswith(b"%PDF-")
    box = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", data)
    return float(box[1]), float(box[2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stores", "form", "flags", "width", "ratio"),
    [
        (["one"], "png", ("--width", 900), 1800, (1.1, 9)),  # two pixels for each
        (["one"], "pdf", (), 595, (1.41, 1.42)),  # A4
        (["one", "two"], "pdf", ("--figure", "evidence", "--width", 800), 600, (0.4, 0.7)),
    ],
    ids=["png", "pdf", "figure"],
)
def test_a_picture_has_the_size_that_was_asked_for(
    cli, browser, made, tmp_path, stores, form, flags, width, ratio
):
    out, paths = tmp_path / f"r.{form}", [made / f"{name}.db" for name in stores]
    done = cli("report", *paths, "--out", out, *flags, "--json")
    assert done.code == 0, done.err
    assert done.json()["out"] == str(out)
    found, height = size_of(out.read_bytes())
    assert found == pytest.approx(width, abs=1)
    assert ratio[0] < height / found < ratio[1]


@pytest.mark.slow
def test_a_figure_as_an_svg_has_its_title_its_key_and_its_lines(cli, browser, made, tmp_path):
    out = tmp_path / "r.svg"
    done = cli("report", made / "one.db", "--out", out, "--figure", "loss")
    assert done.code == 0, done.err
    root = ElementTree.parse(out).getroot()
    assert root.tag == f"{SVG}svg"
    texts = ["".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")]
    key = ["model", "base rate", "last label", "ln 2"]
    assert texts[:5] == ["Rolling log loss: a (one.db)", *key]
    assert "log loss (nats)" in texts
    longest = max(root.iter(f"{SVG}path"), key=lambda path: len(path.get("d", "")))
    assert longest.get("d").count("L") > 30
    assert not list(root.iter(f"{SVG}image"))


@pytest.mark.slow
def test_a_page_asks_no_network_for_its_picture_and_fits_into_it(browser):
    from stream_lstm.view.pictures import page_picture

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        page = f"<img src='{address}'>{DRAWN}"
        assert size_of(page_picture(page, "png", 400, browser))[0] == 800
        with pytest.raises(BlockingIOError):
            server.accept()
    page = f"<div style='height: 9000px'></div>{DRAWN}"
    with pytest.raises(UsageError, match=r"too long for a \.png: make a \.pdf"):
        page_picture(page, "png", 400, browser)


@pytest.mark.slow
def test_without_a_browser_it_names_how_to_get_one(cli, browser, made, tmp_path, monkeypatch):
    line = ("report", made / "one.db", "--out", tmp_path / "r.png")
    wrong = cli(*line, "--browser", "/bin/false")
    assert (wrong.code, "/bin/false does not start" in wrong.err) == (2, True)
    monkeypatch.setattr("stream_lstm.view.pictures.BROWSERS", ("no-browser",))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    done = cli(*line)
    assert done.code == 2
    assert "apt-get install chromium, or playwright install chromium" in done.err


# ---- watch ------------------------------------------------------------------------------------


@pytest.fixture
def published():
    with PredictionPublisher(ANY_PORT) as publisher:
        yield publisher


@pytest.mark.slow
def test_the_page_of_a_daemon_is_served_on_loopback_and_ends_with_it(published):
    with page_process(published.endpoint, build({})) as page:
        address = page.endpoint()
        assert address.startswith("http://127.0.0.1:")
        published.wait_for_subscribers(1, timeout_s=30)
        with urllib.request.urlopen(address, timeout=30) as answer:
            html = answer.read().decode()
        for path in ("", "ws", "static/js/bokeh.min.js"):
            asked = urllib.request.Request(address + path, headers={"Host": "evil.example"})
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(asked, timeout=30)
            assert refused.value.code == 403
            assert b"'evil.example' is not served here" in refused.value.read()
            refused.value.close()
    assert published.endpoint in html
    assert "<h3>Rolling accuracy</h3>" in html
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=30)


@pytest.mark.slow
def test_a_daemon_that_rejects_the_page_is_reported(tmp_path):
    make_keys(tmp_path / "keys")
    keyed = Security(SecurityConfig(curve_dir=str(tmp_path / "keys")))
    with (
        PredictionPublisher(ANY_PORT, security=keyed) as published,
        started("watch", "--connect", published.endpoint, "--port", 0) as process,
    ):
        line = next(line for line in process.stderr if not line.startswith("ready"))
        process.terminate()
    assert "--curve-dir" in line


@pytest.mark.slow
def test_a_page_that_cannot_be_served_is_reported(published, tmp_path):
    config = build({"curve_dir": str(tmp_path / "none")})
    with (
        page_process("tcp://127.0.0.1:5999", config) as page,
        pytest.raises(EndpointError, match="the live page ended with code 1"),
    ):
        page.endpoint()
    # in another process, since the server leaves the socket that it could not bind to its end
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started("watch", "--connect", published.endpoint, "--port", port) as process:
            _, err = process.communicate(timeout=60)
    assert process.returncode == 69
    assert f"cannot serve the live page at 127.0.0.1:{port}" in err
    assert "choose another port with --port" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_demo_that_is_watched_has_a_store_for_its_page_that_is_deleted_at_the_end(tmp_path):
    folder = os.environ | {"TMPDIR": str(tmp_path)}
    with started("demo", "--seconds", 300, "--watch", "--json", env=folder) as process:
        line = until(process.stderr, "live page: ")
        assert list(tmp_path.glob("stream-lstm-*/demo.db"))
        with urllib.request.urlopen(line.split("live page: ")[1].strip(), timeout=60) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["interrupted"] is True
    assert not list(tmp_path.glob("stream-lstm-*"))


# ---- progress ---------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal, and what was written to it."""

    def __init__(self) -> None:
        self._master, slave = os.openpty()
        self.screen = os.fdopen(slave, "w")
        self._read: list[bytes] = []
        self._thread = threading.Thread(target=self._drain)
        self._thread.start()

    def _drain(self) -> None:
        try:
            while data := os.read(self._master, 65_536):
                self._read.append(data)
        except OSError:
            pass  # what Linux says once nobody has the other end any more

    def text(self) -> str:
        """Close it; return all that was written, without the commands to the screen."""
        self.screen.close()
        self._thread.join()
        os.close(self._master)
        self.raw = b"".join(self._read).decode()
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.raw)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "to", "unit"),
    [("report", "r.html", "rows"), ("verify", "", "inputs"), ("export", "tables", "rows")],
)
def test_a_terminal_gets_a_bar_with_rate_and_time_left_and_nothing_else_does(
    cli, made, tmp_path, monkeypatch, command, to, unit
):
    line = (command, made / "one.db", *(("--out", tmp_path / to) if to else ()))
    outcome = cli(*line)
    assert (outcome.code, outcome.err) == (0, "")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    more = ("--overwrite",) if command == "export" else ()
    for flags, no_color in (((), ""), ((), "1"), (("--quiet",), "")):
        monkeypatch.setenv("NO_COLOR", no_color)
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal.screen)
            outcome = cli(*line, *more, *flags)
        text = terminal.text()
        assert outcome.code == 0
        assert "100%" not in outcome.out
        if flags:
            assert text == ""
            continue
        assert bool(re.search(r"\x1b\[[0-9;]*3[0-9;]*m", terminal.raw)) == (not no_color)
        last = re.split(r"[\r\n]+", text.strip())[-1]
        assert re.search(rf"100% [\d,]+ {unit}, [\d,]+/s \d+:\d\d:\d\d", last), last
        assert max(map(len, re.split(r"[\r\n]+", text))) <= 80
