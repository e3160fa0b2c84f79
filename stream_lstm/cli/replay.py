"""`stream-lstm replay`: a historical file through the same session as a live feed.

The file is read in blocks and pushed in pieces, so memory stays flat however long it is, and a
signal is obeyed within a piece. Errors in the command line or the head of the file are found
before the network is compiled, which takes seconds.
"""

from __future__ import annotations

import dataclasses
import shlex
import time as clocks
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ..config import Config, build, flatten
from ..core.expressions import columns_of, parse
from ..core.functions import uses_time
from ..core.missing import optional_columns
from ..errors import DataError, UsageError
from ..feed.input_file import InputFile, LabelColumn, SyntheticInput, look_over, merged
from ..feed.reader import fault
from ..serve.trace import Trace
from ..store.startup import (
    WarmStart,
    check_one_set,
    check_saving,
    keep_weights,
    open_store,
    warm_start,
)
from .console import detail, file_progress, result, warn
from .options import FileOptions, JsonOption, LabelOptions, ResultOptions, external_labels, options
from .settings import Settings

if TYPE_CHECKING:
    from ..core.proofs.state import StateCheck
    from ..core.session import Session
    from ..serve.replaying import FileReplay
    from ..store.store import Store


@options(
    *("stream", "model", "scaling", "learning", "scoring", "store"),
    without=("on_gap", "file"),
    implied=external_labels,
)
def command(
    *,
    settings: Settings,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...",
            help="CSV or TSV (also .gz, .zst), Parquet, Arrow, Feather or .npy. Several files are "
            "merged by time, and each is a stream: NAME=FILE names it. - is standard input.",
        ),
    ] = None,
    source: FileOptions,
    stream_column: Annotated[
        str | None,
        typer.Option(
            "--stream-column",
            metavar="COLUMN",
            help="Column that names each row's stream.",
            show_default="all rows are of one stream",
        ),
    ] = None,
    labels: LabelOptions,
    outputs: ResultOptions,
    state_check: Annotated[
        bool,
        typer.Option(
            "--state-check",
            help="Also predict from windows, with the weights unchanged, and report how far that "
            "differs from carrying the state and how soon the state forgets its start.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Replay files or a synthetic stream: predict, score each prediction, and learn if asked to.

    Example: stream-lstm replay quotes.csv.gz --feature 'log_return(mid(bid, ask))'
    """
    several = len(files or ()) > 1
    if several or stream_column is not None:
        alone = {
            "--stream": source.stream,
            "--synthetic": source.synthetic,
            "--label-column": labels.label_column,
            "--state-check": state_check,
            "--store": settings.config.store.store,
        }
        if given := [flag for flag, value in alone.items() if value]:
            many = "replay one file" if several else "omit it or --stream-column"
            raise UsageError(f"{given[0]} is for one stream: {many}")
        check_one_set(settings.config, outputs.save_weights)
    file = _input(source, files or ())
    if stream_column is not None:
        if several:
            raise UsageError("--stream-column is for one file; of several, each is a stream")
        file = msgspec.structs.replace(file, stream_column=stream_column)
    column = labels.column(settings.config, source.named_time)
    summary = _replay(file, settings, column, outputs, state_check)
    from .results import summary_lines

    result(summary, summary_lines(summary), as_json=as_json)
    if summary["refused_labels"] and not summary["labels"]:
        raise DataError(summary["verdict"])


def _input(source: FileOptions, texts: Sequence[str]) -> InputFile:
    """Return the files of the command line as one; UsageError for names in conflict."""
    named = [_split(text) for text in texts]
    if len(named) > 1:
        file = merged([source.of(path, name) for name, path in named])
        for part in file.parts if source.time is None else ():
            detail(f"{part.path}: the times are in the column {part.time!r}")
        return file
    for name, path in named:
        if name is not None and source.stream is not None:
            raise UsageError(f"--stream and {name}= both name the stream: omit one of them")
        source = dataclasses.replace(source, file=path, stream=name or source.stream)
    return source.input()


def _split(text: str) -> tuple[str | None, Path]:
    """Return the name and the path of NAME=FILE; a file of that whole name has no other name."""
    name, sign, path = text.partition("=")
    if not sign or not path or fault(name) or Path(text).exists():
        return None, Path(text)
    return name, Path(path)


def _replay(
    file: InputFile,
    settings: Settings,
    labels: LabelColumn | None,
    files: ResultOptions,
    state_check: bool,
) -> dict[str, Any]:
    """Run the whole replay and return its summary."""
    if files.out is not None and any(_same(files.out, part.path) for part in file.parts):
        raise UsageError(f"--out {files.out} is the file that is read; name another")
    files.check()
    if state_check:
        check_frozen(settings.config)
        if settings.config.store.store is not None:
            raise UsageError("--state-check needs a whole replay: omit --store")
    check_saving(settings.config, files.save_weights)
    begin = with_features(file, warm_start(settings.config, settings.origins, warn))
    columns = check_features(file, begin.config)
    read = columns if labels is None else labels.columns(columns)
    file, _ = look_over(file, used=columns, by_column=True, warn=warn, detail=detail)
    file = with_optional(file, begin.config, columns)
    from ..core.session import fallbacks  # JAX is imported here and not before
    from ..feed.survey import with_all_faults
    from ..serve.replaying import FileReplay, ReplayResults, begun, session_of, state_record

    with ExitStack() as stack:
        results = stack.enter_context(ReplayResults(file, warn))
        stack.enter_context(with_all_faults(file, read))
        optional = {} if labels is None else {"optional": (labels.name,)}
        source = stack.enter_context(file.open(read, results.refused, **optional))
        results.open(files.out, spreadsheet=files.spreadsheet)
        if isinstance(file, SyntheticInput):
            from ..core.scores import BestPossible

            results.best = BestPossible(file.source())
        store = open_store(begin, columns, command="replay", blocking=True, warn=warn)
        if store is not None:
            stack.enter_context(store)
            results.store = store
            begin = begin._replace(weights=store.setup.weights, scaler=store.setup.scaler)
        timeline = None
        if files.trace is not None:
            timeline = stack.enter_context(Trace(files.trace, "stream-lstm replay"))

        # what the first rows show is told before anything is compiled
        blocks = begun(source.blocks(), begin.config.stream.window, warn)
        start = clocks.perf_counter()
        session = session_of(begin, columns, deliver=results.deliver, scored=results.scored)
        for line in fallbacks(session):
            warn(line)
        if timeline is not None:
            timeline.session(session)
        check = _state_check(session, file, begin.scaler) if state_check else None
        compile_s = clocks.perf_counter() - start
        detail(f"compiled in {compile_s:.2f} s")
        start = clocks.perf_counter()
        if store is not None and store.begin(session) is not None:
            results.take_over(store)
            _warn_of_others(store, file)
        feed = FileReplay(
            session, results, check, labels, store, warn=warn, progress=file_progress
        )
        interrupted = feed.run(file, source, blocks)
        wall_s = clocks.perf_counter() - start
    if files.save_weights is not None:
        keep_weights(files.save_weights, session, file.stream)
    summary = results.summary(session, source.rows_refused, wall_s=wall_s, compile_s=compile_s)
    summary["notes"] = [one.line for one in feed.odd.findings()]
    if doubt := file.doubt or feed.doubt:
        summary["verdict"] = f"no verdict: {doubt}"
    if store is not None:
        summary["store"] = store.figures()
    if isinstance(file, SyntheticInput):
        summary["series"] = {"name": file.path.name, "seed": file.seed}
    else:
        summary["read"] = what_was_read(file, feed, columns)
    if check is not None:
        summary["state_check"] = state_record(check)
    if feed.late is not None and labels is not None:
        counts = {"missing": feed.late.missing, "undelivered": feed.late.undelivered}
        summary["label_column"] = {"name": labels.name, **counts}
    return {**_named(file), **summary, "interrupted": interrupted}


def what_was_read(file: InputFile, feed: FileReplay, columns: Sequence[str]) -> dict[str, Any]:
    """Return the key `read` of the summary: the rows, their form, times and columns."""
    from ..feed.survey import form_of, moment

    form = None
    if len(file.parts) == 1:
        with suppress(DataError):
            form = form_of(file.path, file.asked).words()
    times = file.time is not None and feed.span is not None
    span = [moment(t_ns) for t_ns in feed.span or ()] if times else [None, None]
    of = {"file": file.path.name, "form": form, "rows": feed.rows, "first": span[0]}
    return of | {"last": span[1], "columns": list(columns)}


def _named(file: InputFile) -> dict[str, Any]:
    """Return what the summary says about the streams' names."""
    if len(file.parts) > 1:
        return {"files": {part.stream: str(part.path) for part in file.parts}}
    by_column = file.stream_column
    return {"stream": file.stream} if by_column is None else {"stream_column": by_column}


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _warn_of_others(store: Store, file: InputFile) -> None:
    """Warn that a stream is added to a store of other streams."""
    known = sorted(store.positions)
    if known and file.stream_column is None and file.stream not in known:
        warn(
            f"the store {store.path} contains {', '.join(known)}: {file.stream} is added and "
            "continues with its weights (--stream names the series, or use another store)"
        )


# ---- checks -----------------------------------------------------------------------------------


def check_frozen(config: Config) -> None:
    """Raise UsageError if the weights would change."""
    if config.learning.learn:
        raise UsageError(
            "--state-check compares predictions of unchanged weights; omit --learn, or save the "
            "learned weights (--save-weights) and check those (--weights)"
        )


def _state_check(session: Session, file: InputFile, scaler: Any) -> StateCheck:
    from ..core.proofs.state import StateCheck

    config, weights = session.config, session.weights_for(file.stream)
    queries = file.informative(config.stream)
    return StateCheck(config, session.maker, weights, scaler=scaler, queries=queries)


def with_features(file: InputFile, begin: WarmStart) -> WarmStart:
    """Return the start with the default features of a synthetic stream."""
    if begin.config.stream.features:
        return begin
    features = file.default_features()
    return begin._replace(config=build({**flatten(begin.config), "features": features}))


def check_features(file: InputFile, config: Config) -> tuple[str, ...]:
    """Return the columns that the features use.

    Raises UsageError without features, or without times that they need, and ConfigurationError
    for a wrong feature or an unknown stream in one.
    """
    expressions = config.stream.features
    if not expressions:
        raise UsageError(_which_features(file))
    from ..core.feature_sets import compile_features
    from ..core.features import check_streams

    columns = columns_of(expressions)
    compiled = compile_features(expressions, columns, config.stream)
    if file.stream_column is None and config.store.store is None:
        check_streams(compiled.others, [part.stream for part in file.parts])
    if file.time is None and compiled.uses_time:
        timed = [text for text in expressions if uses_time(parse(text))]
        what = f"the feature {timed[0]}" if timed else "on_missing with an age"
        raise UsageError(f"{what} needs times: name their column with --time COLUMN")
    if file.time is None and config.stream.pause:
        raise UsageError(
            f"pause = {config.stream.pause!r} needs times: name their column with --time COLUMN, "
            "or set pause to ''"
        )
    return columns


def with_optional(file: InputFile, config: Config, columns: Sequence[str]) -> InputFile:
    """Return the file with the columns that may be missing."""
    return msgspec.structs.replace(file, optional=optional_columns(config.stream, columns))


def _which_features(file: InputFile) -> str:
    from ..feed.look import look_at_file
    from .init import suggest

    look = look_at_file(file.parts[0])
    example = suggest(look.columns, look.values)[0]
    return (
        f"name the model's inputs with --feature; {file.parts[0].path} has the columns "
        f"{', '.join(look.names)}, for example: --feature {shlex.quote(example)}"
    )
