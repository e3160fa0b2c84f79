"""`stream-lstm prove causal`: nothing that comes after element n changes a byte up to n.

The file is read three times: to count its ticks, to see whether one of its columns knows the
label before it is there, and to run through the session with trials at random places.
"""

from __future__ import annotations

import time as clocks
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import typer

from .. import __version__
from ..errors import ConfigurationError, DataError, StreamLSTMError
from ..events import Ticks
from .input_file import (
    FileArgument,
    JsonOption,
    LimitOption,
    OnBadRowOption,
    StreamOption,
    TimeOption,
    TimeUnitOption,
)
from .options import configured
from .proof import Subject, blame, subject, tell
from .settings import Settings
from .synthetic_input import SeriesSeedOption, SyntheticInput, SyntheticOption, chosen_input

if TYPE_CHECKING:
    from ..core.proofs.causality import CausalCheck

PIECE = 256
"""Ticks of a block: a trial takes 13 runs over one, and a look-ahead shows within it."""

LOOKED_AT = 200_000
"""Ticks at most in which a column is looked for that knows the label."""


@configured(
    ("stream", "model", "scaling", "learning", "scoring"),
    without=("max_pending", "on_gap", "table"),
)
def command(
    *,
    settings: Settings,
    file: FileArgument = None,
    trials: Annotated[
        int, typer.Option(min=1, metavar="N", help="Places at which the future is changed.")
    ] = 200,
    trial_seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Seed of the places and of the other futures.")
    ] = 0,
    synthetic: SyntheticOption = None,
    series_seed: SeriesSeedOption = None,
    time: TimeOption = None,
    time_unit: TimeUnitOption = "auto",
    on_bad_row: OnBadRowOption = "fail",
    limit: LimitOption = None,
    stream: StreamOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that no prediction, score or update knows what comes after it, nor any column.

    Example: stream-lstm prove causal quotes.csv.gz --feature 'log_return(mid(bid, ask))' --learn
    """
    source = chosen_input(
        file,
        synthetic,
        stream,
        series_seed=series_seed,
        time=time,
        time_unit=time_unit,
        on_bad_row=on_bad_row,
        limit=limit,
    )
    try:
        summary = prove(subject(source, settings), trials, trial_seed)
    except ConfigurationError as error:
        raise blame(settings, error) from None
    tell(summary, lines(summary), as_json)
    if summary["leak"] is not None:
        raise StreamLSTMError(summary["verdict"])
    if summary["foreknowing"]:
        raise DataError(foreknowing(summary))


def prove(about: Subject, trials: int, seed: int) -> dict[str, Any]:
    """Run the whole proof and return what it found.

    Raises what a replay raises, and DataError where no prediction comes before a place.
    """
    known = _foreknowing(about)
    count = _count(about)
    random = np.random.default_rng(seed)
    size = min(trials, max(count - 1, 0))
    drawn = np.sort(1 + random.choice(max(count - 1, 1), size, replace=False))
    places = [int(place) for place in drawn]
    shift = int(random.integers(1, PIECE + 1))

    from ..core.proofs.causality import CausalCheck
    from .replay_results import ReplayResults

    file, config = about.file, about.config
    start = clocks.perf_counter()
    other = about.session()
    compile_s = clocks.perf_counter() - start
    start = clocks.perf_counter()
    with ReplayResults(str(file.path), file.on_bad_row) as results:
        main = about.session(results.deliver, other.engine)
        check = CausalCheck(main, other, seed=seed)
        with file.open(about.columns, results.refused) as source:
            for first, block in _pieces(source, shift):
                results.rows = block.rows
                _push(check, Ticks(file.stream, block.t_ns, block.values), first, places)
        main.settle()
        digest = results.digest.hexdigest()
    record = check.record()
    if not record["predictions_compared"]:
        raise DataError(
            f"{file.path}: of {count:,} ticks there was no prediction before a place that was "
            f"tried; the warm-up is {config.stream.window} elements (--window)"
        )
    held = main.streams[file.stream]
    summary = {
        "version": __version__,
        "stream": file.stream,
        "ticks": count,
        "elements": held.n,
        "predictions": held.counters.predictions,
        "updates": held.counters.updates,
        "learn": config.learning.learn,
        "seed": seed,
        **record,
        "foreknowing": known,
        "digest": digest,
        "compile_s": compile_s,
        "wall_s": clocks.perf_counter() - start,
    }
    return summary | {"verdict": verdict(summary)}


def _push(check: CausalCheck, ticks: Ticks, first: int, places: list[int]) -> None:
    """Push a piece whose first tick has `first` ticks before it, and try the places in it.

    `places` are those to come, and lose what is tried. A place at the very beginning of a piece
    has no past in it, and is moved on to the next that is free, in this piece or in a later one.
    """
    count = len(ticks.values)
    inside: list[int] = []
    while places and places[0] < first + count:
        at = max(places[0] - first, inside[-1] + 1 if inside else 1)
        if at >= count:
            break
        inside.append(at)
        del places[0]
    check.push(ticks, inside)


def _pieces(source: Any, shift: int) -> Iterator[tuple[int, Any]]:
    """Yield (ticks before it, piece): the first of `shift` ticks, so that cuts fall anywhere."""
    done = 0
    for block in source.blocks():
        start, stop = 0, min(shift, len(block.rows))
        while start < len(block.rows):
            part = slice(start, stop)
            rows = block.rows[part]
            yield done, block._replace(t_ns=block.t_ns[part], values=block.values[part], rows=rows)
            done += stop - start
            start, stop = stop, stop + PIECE


def _count(about: Subject) -> int:
    with about.file.open(about.columns) as source:
        return sum(len(block.rows) for block in source.blocks())


def _foreknowing(about: Subject) -> list[dict[str, Any]]:
    """Return the columns of a file that know the label; nothing where none can be read."""
    from ..core.elements import ElementMaker
    from ..core.proofs.look_ahead import LookAhead

    file, features = about.file, about.config.stream.features
    if isinstance(file, SyntheticInput):
        return []
    limit = LOOKED_AT if file.limit is None else min(file.limit, LOOKED_AT)
    loose = msgspec.structs.replace(file, on_bad_row="skip", limit=limit)
    try:
        with loose.open(None) as source:
            columns = source.value_columns
            if not set(about.columns) <= set(columns):
                return []
            maker = ElementMaker(features, columns)
            check = LookAhead(maker, about.config.stream.horizon)
            for block in source.blocks():
                check.push(Ticks(file.stream, block.t_ns, block.values))
    except DataError:
        return []  # a column of no numbers at all; the passes that follow complain of theirs
    return check.found()


def verdict(summary: dict[str, Any]) -> str:
    """Return one plain sentence about what was found."""
    leak = summary["leak"]
    if leak is not None:
        return (
            f"something looks ahead in the {leak['stage']}: after element {leak['element']:,} "
            f"(tick {leak['tick']:,}) another future ({leak['future']}) changed what was there at "
            f"element {leak['n']:,}"
        )
    told = (
        f"nothing looks ahead: at {summary['trials']:,} random places other futures changed none "
        f"of the {summary['bytes_compared']:,} bytes that were there before"
    )
    return f"{foreknowing(summary)}; otherwise {told}" if summary["foreknowing"] else told


def foreknowing(summary: dict[str, Any]) -> str:
    """Return what is said of columns that know the label."""
    names = ", ".join(
        f"{one['column']!r} (the {one['relation']} of its {one['kind']} with the label's element "
        f"is {one['next']:.4f}, with its own {one['own']:.4f})"
        for one in summary["foreknowing"]
    )
    return f"the file knows the label before it is there, in column {names}; leave it out"


def lines(summary: dict[str, Any]) -> Iterator[str]:
    """Yield what people read."""
    yield (
        f"{summary['stream']}: {summary['elements']:,} elements, {summary['predictions']:,} "
        f"predictions, {summary['updates']:,} updates in {summary['wall_s']:.1f} s"
    )
    yield (
        f"{summary['trials']:,} places, {summary['comparisons']:,} comparisons; futures: "
        f"{', '.join(summary['futures'])}"
    )
    for name, stage in summary["stages"].items():
        yield f"  {name}: {stage['bytes']:,} bytes compared, {stage['differing']:,} runs differ"
    yield summary["verdict"]
