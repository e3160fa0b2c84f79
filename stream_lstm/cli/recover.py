"""`stream-lstm recover`: a whole store from what is of use of a damaged one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import msgspec
import typer

from ..errors import UsageError
from .conversion import OverwriteOption, check_free
from .input_file import JsonOption
from .process import say, say_json
from .progress import step_progress

if TYPE_CHECKING:
    from ..core.session import Session
    from ..store.reading import Setup
    from ..store.recovery import KeptPart, Recovered

SHOWN = 10
"""Streams and tables that are listed for people; `--json` has all."""


def command(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A damaged file of --store.")],
    *,
    to: Annotated[Path, typer.Option(metavar="NEW", help="Write the new store here.")],
    keep: Annotated[
        str,
        typer.Option(
            metavar="newest|longest",
            help="Of the parts that are whole, keep the one with the newest state, or the one "
            "with the most inputs.",
        ),
    ] = "newest",
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a new store with what is whole of a damaged one, and report what is lost.

    The damaged store stays as it is. Exit code 0: the new store can be continued from, or STORE
    is not damaged and nothing was written; 65: nothing of STORE is of use.

    Example: stream-lstm recover quotes.db --to recovered.db
    """
    choices = get_args(_keep())
    if keep not in choices:
        raise UsageError(f"--keep is {' or '.join(choices)}, not {keep!r}")
    check_free(to, store, overwrite, "--to")
    from ..store.recovered_file import recover  # JAX is imported here and not before

    with step_progress(store.name, "tables") as report:
        found = recover(store, to, _session, keep=keep, report=report)  # type: ignore[arg-type]
    if as_json:
        say_json(record(store, to, found))
        return
    for line in lines(store, to, found):
        say(line)


def _keep() -> Any:
    from ..store.recovery import Keep

    return Keep


def _session(setup: Setup) -> Session:
    from ..core.session import Session

    return Session(
        setup.config,
        setup.columns,
        weights=setup.weights,
        scaler=setup.scaler,
        members=setup.members,
    )


def record(store: Path, new: Path, found: Recovered | None) -> dict[str, Any]:
    """Return what was done, fit for JSON."""
    about = {"store": str(store), "to": str(new), "damaged": found is not None}
    return about if found is None else about | msgspec.to_builtins(found)


def lines(store: Path, new: Path, found: Recovered | None) -> Iterator[str]:
    """Yield what people read."""
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
        told = ", ".join(f"{count:,} {table}" for table, count in counts.items() if count)
        yield f"  of stream {stream}: {told}"
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
            f"{len(found.inexact):,} streams lack the checksums of their first ticks: run "
            "continues them, and replay of their file does not"
        )
    if found.other is not None:
        other = "longest" if found.keep == "newest" else "newest"
        yield f"--keep {other} would keep {_part(found.other)}"


def _part(kept: KeptPart) -> str:
    inputs = f"inputs {kept.first:,} to {kept.last:,}"
    if kept.last < kept.first:
        inputs = f"the state after input {kept.last:,}, without the inputs that led to it"
    whole = f" and {len(kept.snapshots)} snapshots" if kept.snapshots else ""
    return f"{inputs}, {kept.transactions:,} transactions{whole}"
