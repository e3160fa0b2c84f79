"""`stream-lstm prove`: three promises of this program, checked on the user's own data."""

from __future__ import annotations

import typer

from . import prove_causal, prove_live, prove_state

app = typer.Typer(
    name="prove",
    help="Prove on your own data that the state matters, that nothing looks ahead, and that live "
    "is replay. Exit code 0: the verdict stands; 70: a promise is broken.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("state")(prove_state.command)
app.command("causal")(prove_causal.command)
app.command("live")(prove_live.command)
