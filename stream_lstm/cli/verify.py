"""`stream-lstm verify`: whether a store's journal still leads to the predictions it holds."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import StoreError, StreamLSTMError
from ..store.schema import WAY_OUT
from .input_file import JsonOption
from .process import say, say_json
from .progress import step_progress

if TYPE_CHECKING:
    from ..store.verify import Difference, Verified

StoreArgument = Annotated[
    Path, typer.Argument(metavar="STORE", help="A file of --store; it may be in use.")
]


def command(
    store: StoreArgument,
    *,
    begin: Annotated[
        int | None,
        typer.Option(
            "--from",
            metavar="SNAPSHOT",
            help="Begin at this snapshot; inspect lists them.",
            show_default="the journal's start",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay a store's journal, and compare every stored prediction bit for bit.

    Check the checksum of every transaction too. Exit code 0: all are the same; 65: ticks, weights
    or other rows are not those that were stored; 70: the same input leads to something else, here
    and now.

    Example: stream-lstm verify quotes.db
    """
    found = verify(store, begin)
    if as_json:
        say_json(found)
    else:
        say(told(found))
    if found.difference is not None:
        kind = StreamLSTMError if found.difference.cause == "runtime" else StoreError
        way_out = f". {WAY_OUT}" if kind is StoreError else ""
        raise kind(f"{store}: {_which(found.difference)}{way_out}")


def verify(store: Path, begin: int | None) -> Verified:
    """Return what a verification finds; raises what reading a store raises."""
    from ..store.reading import read_setup
    from ..store.schema import VERSION, connect_reader, failure

    connection = connect_reader(store, oldest=VERSION)
    try:
        setup = read_setup(connection, str(store))
        if setup is None:
            raise StoreError(f"{store} is empty: nothing was ever stored in it")
        from ..core.session import Session  # JAX is imported here and not before
        from ..store.verify import Verification

        session = Session(
            setup.config,
            setup.columns,
            weights=setup.weights,
            scaler=setup.scaler,
            members=setup.members,
        )
        with step_progress(store.name, "inputs") as report:
            return Verification(connection, session).run(begin, report)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise failure(store, error) from None
    finally:
        connection.close()


def told(found: Verified) -> str:
    """Return one sentence about what was found."""
    began = [f"snapshot {k}" if k is not None else "the journal's start" for k in found.began]
    over = f"{found.inputs:,} inputs from {' and '.join(began)}"
    rest = f"; {found.unchecked:,} not reached" if found.unchecked else ""
    if found.difference is None:
        return f"the same {found.checked:,} predictions to the last bit, over {over}{rest}"
    return f"{found.checked:,} predictions are the same, over {over}; then one is not"


def _which(difference: Difference) -> str:
    if difference.n is None:
        return f"{difference.cause} (position {difference.pos:,}): {difference.what}"
    stored = "none" if difference.stored is None else repr(difference.stored)
    made = "none" if difference.made is None else repr(difference.made)
    return (
        f"prediction {difference.n:,} of {difference.stream!r} (position {difference.pos:,}) was "
        f"{stored} and is {made}; {difference.cause}: {difference.what}"
    )
