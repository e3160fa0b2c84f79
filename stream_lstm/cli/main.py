"""The command `stream-lstm`: its commands, the layout of their help, and one place for errors.

Results go to standard output; progress, tables and errors go to standard error. A mistake of
the user or of a peer ends in one sentence and an exit code, never in a traceback.
"""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
import typer.completion
from typer.core import TyperCommand, TyperGroup

from .. import __version__
from ..config import KEYS
from ..errors import StreamLSTMError
from ..quoting import printable
from ..serve.signals import leave_on_signals
from . import (
    convert,
    demo,
    deploy,
    doctor,
    init,
    look,
    pages,
    prove,
    publish,
    replay,
    run,
    stores,
    train,
)
from .console import report_error, set_level
from .help import command as show_help
from .help import completion
from .options import QuietOption, VerboseOption

CLOSE = 0.8
"""Similarity from which on a name may be a misspelt other name: one letter in five."""

PANELS = ("Input", "Model", "Learning", "Labels", "Output", "Operations")

ADVANCED = "Advanced"

MANY = 16
"""Options of a command above which those that are not in `FIRST` are shown as advanced."""

FIRST = frozenset(
    (
        *("file", "files", "features", "synthetic", "time", "connect"),
        *("window", "weights", "learn", "epochs", "labels", "label_column"),
        *("out", "publish", "as_json", "trials", "accuracy", "bind", "columns", "speed"),
        *("store", "metrics", "config", "quiet", "verbose", "help"),
    )
)
"""Options that people use first."""

TABLES = {
    "stream": "Labels",
    "model": "Model",
    "scaling": "Model",
    "learning": "Learning",
    "scoring": "Output",
    "train": "Learning",
    "feed": "Input",
    "publish": "Output",
}
"""The panel of a table's keys; others belong to Operations."""

INPUT = (
    *("features", "plugin", "plugins", "allow_plugins", "on_gap", "on_old_time", "file", "files"),
    *("synthetic", "series_seed", "time", "time_unit", "on_bad_row", "limit", "stream"),
    *("stream_column", "url", "stream_field", "time_field", "subscribe", "silent_after", "model"),
    *("sources", "other", "begin", "columns", "seconds", "seed_of_series", "folder", "streams"),
    *("connect", "feature"),
)
OUTPUT = (
    *("out", "spreadsheet", "save_weights", "as_json", "history", "overwrite", "to", "keep"),
    *("layout", "form", "title", "figure", "width", "bind", "encoding", "recovery", "ring"),
    *("speed", "block", "wait_subscribers", "wait_timeout", "send_timeout", "state_check"),
)
OWN = {
    **dict.fromkeys(INPUT, "Input"),
    **dict.fromkeys(("window", "stride"), "Model"),
    **dict.fromkeys(("label_column", "label_delay"), "Labels"),
    **dict.fromkeys(OUTPUT, "Output"),
}
"""The panel of an option that is not that of its table."""


def panel(name: str, *, many: bool) -> str:
    """Return the panel of an option by its name, in a command of many options or of few."""
    if many and name not in FIRST:
        return ADVANCED
    return OWN.get(name) or TABLES.get(KEYS.get(name, ""), "Operations")


class Command(TyperCommand):
    """A command whose help shows its options in panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, by panel; plain text, for terminals and pipes alike."""
        parameters = sorted(self.get_params(ctx), key=lambda p: p.param_type_name == "option")
        many = len(parameters) > MANY
        panels: dict[str, list[tuple[str, str]]] = {name: [] for name in (*PANELS, ADVANCED)}
        for one in parameters:
            if (record := one.get_help_record(ctx)) is not None:
                name = panel(one.name or "", many=many and not getattr(one, "required", False))
                panels[name].append(record)
        for name, records in panels.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


class Commands(TyperGroup):
    """The group of all commands: it names the commands of an option that another one lacks.

    What an error quotes of the command line is made printable.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error about an unknown option gets a hint."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Typer does not export its class of this error
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


HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="stream-lstm",
    cls=Commands,
    help="Carry an LSTM along a live series, one element at a time, and publish every tenth "
    "element the probability that the next one is positive. Start with: stream-lstm demo",
    no_args_is_help=True,
    context_settings=HELP,
    add_completion=False,  # its flags guess the shell, and print the script of a wrong one
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
typer.completion.get_completion_inspect_parameters()  # makes the shells known


def _add(group: typer.Typer, name: str, function: Callable[..., None]) -> None:
    summary = (function.__doc__ or "").partition("\n")[0]
    group.command(name, cls=Command, short_help=summary, context_settings=HELP)(function)


for name, function in (
    ("demo", demo.command),
    ("replay", replay.command),
    ("train", train.command),
    ("publish", publish.publish),
    ("run", run.command),
    ("bridge", publish.bridge),
    ("watch", pages.watch),
    ("report", pages.report),
    ("verify", stores.verify),
    ("recover", stores.recover),
    ("diff", stores.diff),
    ("doctor", doctor.command),
    ("inspect", stores.inspect),
    ("import", convert.import_),
    ("export", convert.export),
):
    _add(app, name, function)
prove_app = typer.Typer(
    name="prove",
    help="Prove on your own data that the state matters, that nothing looks ahead, that live is "
    "replay, and that features do not depend on blocks. Exit code 0: proved; 70: a promise is "
    "broken.",
    no_args_is_help=True,
    context_settings=HELP,
    rich_markup_mode=None,
)
for name, function in (
    ("state", prove.state),
    ("causal", prove.causal),
    ("live", prove.live),
    ("features", prove.features),
):
    _add(prove_app, name, function)
app.add_typer(prove_app)
for name, function in (
    ("keys", deploy.keys),
    ("metrics-dashboard", deploy.metrics_dashboard),
    ("check-config", deploy.check_config),
    ("look", look.command),
    ("init", init.command),
    ("listen", init.listen),
    ("completion", completion),
    ("help", show_help),
):
    _add(app, name, function)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stream-lstm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool,
        typer.Option(
            "--version", "-V", help="Print the version.", callback=_version, is_eager=True
        ),
    ] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Hold the options that come before a command."""
    set_level(quiet=quiet, verbose=verbose)


def main() -> None:
    """Run the command line and exit with its code."""
    # without the source line, which is this program's
    warnings.formatwarning = lambda message, *_, **__: f"stream-lstm: {message}\n"
    try:
        with leave_on_signals():
            app()
    except StreamLSTMError as error:
        report_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # the reader of our output is gone, so there is nobody to report to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(74)
