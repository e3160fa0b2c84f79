"""Commands on a store: `inspect`, `verify`, `diff` and `recover`."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_args

import msgspec
import typer

from ..errors import DataError, StoreError, StreamLSTMError, UsageError
from ..store.executables import keep_executables
from .console import result, step_progress, warn
from .convert import check_free
from .options import AllowPluginsOption, JsonOption, OverwriteOption, options, use_plugins

if TYPE_CHECKING:
    from ..core.session import Session
    from ..store.reading import Setup
    from ..store.recovery import PartSummary, Recovered
    from ..store.verify import Difference, Verified

SHOWN = 10
"""Streams and tables that `recover` lists for people; `--json` has all."""

StoreArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="STORE", help="A file of --store; it may be in use.")
]


def session_of(setup: Setup) -> Session:
    """Return a session as a store's setup describes it."""
    from ..core.session import Session  # JAX is imported here and not before

    keep_executables(None, warn)
    weights, scaler, members = setup.weights, setup.scaler, setup.members
    return Session(setup.config, setup.columns, weights=weights, scaler=scaler, members=members)


# ---- inspect ----------------------------------------------------------------------------------


@options()
def inspect(*, store: StoreArgument, as_json: JsonOption = False) -> None:
    """Show what is in a store: streams, runs, snapshots and events.

    Example: stream-lstm inspect quotes.db
    """
    from ..store.inspection import contents

    found = contents(store)
    result(found, _contents(found), as_json=as_json)


def _contents(found: dict[str, Any]) -> Iterator[str]:
    rows, whole = found["rows"], "" if found["whole"] else ", with holes"
    yield f"{found['path']}: {found['bytes']:,} bytes, schema version {found['schema']}"
    yield (
        f"  {found['elements']:,} elements in {found['journal']:,} inputs{whole}; "
        f"{rows['predictions']:,} predictions, {rows['scores']:,} scores, "
        f"{rows['updates']:,} updates"
    )
    for name, stream in found["streams"].items():
        due = "" if stream["next_seq"] is None else f", next number {stream['next_seq']:,}"
        yield f"  stream {name}: {stream['ticks']:,} ticks, {stream['n']:,} elements{due}"
    for run in found["runs"]:
        yield f"  run {run['run']}: {run['command']} {run['version']}, {_when(run['started_ns'])}"
    for snapshot in found["snapshots"]:
        aside = f", set aside: {snapshot['set_aside']}" if snapshot["set_aside"] else ""
        yield (
            f"  snapshot {snapshot['snapshot']}: after {snapshot['elements']:,} elements, "
            f"{_when(snapshot['taken_ns'])}{aside}"
        )
    for kind, count in found["events"].items():
        yield f"  {kind}: {count:,}"


def _when(ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ns / 1e9))


# ---- verify -----------------------------------------------------------------------------------


@options()
def verify(
    *,
    store: StoreArgument,
    begin: Annotated[
        int | None,
        typer.Option(
            "--from",
            metavar="SNAPSHOT",
            help="Begin at this snapshot; inspect lists them.",
            show_default="the journal's start",
        ),
    ] = None,
    allow_plugins: AllowPluginsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Replay a store's journal, and compare every stored prediction bit for bit.

    Check the checksum of every transaction too. Exit code 0: all are the same; 65: ticks, weights
    or other rows are not those that were stored; 70: the same input gives another result on this
    machine.

    Example: stream-lstm verify quotes.db
    """
    from ..store.schema import WAY_OUT

    found = _verified(store, begin, allow_plugins)
    result(found, [_verdict(found)], as_json=as_json)
    if found.difference is not None:
        kind = StreamLSTMError if found.difference.cause == "runtime" else StoreError
        way_out = f". {WAY_OUT}" if kind is StoreError else ""
        raise kind(f"{store}: {_different(found.difference)}{way_out}")


def _verified(store: Path, begin: int | None, allow_plugins: bool) -> Verified:
    """Return what a verification finds; raises what reading a store raises."""
    from ..store.reading import read_setup
    from ..store.schema import VERSION, connect_reader, failure

    connection = connect_reader(store, oldest=VERSION)
    try:
        setup = read_setup(connection, str(store))
        if setup is None:
            raise StoreError(f"{store} is empty: nothing was stored in it")
        use_plugins(setup.config, allow_plugins)
        from ..store.verify import Verification

        session = session_of(setup)
        with step_progress(store.name, "inputs") as report:
            return Verification(connection, session).run(begin, report)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise failure(store, error) from None
    finally:
        connection.close()


def _verdict(found: Verified) -> str:
    began = [f"snapshot {k}" if k is not None else "the journal's start" for k in found.began]
    over = f"{found.inputs:,} inputs from {' and '.join(began)}"
    rest = f"; {found.unchecked:,} not reached" if found.unchecked else ""
    if found.difference is None:
        return f"the same {found.checked:,} predictions to the last bit, over {over}{rest}"
    return f"{found.checked:,} predictions are the same, over {over}; the next one is not"


def _different(difference: Difference) -> str:
    if difference.n is None:
        return f"{difference.cause} (position {difference.pos:,}): {difference.what}"
    return (
        f"prediction {difference.n:,} of {difference.stream!r} (position {difference.pos:,}) was "
        f"{_p(difference.stored)} and is {_p(difference.made)}; {difference.cause}: "
        f"{difference.what}"
    )


def _p(p: float | None) -> str:
    return "none" if p is None else repr(p)


# ---- diff -------------------------------------------------------------------------------------


@options()
def diff(
    *,
    store: Annotated[Path, typer.Argument(metavar="A", help="A file of --store.")],
    other: Annotated[Path, typer.Argument(metavar="B", help="Second store.")],
    as_json: JsonOption = False,
) -> None:
    """Compare the predictions of two stores, and name the first that differs.

    Exit code 0: both have the same predictions to the last bit; 65: they differ.

    Example: stream-lstm diff monday.db replayed.db
    """
    from ..store.verify import compare

    found = compare(store, other)
    line = (
        f"{found.predictions:,} and {found.other_predictions:,} predictions, of which "
        f"{found.alike:,} are the same"
    )
    result(found, [line], as_json=as_json)
    if (first := found.difference) is None:
        return
    if found.older is not None:
        raise DataError(
            f"{found.older} was made by 0.1, and the order of work changed in 0.2 (publish "
            f"first, learn afterwards): predictions differ from {first.n:,} of "
            f"{first.stream!r} on, as expected"
        )
    raise DataError(
        f"prediction {first.n:,} of {first.stream!r} is {_p(first.p)} in {store}, and "
        f"{_p(first.other_p)} in {other}"
    )


# ---- recover ----------------------------------------------------------------------------------


@options()
def recover(
    *,
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A damaged file of --store.")],
    to: Annotated[Path, typer.Option(metavar="NEW", help="Write the new store here.")],
    keep: Annotated[
        str,
        typer.Option(
            metavar="newest|longest",
            help="Of the intact parts, keep the one with the newest state, or the one with the "
            "most inputs.",
        ),
    ] = "newest",
    overwrite: OverwriteOption = False,
    allow_plugins: AllowPluginsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a new store with the intact part of a damaged one, and report what is lost.

    The damaged store is not changed. Exit code 0: the new store can be continued from, or STORE
    is not damaged and nothing was written; 65: no part of STORE can be used.

    Example: stream-lstm recover quotes.db --to recovered.db
    """
    from ..store.recovery import Keep

    choices = get_args(Keep)
    if keep not in choices:
        raise UsageError(f"--keep is {' or '.join(choices)}, not {keep!r}")
    check_free(to, store, overwrite, "--to")
    from ..store.recovery import recover as recovered

    def session(setup: Setup) -> Session:
        use_plugins(setup.config, allow_plugins)
        return session_of(setup)

    with step_progress(store.name, "tables") as report:
        found = recovered(store, to, session, keep=keep, report=report)  # type: ignore[arg-type]
    about = {"store": str(store), "to": str(to), "damaged": found is not None}
    record = about if found is None else about | msgspec.to_builtins(found)
    result(record, _recovered(store, to, found), as_json=as_json)


def _recovered(store: Path, new: Path, found: Recovered | None) -> Iterator[str]:
    if found is None:
        yield f"{store} is not damaged: nothing to recover, nothing was written"
        return
    lost = found.lost
    yield f"{store} is damaged: {found.what}"
    yield f"{new} has {_part(found.kept)}"
    yield (
        f"  a start continues from {found.elements:,} elements, after input {found.kept.last:,} "
        f"of {found.end:,}"
    )
    if lost.transactions or lost.inputs or any(lost.rows.values()):
        rows = ", ".join(f"{count:,} {table}" for table, count in lost.rows.items())
        more = "at least " if set(lost.rows) & set(found.unreadable) else ""
        yield f"lost: {lost.transactions:,} transactions, {lost.inputs:,} inputs; {more}{rows}"
    else:
        yield "lost: no input and no output"
    for stream, counts in list(lost.by_stream.items())[:SHOWN]:
        parts = ", ".join(f"{count:,} {table}" for table, count in counts.items() if count)
        yield f"  of stream {stream}: {parts}"
    if len(lost.by_stream) > SHOWN:
        yield f"  and of {len(lost.by_stream) - SHOWN:,} other streams"
    if lost.snapshots:
        yield f"  snapshots {', '.join(map(str, lost.snapshots))}"
    for table, why in list(found.unreadable.items())[:SHOWN]:
        yield f"not readable in full: {table} ({why})"
    if found.rebuilt:
        yield f"computed again: {' and '.join(found.rebuilt)}"
    if found.inexact:
        yield (
            f"{len(found.inexact):,} streams lack the checksums of their first ticks: run can "
            "continue them, and replay of their file cannot"
        )
    if found.other is not None:
        other = "longest" if found.keep == "newest" else "newest"
        yield f"--keep {other} would keep {_part(found.other)}"


def _part(kept: PartSummary) -> str:
    inputs = f"inputs {kept.first:,} to {kept.last:,}"
    if kept.last < kept.first:
        inputs = f"the state after input {kept.last:,}, without the inputs that led to it"
    whole = f" and {len(kept.snapshots)} snapshots" if kept.snapshots else ""
    return f"{inputs}, {kept.transactions:,} transactions{whole}"
