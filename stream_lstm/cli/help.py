"""`stream-lstm help`: the pages of the manual, the files of the package, the help of a command.

`stream-lstm completion` prints what a shell reads to complete commands and options.

A terminal gets a page as rendered Markdown, everything else the text. A link from page to page
becomes the command that shows the other page.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import textwrap
from importlib.resources import files
from typing import Annotated, Any

import typer
from typer.completion import shell_complete

from ..errors import UsageError, nearest
from .options import options

PACKAGE = files("stream_lstm")

DATA_FILES = {
    "example.toml": "a commented configuration for run",
    "stream-lstm.service": "a systemd unit for run",
}
"""Files that `help` prints; the dashboard has a command of its own."""

PROGRAM, VARIABLE = "stream-lstm", "_STREAM_LSTM_COMPLETE"

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")

_COMMENT = re.compile(r"<!--.*?-->\n*", re.DOTALL)
_LINK = re.compile(r"\[([^\]]+)\]\(([a-z]+)\.md(?:#[^)]*)?\)")
_ANCHOR = re.compile(r"\[([^\]]+)\]\(#[^)]*\)")

WordsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TOPIC]", help="A topic, a file or a command.", show_default=False),
]


def command(ctx: typer.Context, words: WordsArgument = None) -> None:
    """Show a page of the manual, or the help of a command; without a topic, list all topics.

    Example: stream-lstm help wire
    """
    topic = " ".join(words or ())
    if not topic:
        _list_topics()
    elif topic in topics():
        _show(page(topic))
    elif topic in DATA_FILES:
        typer.echo((PACKAGE / "data" / topic).read_text(encoding="utf-8"), nl=False)
    elif topic in (commands := _commands(ctx.find_root().command)):
        commands[topic].main(["--help"], f"stream-lstm {topic}", standalone_mode=False)
    else:
        known = [*topics(), *DATA_FILES, *commands]
        raise UsageError(
            f"no help on {topic!r}{nearest(topic, known)}; 'stream-lstm help' lists the topics"
        )


@options()
def completion(
    *,
    ctx: typer.Context,
    shell: Annotated[
        str, typer.Argument(metavar="|".join(SHELLS), help="The shell.", show_default=False)
    ],
) -> None:
    """Print what completes commands and options in a shell.

    Example: eval "$(stream-lstm completion bash)"
    """
    if shell not in SHELLS:
        raise UsageError(f"no completion for {shell!r}; name one of {', '.join(SHELLS)}")
    root = ctx.find_root().command
    with contextlib.redirect_stdout(io.StringIO()) as text:
        shell_complete(root, {}, PROGRAM, VARIABLE, f"source_{shell}")
    typer.echo(text.getvalue().strip())  # zsh looks for its mark in the first line of a file


def topics() -> list[str]:
    """Return the names of the manual's pages, sorted."""
    names = (entry.name for entry in (PACKAGE / "manual").iterdir())
    return sorted(name.removesuffix(".md") for name in names if name.endswith(".md"))


def page(topic: str) -> str:
    """Return a page of the manual with its links written as commands."""
    text = (PACKAGE / "manual" / f"{topic}.md").read_text(encoding="utf-8")
    text = _ANCHOR.sub(r"\1", _COMMENT.sub("", text))
    return _LINK.sub(lambda link: f"{link[1]} (`stream-lstm help {link[2]}`)", text)


def purpose(topic: str) -> str:
    """Return the first sentence of a page, which says who needs it."""
    paragraph = page(topic).split("\n\n")[1]
    return re.split(r"(?<=\.)\s", " ".join(paragraph.split()), maxsplit=1)[0]


def _list_topics() -> None:
    entries = {topic: purpose(topic) for topic in topics()} | DATA_FILES
    width = max(map(len, entries)) + 4
    typer.echo("Topics and files, each shown by `stream-lstm help TOPIC`:\n")
    for name, words in entries.items():
        typer.echo(
            textwrap.fill(
                words, 79, initial_indent=f"  {name}".ljust(width), subsequent_indent=" " * width
            )
        )
    typer.echo("\n`stream-lstm help COMMAND` shows the flags of a command.")


def _show(text: str) -> None:
    if not sys.stdout.isatty():
        typer.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text, hyperlinks=False))


def _commands(group: Any, prefix: str = "") -> dict[str, Any]:
    """Return every command below a group by the words that call it."""
    found: dict[str, Any] = {}
    for name, child in getattr(group, "commands", {}).items():
        found[prefix + name] = child
        found |= _commands(child, f"{prefix}{name} ")
    return found
