"""`stream-lstm help`: every topic is listed and shown, and a mistyped one names the nearest."""

from __future__ import annotations

import io
import re

import pytest

from stream_lstm.cli import help as help_command

from ..test_manual import LEAVES, MANUAL, PAGES

TOPICS = [path.stem for path in PAGES]


def test_the_list_names_every_topic_with_who_needs_it(cli):
    done = cli("help")
    assert done.code == 0
    for topic in TOPICS:
        assert re.search(rf"^  {topic} +Read this page ", done.out, re.MULTILINE), topic
    assert max(map(len, done.out.splitlines())) < 80
    for name in help_command.DATA_FILES:
        assert f"  {name} " in done.out


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_is_shown_as_text_with_commands_for_links(cli, topic):
    done = cli("help", topic)
    text = (MANUAL / f"{topic}.md").read_text(encoding="utf-8")
    assert done.code == 0
    assert done.out.startswith(text.splitlines()[0])
    assert ".md)" not in done.out
    assert ".md#" not in done.out
    assert "<!--" not in done.out
    linked = set(re.findall(r"\(([a-z]+)\.md", text))
    assert set(re.findall(r"stream-lstm help ([a-z]+)`\)", done.out)) >= linked


@pytest.mark.parametrize("name", help_command.DATA_FILES)
def test_a_file_of_the_package_is_printed_as_it_is(cli, name):
    expected = (MANUAL.parent / "data" / name).read_text(encoding="utf-8")
    assert cli("help", name).out == expected


@pytest.mark.parametrize("words", [w for w in sorted(LEAVES) if w[0] not in TOPICS], ids=" ".join)
def test_a_command_gets_its_own_help(cli, words):
    done = cli("help", *words)
    assert done.code == 0
    assert f"Usage: stream-lstm {' '.join(words)} " in done.out
    assert "--help" in done.out


def test_an_unknown_topic_names_the_nearest_and_exits_with_2(cli):
    done = cli("help", "wires")
    assert done.code == 2
    assert "no help on 'wires'; did you mean 'wire'?" in done.err
    assert done.out == ""
    assert "did you mean 'prove causal'?" in cli("help", "prove", "casual").err


def test_a_terminal_gets_rendered_markdown(cli, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    written = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", written)
        help_command._show(help_command.page("wire"))
    shown = written.getvalue()
    assert "Wire protocol" in shown
    assert "# Wire protocol" not in shown
    assert "```" not in shown
