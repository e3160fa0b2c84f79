"""`stream-lstm doctor`: what keeps a loss at ln 2."""

from __future__ import annotations

import time as clocks
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from .. import __version__
from ..errors import ConfigurationError, DataError, UsageError
from ..store.schema import is_store
from .doctor_case import blame, file_case, implied, store_case
from .input_file import JsonOption, LimitOption, StreamOption, TimeOption, TimeUnitOption
from .label_column import LabelColumnOption, LabelDelayOption
from .label_column import label_column as chosen_labels
from .options import configured
from .process import say, say_json
from .progress import step_progress
from .settings import Settings
from .synthetic_input import SeriesSeedOption, SyntheticOption, chosen_input

if TYPE_CHECKING:
    from ..core.doctor.diagnosis import Diagnosis

PHASES = ("looking at the rows", "plain forecasters", "the model", "a planted signal")
"""What is done, in its order."""


@configured(
    ("stream", "model", "scaling", "learning", "scoring"),
    without=("max_pending", "on_gap", "table", "twins", "score_window", "compile_cache"),
    implied=implied,
)
def command(
    *,
    settings: Settings,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE|STORE",
            help="What replay reads: CSV or TSV (also .gz, .zst), Parquet, Arrow, Feather or "
            ".npy; or a file of --store, with the settings that it holds.",
        ),
    ] = None,
    synthetic: SyntheticOption = None,
    series_seed: SeriesSeedOption = None,
    time: TimeOption = None,
    time_unit: TimeUnitOption = "auto",
    limit: LimitOption = None,
    stream: StreamOption = None,
    label_column: LabelColumnOption = None,
    label_delay: LabelDelayOption = "0",
    accuracy: Annotated[
        float,
        typer.Option(
            min=0.501, max=1.0, metavar="A", help="The accuracy that is hoped for, at least."
        ),
    ] = 0.52,
    expect_windows: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="The windows that you count, to be checked."),
    ] = None,
    expect_weights: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="The weights that you count, to be checked."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with exit code 65 where there is a fault.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell why a loss is stuck at ln 2: faults of data and settings, or nothing to learn.

    Learning is on, but for given --weights, unless --no-learn is given.

    Example: stream-lstm doctor quotes.csv.gz --feature 'log_return(mid(bid, ask))'
    """
    source = chosen_input(
        file,
        synthetic,
        stream,
        series_seed=series_seed,
        time=time,
        time_unit=time_unit,
        on_bad_row="skip",
        limit=limit,
    )
    start = clocks.perf_counter()
    try:
        if file is not None and is_store(file):
            if label_column is not None:
                raise UsageError("--label-column is of a file; a store has labels of its own")
            case, name = store_case(source, stream, settings)
            times = None
        else:
            labels = chosen_labels(label_column, label_delay, config=settings.config, time=time)
            case, source = file_case(source, settings, labels)
            name, times = source.stream, source.time
        case = case._replace(
            windows=expect_windows, weights_counted=expect_weights, accuracy=accuracy
        )
        from ..core.doctor.diagnosis import examine

        with step_progress(f"doctor {name}") as report:

            def progress(what: str, done: int, of: int) -> None:
                report(round(1000 * (PHASES.index(what) + done / of)), 1000 * len(PHASES))

            found = examine(case, progress)
    except ConfigurationError as error:
        raise blame(settings, error, label_column) from None
    rows = len(case.table.values)
    record = _record(found) | {
        "stream": name,
        "rows": rows,
        "time_column": times,
        "wall_s": clocks.perf_counter() - start,
    }
    if as_json:
        say_json(record)
    else:
        from .doctor_report import lines

        for line in lines(record):
            say(line)
    faults = [one.name for one in found.findings if one.level == "fault"]
    if strict and faults:
        raise DataError(f"--strict: {', '.join(faults)}")


def _record(found: Diagnosis) -> dict[str, Any]:
    return {
        "version": __version__,
        "kind": found.kind,
        "verdict": found.verdict,
        "findings": [msgspec.structs.asdict(one) for one in found.findings],
        "elements": found.elements,
        "labels": found.labels,
        "elements_tried": found.elements_tried,
    }
