"""The README is true: its example runs, its reference is the schema's, its names exist.

`python tests/test_readme.py` writes the configuration reference anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import typer

from stream_lstm.cli import monitoring, run, service
from stream_lstm.cli.main import app
from stream_lstm.cli.options import flag, key_default, key_help
from stream_lstm.config import KEYS, TABLES
from stream_lstm.events import Prediction, Score
from stream_lstm.feed.predictions import PredictionPublisher
from stream_lstm.feed.sequence import CAUSES
from stream_lstm.serve import logs, monitor
from stream_lstm.store.output import open_output

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- configuration reference: generated from the schema, held by a test -->\n"
END = "<!-- end of the configuration reference -->\n"

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]

GROUPED = {
    (name, inner): command
    for name, group in COMMANDS.items()
    for inner, command in getattr(group, "commands", {}).items()
}
LEAVES = {(n,): c for n, c in COMMANDS.items() if not hasattr(c, "commands")} | GROUPED
"""Commands by the words that call them."""


def reference() -> str:
    lines = []
    for table in TABLES:
        lines += [f"\n`[{table}]`\n", "| key | flag | default | meaning |", "|---|---|---|---|"]
        for key in (key for key, home in KEYS.items() if home == table):
            meaning = key_help(key).replace("|", "\\|")
            lines.append(f"| `{key}` | `{flag(key)}` | `{key_default(key)}` | {meaning} |")
    return "\n".join(lines) + "\n\n"


def test_the_configuration_reference_is_that_of_the_schema() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0] == reference()


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    example = next(block for block in blocks if "Predictor" in block)
    assert len(example.strip().splitlines()) <= 14
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    runpy.run_path(str(tmp_path / "example.py"))
    out = capsys.readouterr().out
    assert out.count("after element") == 35
    assert "'labels': 35" in out


def test_the_example_of_tables_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    block = next(block for block in blocks if "replay_frame" in block)
    (tmp_path / "example.py").write_text(block, encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "example.py"))
    assert names["replayed"].table.num_rows == 90
    assert "log_loss" in capsys.readouterr().out


def test_the_example_of_asyncio_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    block = next(block for block in blocks if "async for event in predictions" in block)
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


def test_every_metric_is_told_of_and_every_event_of_the_log() -> None:
    text = README.read_text(encoding="utf-8").split("## Operations")[1].split("\n## ")[0]
    told = set(re.findall(r"`([a-z_]+)", text))
    named = set(re.findall(r'"([a-z_]+)": \(\n? *"', Path(monitor.__file__).read_text()))
    assert {*monitor.COUNTED} <= {name.removesuffix("_total") for name in told}
    assert {*monitor.FEED} <= {name.removesuffix("_total") for name in told}
    assert named <= {name.removesuffix("_total") for name in told}
    reasons = (
        *monitor.TICK_REASONS,
        *monitor.LABEL_REASONS,
        *monitor.UPDATE_REASONS,
        *CAUSES,
    )
    assert {*reasons} <= told
    source = Path(run.__file__).read_text() + Path(service.__file__).read_text()
    source += Path(monitoring.__file__).read_text()
    said = set(re.findall(r"(?:say|named)\(\"([a-z_]+)\"", source))
    assert {"ready", "reloaded", "stopped", "page_failed"} <= said
    assert said | {name for name, _ in logs._NAMES.values()} <= told


def test_the_picture_of_evidence_is_drawn_from_a_file_of_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    block = next(block for block in blocks if "import pandas" in block)
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


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


def test_every_link_inside_leads_to_a_heading() -> None:
    text = re.sub(r"```.*?```", "", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = {anchor(line) for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    links = re.findall(r"\]\(#([^)]*)\)", text)
    assert len(links) > 30
    assert set(links) <= headings
    contents = text.split("Contents: ")[1].split("\n\n")[0]
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert re.findall(r"\(#([^)]*)\)", contents) == [anchor(line) for line in sections[1:]]


def test_every_command_is_told_of_and_every_one_told_of_exists() -> None:
    text = README.read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `([a-z-]+)[ `]", text.split("## Commands")[1], re.MULTILINE))
    assert set(COMMANDS) <= told
    assert set(re.findall(r"stream-lstm ([a-z-]+) ", text)) <= set(COMMANDS)
    for words in GROUPED:
        assert f"`{' '.join(words)}" in text


@pytest.mark.parametrize("words", sorted(LEAVES), ids=" ".join)
def test_every_command_has_help_that_tells_of_each_flag(words: tuple[str, ...]) -> None:
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


def test_every_flag_in_the_readme_exists() -> None:
    text = README.read_text(encoding="utf-8").split("## Measured")[0]
    known = {"--version", "--help"}
    for command in LEAVES.values():
        known |= {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    assert set(re.findall(r"--[a-z][a-z-]+", text)) <= known


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
    section = (
        README.read_text(encoding="utf-8").split("at least these keys")[1].split("`digest` is")[0]
    )
    assert set(re.findall(r"`([a-z_]+)`", section)) <= set(printed)


if __name__ == "__main__":
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(before + BEGIN + reference() + END + after, encoding="utf-8")
