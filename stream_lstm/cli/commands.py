"""The group of all commands, which knows where an option belongs that its command has not."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from typer.core import TyperGroup

from ..quoting import printable


class Commands(TyperGroup):
    """Reports which commands have an option that was given to a command without it.

    What an error quotes of the command line is made printable.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error of an unknown option goes on with a hint."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Typer does not say where its class for this error is, which was Click's once.
            unknown: Any = error
            if hasattr(error, "possibilities") and hasattr(error, "option_name"):
                own = _options(unknown.ctx.command)
                name = unknown.option_name
                unknown.message = f"No such option: {name}{self._hint(name, own)}"
                unknown.possibilities = None
            _make_printable(error)
            raise

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options that come before a command."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            _make_printable(error)
            raise

    def _hint(self, name: str, own: list[str]) -> str:
        owners: dict[str, list[str]] = {}
        for command, options in _leaves(self, ()):
            for option in options:
                owners.setdefault(option, []).append(command)
        if name in owners:
            return f"; {name} is an option of {_listed(owners[name])}"
        if close := difflib.get_close_matches(name, own, n=1, cutoff=CLOSE):
            return f"; did you mean {close[0]}?"
        if close := difflib.get_close_matches(name, owners, n=1, cutoff=CLOSE):
            return f"; did you mean {close[0]}, an option of {_listed(owners[close[0]])}?"
        return ""


def _make_printable(error: Any) -> None:
    if isinstance(getattr(error, "message", None), str):
        error.message = printable(error.message)


CLOSE = 0.8
"""Likeness from which on a name may be meant by another: one letter in five."""


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """Yield each command below, by its words, and its options."""
    for name, child in getattr(command, "commands", {}).items():
        yield " ".join((*path, name)), _options(child)
        yield from _leaves(child, (*path, name))


def _options(command: Any) -> list[str]:
    names = (name for one in command.params for name in (*one.opts, *one.secondary_opts))
    return [name for name in names if name.startswith("--")]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
