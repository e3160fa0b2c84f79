"""The command `stream-lstm`: one module for each subcommand, one place for errors.

Results go to standard output; progress, tables and errors go to standard error. A mistake of
the user's or of a peer's ends in one sentence and an exit code, never in a traceback.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import StreamLSTMError
from ..serve.signals import leave_on_signals
from . import (
    bridge,
    check,
    demo,
    diff,
    doctor,
    export,
    import_,
    init,
    inspect_,
    keys,
    metrics_dashboard,
    prove,
    publish,
    recover,
    replay,
    report,
    run,
    train,
    verify,
    watch,
)
from .commands import Commands
from .help import command as show_help
from .process import warn

app = typer.Typer(
    name="stream-lstm",
    cls=Commands,
    help="Carry an LSTM along a live series, one element at a time, and publish every tenth "
    "element the probability that the next one is positive. Start with: stream-lstm demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.command)
app.command("init")(init.command)
app.command("replay")(replay.command)
app.command("train")(train.command)
app.command("publish")(publish.command)
app.command("run")(run.command)
app.command("bridge")(bridge.command)
app.command("watch")(watch.command)
app.command("report")(report.command)
app.command("verify")(verify.command)
app.command("recover")(recover.command)
app.command("diff")(diff.command)
app.command("doctor")(doctor.command)
app.command("inspect")(inspect_.command)
app.command("import")(import_.command)
app.command("export")(export.command)
app.add_typer(prove.app)
app.command("keys")(keys.command)
app.command("metrics-dashboard")(metrics_dashboard.command)
app.command("check-config")(check.command)
app.command("help")(show_help)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stream-lstm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Hold the options that come before a command."""


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        with leave_on_signals():
            app()
    except StreamLSTMError as error:
        warn(*error.lines)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output is gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(74)
