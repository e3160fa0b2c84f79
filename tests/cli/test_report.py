"""`stream-lstm report` from the command line, on stores and files of results."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from stream_lstm.cli.main import main
from stream_lstm.view import report

pytest.importorskip("bokeh", reason="bokeh is not installed")

SMALL = ("--hidden", 4, "--window", 20, "--bptt", 10, "--feature", "x", "--learn")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a store and with results, of one replay."""
    folder = tmp_path_factory.mktemp("made")
    values = np.random.default_rng(1).normal(size=900)
    lines = [f"2026-03-0{1 + k // 300}T00:{k // 60 % 60:02}:{k % 60:02}Z,{v!r}"
             for k, v in enumerate(values.tolist())]  # fmt: skip
    (folder / "walk.csv").write_text("\n".join(["t,x", *lines]) + "\n")
    to = ("--store", folder / "walk.db", "--out", folder / "walk.parquet", "--json")
    arguments = ["replay", folder / "walk.csv", *SMALL, *to]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["stream-lstm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return folder


def text_of(path) -> str:
    """What a reader sees of a page, about."""
    html = re.sub(r"(?s)<(script|style).*?</\1>", " ", path.read_text())
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_a_report_tells_verdict_figures_and_settings(cli, made, tmp_path):
    outcome = cli("report", made / "walk.db", "--out", tmp_path / "r.html")
    assert outcome.code == 0, outcome.err
    assert "walk (walk.db): " in outcome.out
    text = text_of(tmp_path / "r.html")
    verdict = outcome.out.splitlines()[0].split(": ", 1)[1]
    assert verdict[1:] in text
    for title in ("Series", "Rolling accuracy", "Reliability", "Learning", "hidden"):
        assert title in text


def test_a_report_asks_no_network(cli, made, tmp_path):
    cli("report", made / "walk.db", "--out", tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text()
    assert not re.search(r"""<(script|link|img|iframe)[^>]+(src|href)=["']?(http|//)""", html)


def test_several_runs_stand_side_by_side(cli, made, tmp_path):
    sources = made / "walk.db", made / "walk.parquet"
    outcome = cli("report", *sources, "--out", tmp_path / "r.html", "--json")
    assert [run["name"] for run in outcome.json()["runs"]] == [
        "walk (walk.db)", "walk (walk.parquet)",
    ]  # fmt: skip
    first, second = (run["verdict"] for run in outcome.json()["runs"])
    assert first == second, "the same run, from the store and from its results"
    assert "Comparison" in text_of(tmp_path / "r.html")


def test_streams_beyond_those_that_are_shown_are_counted(cli, made, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_RUNS", 3)
    table = pyarrow.parquet.read_table(made / "walk.parquet")
    place = table.schema.get_field_index("stream")
    many = [table.set_column(place, "stream", pa.array([f"s{k}"] * len(table))) for k in range(5)]
    pyarrow.parquet.write_table(pa.concat_tables(many), tmp_path / "many.parquet")
    outcome = cli("report", tmp_path / "many.parquet", "--out", tmp_path / "r.html")
    assert "2 more streams are not shown; name them with --stream" in outcome.out
    named = ("--stream", "s4", "--stream", "s1")
    outcome = cli("report", tmp_path / "many.parquet", "--out", tmp_path / "r.html", *named)
    assert outcome.out.count("many.parquet): ") == 2
    assert "more streams" not in outcome.out


def test_what_users_wrote_is_text_in_the_page(cli, made, tmp_path):
    title = "<script>alert(1)</script>"
    cli("report", made / "walk.db", "--out", tmp_path / "r.html", "--title", title)
    assert title not in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("no.db", "--out", "r.html"), 66, "no such file: no.db"),
        (("walk.csv", "--out", "r.html"), 65, "neither a store nor a Parquet file"),
        (("walk.db", "--out", "r.html", "--figure", "loss"), 2, "are of pictures"),
        (("walk.db", "--out", "r.txt"), 2, "give it such a suffix"),
        (("walk.db", "--out", "no/r.html"), 74, "there is no directory no"),
        (("walk.db", "--out", "r.html", "--stream", "walks"), 2, "did you mean 'walk'?"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(cli, made, monkeypatch, arguments, code, told):
    monkeypatch.chdir(made)
    outcome = cli("report", *arguments)
    assert outcome.code == code
    assert told in outcome.err
    assert outcome.err.count("\n") == 1


def test_without_predictions_it_says_why(cli, tmp_path):
    (tmp_path / "short.csv").write_text("x\n" + "\n".join(map(str, range(1, 15))) + "\n")
    store = tmp_path / "short.db"
    assert cli("replay", tmp_path / "short.csv", *SMALL, "--store", store).code == 0
    outcome = cli("report", store, "--out", tmp_path / "r.html")
    assert outcome.code == 65
    assert "the series has 14 elements and the warm-up is 20" in outcome.err


@pytest.mark.parametrize(
    "arguments",
    [("report", "walk.db", "--out", "r.html"), ("watch", "--connect", "tcp://127.0.0.1:5999")],
)
def test_a_missing_extra_is_told_with_its_install_line(cli, made, monkeypatch, arguments):
    monkeypatch.chdir(made)
    monkeypatch.setitem(__import__("sys").modules, "bokeh", None)
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert "needs the package bokeh: pip install 'stream-lstm[view]'" in outcome.err
