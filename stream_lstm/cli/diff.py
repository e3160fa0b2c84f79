"""`stream-lstm diff`: the first prediction in which two stores differ."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError
from .input_file import JsonOption
from .process import say, say_json


def command(
    store: Annotated[Path, typer.Argument(metavar="A", help="A file of --store.")],
    other: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Compare the predictions of two stores, and name the first that differs.

    Exit code 0: both have the same predictions to the last bit; 65: they have not.

    Example: stream-lstm diff monday.db replayed.db
    """
    from ..store.verify import compare

    found = compare(store, other)
    if as_json:
        say_json(found)
    else:
        say(
            f"{found.predictions:,} and {found.other_predictions:,} predictions, of which "
            f"{found.alike:,} are the same"
        )
    if found.difference is not None:
        first = found.difference
        p, other_p = ("none" if p is None else repr(p) for p in (first.p, first.other_p))
        if found.older is not None:
            raise DataError(
                f"{found.older} was made by 0.1, and the order of work changed in 0.2 (publish "
                f"first, learn afterwards): predictions differ from {first.n:,} of "
                f"{first.stream!r} on, which is no fault"
            )
        raise DataError(
            f"prediction {first.n:,} of {first.stream!r} is {p} in {store}, and {other_p} in "
            f"{other}"
        )
