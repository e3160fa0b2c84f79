"""The README and the manual are true: names, flags, links and keys are those of the program.

`python -m tests.test_manual` writes the configuration reference from the schema, and the table of
feature functions from their registry.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import math
import re
import runpy
import shlex
import threading
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import typer

import stream_lstm
from stream_lstm.cli.main import app
from stream_lstm.cli.options import flag, key_default, key_help
from stream_lstm.config import KEYS, TABLES
from stream_lstm.core.expressions import parse
from stream_lstm.core.functions import FUNCTIONS, signature
from stream_lstm.events import Prediction, Score
from stream_lstm.feed.predictions import PredictionPublisher
from stream_lstm.feed.security import Reason
from stream_lstm.feed.sequence import CAUSES
from stream_lstm.serve import logs, monitor
from stream_lstm.store.output import open_output

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
MANUAL = Path(inspect.getfile(stream_lstm)).parent / "manual"
PAGES = sorted(MANUAL.glob("*.md"))
DOCUMENTS = {path.name: path.read_text(encoding="utf-8") for path in (README, *PAGES)}
BEGIN = "<!-- configuration reference: generated from the schema, held by a test -->\n"
END = "<!-- end of the configuration reference -->\n"

FUNCTIONS_BEGIN = "<!-- functions: generated from the registry, checked by a test -->\n"
FUNCTIONS_END = "<!-- end of functions -->\n"
GROUPS = {
    "arithmetic": "Arithmetic",
    "prices": "Prices, trades, order books",
    "memory": "Earlier values",
    "windows": "Windows and half-lives",
    "clock": "Clock and calendar",
    "streams": "Other streams",
    "missing": "Missing values",
}
"""Groups of the functions, in the order of the table, with their titles."""

OTHER_PROGRAMS = {"benchmarks.md", "development.md"}
"""Pages with flags of pip, pytest and the benchmarks."""

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
GROUPED = {
    (name, inner): command
    for name, group in COMMANDS.items()
    for inner, command in getattr(group, "commands", {}).items()
}
LEAVES = {(n,): c for n, c in COMMANDS.items() if not hasattr(c, "commands")} | GROUPED
"""Commands by the words that call them."""


def blocks(language: str) -> list[tuple[str, str]]:
    """Return (document, text) of every fenced block of a language."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [(name, block) for name, text in DOCUMENTS.items() for block in pattern.findall(text)]


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def key_table(title: str) -> str:
    """Return what is documented between `<!-- keys: TITLE -->` and its end."""
    (found,) = (
        part.split("<!-- end of keys -->")[0]
        for text in DOCUMENTS.values()
        for part in text.split(f"<!-- keys: {title} -->")[1:]
    )
    return found


def documented_keys(title: str) -> set[str]:
    """Return the keys of the first column of a table of keys."""
    lines = key_table(title).strip().splitlines()[2:]
    return {key for line in lines for key in re.findall(r"`([a-z_]+)`", line.split("|")[1])}


def mentioned_keys(title: str) -> set[str]:
    """Return every key that a table of keys names, those of nested objects included."""
    return set(re.findall(r"`([a-z_]+)`", key_table(title)))


# ---- shape --------------------------------------------------------------------------------


def test_the_readme_and_the_pages_stay_short() -> None:
    assert len(DOCUMENTS["README.md"].splitlines()) <= 250
    for path in PAGES:
        assert len(DOCUMENTS[path.name].splitlines()) <= 400, path.name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_begins_with_its_title_and_who_needs_it(path: Path) -> None:
    title, paragraph = DOCUMENTS[path.name].split("\n\n")[:2]
    assert re.fullmatch(r"# [^\n]+", title)
    assert paragraph.startswith("Read this page ")


def test_the_readme_lists_every_page() -> None:
    links = re.findall(r"\(stream_lstm/manual/([a-z]+\.md)[)#]", DOCUMENTS["README.md"])
    assert set(links) == {path.name for path in PAGES}


# ---- links --------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    text = without_blocks(path.read_text(encoding="utf-8"))
    return {anchor(line) for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("path", [README, *PAGES], ids=lambda path: path.stem)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]*)\)", without_blocks(DOCUMENTS[path.name])):
        if target.startswith(("https://", "http://")):
            continue
        file, _, heading = target.partition("#")
        reached = (path.parent / file).resolve() if file else path
        assert reached.exists(), target
        if heading:
            assert heading in anchors(reached), target


# ---- commands and flags -------------------------------------------------------------------


def test_every_command_is_documented_and_every_documented_one_exists() -> None:
    table = DOCUMENTS["README.md"].split("## Commands")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    named = {words for row in rows for words in re.findall(r"`([a-z]+(?:[ -][a-z]+)*)", row)}
    known = {" ".join(words) for words in LEAVES}
    assert named == known
    for _, block in blocks("sh"):
        for word in re.findall(r"(?<![/-])\bstream-lstm ([a-z][a-z-]*)", block):
            assert word in COMMANDS or "useradd" in block, word


@pytest.mark.slow
@pytest.mark.parametrize("words", sorted(LEAVES), ids=" ".join)
def test_every_command_has_help_for_each_flag(words: tuple[str, ...]) -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    command = LEAVES[words]
    assert command.help
    for parameter in command.params:
        if parameter.name != "help":
            assert parameter.help, f"{words} {parameter.name} has no help"
            shown = parameter.opts[0] if parameter.param_type_name == "option" else ""
            assert shown in result.output


def flags_of(command: Any) -> set[str]:
    return {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}


def test_every_flag_in_the_text_exists() -> None:
    known = {
        "--version",
        *(flag for command in LEAVES.values() for flag in flags_of(command)),
    }
    for name, text in DOCUMENTS.items():
        if name not in OTHER_PROGRAMS:
            ours = re.sub(r"`[^`]*(?:python -m bench|pip )[^`]*`", "", without_blocks(text))
            assert set(re.findall(r"(?<![\w<!-])--[a-z][a-z-]+", ours)) <= known, name


def command_lines() -> list[list[str]]:
    """Return the words of every call of `stream-lstm` in a block, after the program's name."""
    lines = [
        line.split("> ")[0].rstrip("& ")
        for _, block in blocks("sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("stream-lstm ")
    ]
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.parametrize("line", command_lines(), ids=" ".join)
def test_every_flag_in_a_block_belongs_to_its_command(line: list[str]) -> None:
    words = tuple(line[:2]) if tuple(line[:2]) in LEAVES else (line[0],)
    assert {word for word in line if word.startswith("--")} <= flags_of(LEAVES[words])


# ---- the reference ------------------------------------------------------------------------


def reference() -> str:
    lines = []
    for table in TABLES:
        lines += [f"\n`[{table}]`\n", "| key | flag | default | meaning |", "|---|---|---|---|"]
        for key in (key for key, home in KEYS.items() if home == table):
            meaning = key_help(key).replace("|", "\\|")
            lines.append(f"| `{key}` | `{flag(key)}` | `{key_default(key)}` | {meaning} |")
    return "\n".join(lines) + "\n\n"


def test_the_configuration_reference_is_that_of_the_schema() -> None:
    assert DOCUMENTS["configuration.md"].split(BEGIN)[1].split(END)[0] == reference()


def function_table() -> str:
    """Return the table of all functions but the user's own, by group."""
    known = [one for one in FUNCTIONS.values() if one.group != "plug-ins"]
    assert {one.group for one in known} == set(GROUPS)
    lines = ["| function | value |", "|---|---|"]
    for group, title in GROUPS.items():
        lines.append(f"| **{title}** | |")
        lines += [f"| `{signature(one)}` | {one.doc} |" for one in known if one.group == group]
    return "\n".join(lines) + "\n"


def test_the_table_of_functions_is_that_of_the_registry() -> None:
    page = DOCUMENTS["features.md"]
    assert page.split(FUNCTIONS_BEGIN)[1].split(FUNCTIONS_END)[0] == function_table()
    for title in GROUPS.values():
        assert title.split(",")[0].split(" and ")[0].lower() in DOCUMENTS["README.md"].lower()


def test_every_function_that_a_page_calls_exists() -> None:
    for name, text in DOCUMENTS.items():
        for expression in re.findall(r"--feature '([^']*)'", text):
            if "slow(" not in expression:  # the reader's own
                parse(expression)
        if name == "features.md":
            for row in text.split("## Prices and order books")[1].split("```")[0].splitlines()[4:]:
                for expression in re.findall(r"`([^`]*)`", row):
                    parse(expression)


def test_every_metric_and_every_event_of_the_log_is_documented() -> None:
    named = set(re.findall(r"`([a-z_]+)", DOCUMENTS["operations.md"]))
    metrics = {name.removesuffix("_total") for name in named}
    source = Path(monitor.__file__).read_text(encoding="utf-8")
    assert {*monitor.SESSION, *monitor.FEED} <= metrics
    assert set(re.findall(r'"([a-z_]+)": \(\n? *"', source)) <= metrics
    reasons = re.findall(r'"([a-z_]+)": (?:counters|feed|old)\b', source)
    assert {"too_late", "weights_too_large"} <= {*reasons}
    assert {*reasons, *monitor.LABEL_REASONS, "unexpected", *CAUSES} <= named
    files = (path for folder in ("cli", "serve") for path in (MANUAL.parent / folder).glob("*.py"))
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    events = set(re.findall(r"log\.(?:say|named)\(\s*\"([a-z_]+)\"", source)) - {"feed"}
    assert {"ready", "reloaded", "stopped", "page_failed"} <= events
    assert events | {event for event, *_ in logs._LOGGED.values()} <= named


def test_the_reasons_for_refused_peers_are_documented() -> None:
    table = DOCUMENTS["security.md"].split("## Refused peers")[1].split("\n## ")[0]
    assert set(get_args(Reason)) <= set(re.findall(r"`([a-z_]+)`", table))


def test_the_promised_keys_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stream_lstm.cli.main import main

    file = tmp_path / "x.csv"
    file.write_text("x\n" + "\n".join(str((-1) ** k * k) for k in range(1, 60)))
    line = ["replay", str(file), "--feature", "x", "--window", "20", "--hidden", "4", "--json"]
    monkeypatch.setattr("sys.argv", ["stream-lstm", *line])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    printed = json.loads(capsys.readouterr().out)
    assert documented_keys("replay") <= set(printed)
    assert len(documented_keys("replay")) > 40


def test_the_example_configuration_is_valid() -> None:
    from stream_lstm.cli.settings import resolve

    example = resolve({}, MANUAL.parent / "data" / "example.toml").config
    assert example.learning.learn
    assert example.stream.features


# ---- examples in Python -------------------------------------------------------------------


def python_blocks(word: str) -> list[str]:
    return [block for _, block in blocks("python") if word in block]


def test_the_example_of_a_predictor_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for example in set(python_blocks("predictor.step(")):
        assert len(example.strip().splitlines()) <= 16
        (tmp_path / "example.py").write_text(example, encoding="utf-8")
        runpy.run_path(str(tmp_path / "example.py"))
        out = capsys.readouterr().out
        assert out.count("after element") == 35
        assert "'labels': 35" in out


def test_the_example_of_tables_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (block,) = python_blocks("replay_frame(")
    (tmp_path / "example.py").write_text(block, encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "example.py"))
    assert names["replayed"].table.num_rows == 90
    assert "log_loss" in capsys.readouterr().out


def test_the_example_of_a_feature_in_python_runs(tmp_path: Path) -> None:
    from stream_lstm.core.functions import FUNCTIONS
    from stream_lstm.core.plugins import FEATURES

    (block,) = python_blocks("register_feature(")
    (tmp_path / "example.py").write_text(block, encoding="utf-8")
    runpy.run_path(str(tmp_path / "example.py"))
    runpy.run_path(str(tmp_path / "example.py"))  # as a cell of a notebook
    memory = FUNCTIONS["slow"].memory
    del FUNCTIONS["slow"], FEATURES["slow"]
    assert memory is not None
    assert memory().block(np.zeros(2, np.int64), np.array([1.0, 2.0])).tolist() == [1.0, 1.1]


def test_the_example_of_many_streams_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (block,) = python_blocks("session.arrive(")
    (tmp_path / "example.py").write_text(block, encoding="utf-8")
    runpy.run_path(str(tmp_path / "example.py"))
    assert capsys.readouterr().out


def test_the_example_of_asyncio_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = python_blocks("async for event in predictions")
    names: dict[str, Any] = {}
    exec(block.split("\n\n\nasyncio.run")[0], names)  # what runs it does not end

    async def until_printed() -> str:
        with PredictionPublisher("tcp://127.0.0.1:*") as out:
            following = asyncio.ensure_future(names["follow"](out.endpoint))
            while not (printed := capsys.readouterr().out):
                await asyncio.sleep(0)
                out.publish(Prediction("EURUSD", 7, 0, 0.25))
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
        return printed

    assert "stream='EURUSD', n=7" in asyncio.run(until_printed())


def test_the_example_from_a_file_to_a_live_feed_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The live predictions are those of one replay of the file and what the feed sends."""
    (block,) = python_blocks("predictor.follow(")
    assert len(block.strip().splitlines()) <= 25
    prices = (100 * np.exp(np.cumsum(np.random.default_rng(0).normal(size=400)) * 1e-4)).tolist()
    t_ns = [(1_700_000_000 + k) * 1_000_000_000 for k in range(400)]
    lines = [f"{time},{price!r}" for time, price in zip(t_ns, prices, strict=True)]
    (tmp_path / "prices.csv").write_text("\n".join(["time,price", *lines[:300]]) + "\n")
    (tmp_path / "all.csv").write_text("\n".join(["time,price", *lines]) + "\n")
    monkeypatch.chdir(tmp_path)

    def publish() -> None:
        out.wait_for_subscribers(1, timeout_s=60)
        for time, price in zip(t_ns[300:], prices[300:], strict=True):
            out.publish("S", time, [price])
        out.end()

    with stream_lstm.Publisher("tcp://127.0.0.1:*", columns=["price"]) as out:
        feed = threading.Thread(target=publish)
        feed.start()
        (tmp_path / "example.py").write_text(
            block.replace("tcp://127.0.0.1:5555", out.endpoint), encoding="utf-8"
        )
        names = runpy.run_path(str(tmp_path / "example.py"))
        feed.join()
    whole = stream_lstm.Predictor("log_return(price)", window=50, learn=True).replay("all.csv")
    made = whole.table.slice(names["history"].table.num_rows).select(["n", "p"]).to_pylist()
    wanted = [f"after element {one['n']}: p = {one['p']:.3f}" for one in made]
    printed = capsys.readouterr().out.splitlines()
    assert len(wanted) == 10
    assert [line for line in printed if line.startswith("after element")] == wanted
    assert names["predictor"].snapshot() == whole.predictor.snapshot()
    saved = stream_lstm.Predictor.load("prices.safetensors")
    assert saved.snapshot() == whole.predictor.snapshot()


def test_the_picture_of_evidence_is_drawn_from_a_file_of_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    (block,) = python_blocks("import pandas")
    assert len(block.strip().splitlines()) <= 14
    write_scored(tmp_path / "scored.csv")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "picture.py").write_text(block.split("import matplotlib")[0], encoding="utf-8")
    names = runpy.run_path("picture.py")
    assert len(names["rows"]) == 3, "one prediction has no label"
    assert list(names["powers"]) == ["coin_evidence", "base_rate_evidence", "last_label_evidence"]
    assert names["powers"]["coin_evidence"].tolist() == pytest.approx([0.0, 1.0, 2.0], abs=1e-5)
    assert names["said"]["labels"].tolist() == [2, 1]
    assert names["said"]["positive"].tolist() == [0.5, 1.0]


def write_scored(path: Path) -> None:
    with open_output(path) as writer:
        for n, (p, label) in enumerate([(0.51, 0), (0.52, 1), (1.0, 1), (0.5, None)]):
            writer.write(Prediction("s", n, 0, p))
            if label is not None:
                nats = n * math.log(10)
                writer.score(Score("s", n, 0, p, label, 0.7, 0.5, 0.5, "", nats))


def test_every_example_in_python_is_run_or_names_its_needs() -> None:
    run = ("Predictor(", "replay_frame(", "session.arrive(", "async for event", "import pandas")
    run += ("register_feature(",)
    for name, block in blocks("python"):
        assert block.startswith("# needs: ") or any(word in block for word in run), (name, block)


def rewrite(name: str, begin: str, end: str, made: str) -> None:
    """Replace what is between two marks of a page."""
    page = MANUAL / name
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(before + begin + made + end + rest.split(end)[1], encoding="utf-8")


if __name__ == "__main__":
    rewrite("configuration.md", BEGIN, END, reference())
    rewrite("features.md", FUNCTIONS_BEGIN, FUNCTIONS_END, function_table())
