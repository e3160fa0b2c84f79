"""`stream-lstm doctor`: why a loss stays at ln 2."""

from __future__ import annotations

import dataclasses
import os
import textwrap
import time as clocks
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from .. import __version__
from ..errors import DataError, UsageError
from ..feed.input_file import MAX_ROWS, InputFile, LabelColumn, find_times, look_over, read_whole
from ..feed.order import Finding as Shown
from ..feed.order import OddValues
from ..schema import LearningConfig
from ..store.executables import keep_executables
from ..store.startup import warm_start
from .console import is_verbose, result, step_progress, warn
from .options import (
    AllowPluginsOption,
    FileOptions,
    JsonOption,
    LabelOptions,
    external_labels,
    flag,
    options,
    use_plugins,
)
from .replay import check_features, with_features, with_optional
from .settings import Settings, read_environment, read_toml

if TYPE_CHECKING:
    from ..core.doctor.diagnosis import Case, Diagnosis
    from ..core.doctor.inputs import Finding, Level

PHASES = ("looking at the rows", "plain forecasters", "the model", "a planted signal")
"""The phases of an examination, in their order."""

WIDTH = 88

LEVELS = {"fault": "FAULT", "warning": "warning", "note": "note", "ok": "ok"}


@dataclasses.dataclass(frozen=True)
class ExaminedOptions(FileOptions):
    """A historical file, a synthetic stream or a store."""

    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE|STORE",
            help="A file as for replay: CSV or TSV (also .gz, .zst), Parquet, Arrow, Feather or "
            ".npy; or a file of --store, with the settings in it.",
        ),
    ] = None


def implied(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the implied settings: labels of a column, and learning from a file.

    Learning is implied unless the user sets it or gives weights.
    """
    settings, file, path = (
        external_labels(arguments),
        arguments.get("file"),
        arguments.get("config"),
    )
    if file is not None and _is_store(file):
        return settings
    known = (read_toml(path) if path else {}) | read_environment(os.environ) | dict(arguments)
    if "learn" in known or "weights" in known:
        return settings
    window = str(known.get("window", ""))
    if "bptt" not in known and window.isdigit() and int(window) > 0:
        settings["bptt"] = min(LearningConfig().bptt, int(window))
    return settings | {"learn": True}


@options(
    *("stream", "model", "scaling", "learning", "scoring"),
    without=(
        *("max_pending", "on_gap", "table", "twins", "score_window", "compile_cache"),
        "on_bad_row",
    ),
    implied=implied,
)
def command(
    *,
    settings: Settings,
    source: ExaminedOptions,
    labels: LabelOptions,
    accuracy: Annotated[
        float,
        typer.Option(min=0.501, max=1.0, metavar="A", help="Smallest accuracy worth detecting."),
    ] = 0.52,
    expect_windows: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Your count of windows, to be checked.")
    ] = None,
    expect_weights: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Your count of weights, to be checked.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 65 if there is a fault.")
    ] = False,
    allow_plugins: AllowPluginsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Explain why a loss is stuck at ln 2: faults of data and settings, or nothing to learn.

    Learning is on, unless --weights or --no-learn is given.

    Example: stream-lstm doctor quotes.csv.gz --feature 'log_return(mid(bid, ask))'
    """
    file = msgspec.structs.replace(source.input(), on_bad_row="skip")
    start = clocks.perf_counter()
    if source.file is not None and _is_store(file.path):
        if labels.label_column is not None:
            raise UsageError("--label-column is for a file; a store has its own labels")
        case, name = store_case(file, source.stream, settings)
        use_plugins(case.config, allow_plugins)
        times = None
    else:
        column = labels.column(settings.config, source.named_time)
        case, file = file_case(file, settings, column)
        name, times = file.stream, file.time
    case = case._replace(windows=expect_windows, weights_counted=expect_weights, accuracy=accuracy)
    from ..core.doctor.diagnosis import examine

    with step_progress(f"doctor {name}") as report:

        def progress(what: str, done: int, of: int) -> None:
            report(round(1000 * (PHASES.index(what) + done / of)), 1000 * len(PHASES))

        found = examine(case, progress)
    record = _record(found) | {
        "stream": name,
        "rows": len(case.table.values),
        "time_column": times,
        "wall_s": clocks.perf_counter() - start,
    }
    result(record, _lines(record, whole=is_verbose()), as_json=as_json)
    faults = [one.name for one in found.findings if one.level == "fault"]
    if strict and faults:
        raise DataError(f"--strict: {', '.join(faults)}")


def _is_store(path: Path) -> bool:
    from ..store.schema import is_store

    return is_store(path)


def file_case(
    file: InputFile, settings: Settings, labels: LabelColumn | None
) -> tuple[Case, InputFile]:
    """Return the case of a file, and the file with the column of times that was found.

    Raises what a replay of it would before it compiles.
    """
    from ..core.doctor.diagnosis import Case

    begin = with_features(file, warm_start(settings.config, settings.origins, warn))
    named, timed, file = file.time, file.find_time, find_times(file)
    used = check_features(file, begin.config)
    # the diagnosis names what other commands refuse, beside all else
    as_it_is = msgspec.structs.replace(file, as_is=True, time=named, time_found=False)
    file, shown = look_over(as_it_is, used=used, warn=lambda _: None)
    file = with_optional(file, begin.config, used)
    whole = read_whole(file, used, None if labels is None else labels.name)
    case = Case(begin.config, whole.table, begin.weights, begin.scaler, begin.members)
    case = case._replace(left_out=whole.left_out, reasons=whole.reasons, timed=timed)
    odd = OddValues(whole.table.columns)
    odd.look(whole.table.values)
    # the order and the odd values of all rows, not only of the first
    shown = [one for one in shown if one.name not in ("order", "sentinels")] + odd.findings()
    case = case._replace(further=tuple(map(_finding, shown)))
    if labels is not None:
        case = case._replace(delays={"delay": labels.delay, "delay_ns": labels.delay_ns})
    return case, file


def _finding(shown: Shown) -> Finding:
    """Return a finding about the first rows as one of the diagnosis."""
    from ..core.doctor.inputs import Finding

    levels: dict[str, Level] = {"refuse": "fault", "warn": "warning", "note": "note"}
    return Finding(shown.name, levels[shown.severity], shown.what, shown.remedy)


def store_case(file: InputFile, stream: str | None, settings: Settings) -> tuple[Case, str]:
    """Return the case of a store, with its own settings, and the name of its stream.

    Raises UsageError for settings from the command line, and what reading a store raises.
    """
    from ..core.doctor.diagnosis import Case
    from ..store.inspection import stored_series

    if settings.flags:
        given = ", ".join(map(flag, settings.flags))
        raise UsageError(f"a store has its own settings: omit {given}")
    if file.time is not None:
        raise UsageError("--time names a column of a file; a store has its own times")
    limit = MAX_ROWS if file.limit is None else min(file.limit, MAX_ROWS)
    found = stored_series(file.path, stream, limit)
    setup = found.setup
    keep_executables(None, warn)
    case = Case(setup.config, found.table, setup.weights, setup.scaler, setup.members)
    return case._replace(further=found.findings), found.stream


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


def _lines(record: dict[str, Any], *, whole: bool) -> Iterator[str]:
    """Yield the verdict and the findings, the worst first, in lines that fit a terminal.

    whole: whether to include the checks that found nothing.
    """
    head = f"{record['stream']}: {record['rows']:,} rows, {record['elements']:,} elements, "
    head += f"{record['labels']:,} labels"
    if record["elements_tried"] < record["elements"]:
        head += f"; trials used the first {record['elements_tried']:,} elements"
    if record["time_column"] is not None:
        head += f"; times are in {record['time_column']}"
    yield from textwrap.wrap(head, WIDTH)
    yield from textwrap.wrap(record["verdict"], WIDTH)
    yield ""
    shown = [one for one in record["findings"] if whole or one["level"] != "ok"]
    for finding in shown:
        first = f"{LEVELS[finding['level']]:<8}{finding['name']}: "
        yield from _wrapped(first, finding["evidence"])
        if finding["remedy"]:
            yield from _wrapped(" " * 8 + "-> ", finding["remedy"], " " * 11)
    if left_out := len(record["findings"]) - len(shown):
        yield f"{left_out} check{'s' * (left_out > 1)} found nothing; -v prints them"


def _wrapped(first: str, text: str, later: str = " " * 8) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=later, break_on_hyphens=False
    )
