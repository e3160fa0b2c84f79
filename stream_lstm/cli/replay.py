"""`stream-lstm replay`: a historical file through the same session as a live feed.

The file comes in blocks and goes through the session in pieces, so memory stays flat however long
it is, and a signal is obeyed within a piece. Whatever can be wrong with the command line or the
head of the file is found before the network is compiled, which takes seconds.
"""

from __future__ import annotations

import time as clocks
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ..config import build, flatten
from ..errors import ConfigurationError, DataError, UsageError
from ..serve.trace import Trace
from .input_file import (
    FileArgument,
    InputFile,
    JsonOption,
    LimitOption,
    OnBadRowOption,
    StreamColumnOption,
    StreamOption,
    TimeOption,
    TimeUnitOption,
)
from .label_column import (
    LabelColumn,
    LabelColumnOption,
    LabelDelayOption,
    implied,
)
from .label_column import label_column as chosen_labels
from .options import configured
from .process import say_json, warn
from .replay_checks import check_many
from .settings import Settings
from .spreadsheet_option import SpreadsheetOption, check_spreadsheet
from .state_check import StateCheckOption, check_frozen, effect, queries_of, verdict
from .synthetic_input import (
    SeriesSeedOption,
    SyntheticInput,
    SyntheticOption,
    chosen_input,
)
from .trace_option import TraceOption

if TYPE_CHECKING:
    from ..core.proofs.state import StateCheck
    from ..core.session import Session
    from ..store.store import Store


@configured(
    ("stream", "model", "scaling", "learning", "scoring", "store"),
    without=("on_gap",),
    implied=implied,
)
def command(
    *,
    settings: Settings,
    file: FileArgument = None,
    synthetic: SyntheticOption = None,
    series_seed: SeriesSeedOption = None,
    time: TimeOption = None,
    time_unit: TimeUnitOption = "auto",
    on_bad_row: OnBadRowOption = "fail",
    limit: LimitOption = None,
    stream: StreamOption = None,
    stream_column: StreamColumnOption = None,
    label_column: LabelColumnOption = None,
    label_delay: LabelDelayOption = "0",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.parquet|.csv|.jsonl", help="Write predictions and their scores here."
        ),
    ] = None,
    spreadsheet: SpreadsheetOption = False,
    save_weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE.safetensors", help="Write the weights as they are at the end."),
    ] = None,
    state_check: StateCheckOption = False,
    trace: TraceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay a file or a synthetic stream: predict, score each prediction, and learn if asked to.

    Example: stream-lstm replay quotes.csv.gz --feature 'log_return(mid(bid, ask))'
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
    others = {
        "--stream": stream,
        "--synthetic": synthetic,
        "--label-column": label_column,
        "--state-check": state_check,
        "--save-weights": save_weights,
        "--store": settings.config.store.store,
    }
    check_many(settings.config, stream_column, [flag for flag, said in others.items() if said])
    if stream_column is not None:
        source = msgspec.structs.replace(source, stream_column=stream_column)
    labels = chosen_labels(label_column, label_delay, config=settings.config, time=time)
    try:
        summary = _replay(
            source, settings, labels, out, spreadsheet, save_weights, state_check, trace
        )
    except ConfigurationError as error:
        if error.key in ("time", "stream_column"):
            raise UsageError(*error.within(f"--{error.key.replace('_', '-')}: ")) from None
        if labels is not None and f"no column {labels.name!r}" in str(error):
            raise UsageError(f"--label-column: {error}") from None
        raise settings.blame(error) from None
    if as_json:
        say_json(summary)
    else:
        from .summary_table import print_summary

        print_summary(summary)
    if summary["refused_labels"] and not summary["labels"]:
        raise DataError(summary["verdict"])


def _replay(
    file: InputFile,
    settings: Settings,
    labels: LabelColumn | None,
    out: Path | None,
    spreadsheet: bool,
    save_weights: Path | None,
    state_check: bool,
    trace: Path | None,
) -> dict[str, Any]:
    """Run the whole replay and return its summary."""
    from .bank_file import check_bank, read_bank
    from .best_possible import BestPossible
    from .replay_checks import check_features, check_targets
    from .replay_results import ReplayResults
    from .store_option import open_store
    from .warm_start import keep_weights, warm_start

    check_targets(file.path, out, save_weights)
    check_spreadsheet(out, spreadsheet=spreadsheet)
    if state_check:
        check_frozen(settings.config)
        if settings.config.store.store is not None:
            raise UsageError("--state-check sees a whole replay: leave --store out")
    check_bank(settings.config, save_weights)
    members = read_bank(settings.config)
    begin = warm_start(settings)
    config, weights, scaler = begin
    if not config.stream.features:
        config = build({**flatten(config), "features": file.default_features()})
    columns = check_features(file, config)
    with ExitStack() as stack:
        results = stack.enter_context(ReplayResults(str(file.path), file.on_bad_row))
        if isinstance(file, SyntheticInput):
            results.compare_with(BestPossible(file.source()))
        read = columns if labels is None else labels.columns(columns)
        optional = {} if labels is None else {"optional": (labels.name,)}
        source = stack.enter_context(file.open(read, results.refused, **optional))
        if out is not None:
            results.write_to(out, spreadsheet=spreadsheet)
        begin = begin._replace(config=config)
        store = open_store(begin, columns, members, command="replay", blocking=True, say=warn)
        if store is not None:
            stack.enter_context(store)
            results.keep_in(store)
            weights, scaler = store.setup.weights, store.setup.scaler
        title = "stream-lstm replay"
        timeline = None if trace is None else stack.enter_context(Trace(trace, title))

        from ..core.session import Session, fallbacks  # JAX is imported here and not before
        from .replay_feed import ReplayFeed

        start = clocks.perf_counter()
        session = Session(
            config,
            columns,
            deliver=results.deliver,
            scored=results.scored,
            weights=weights,
            scaler=scaler,
            members=members,
        )
        for line in fallbacks(session):
            warn(line)
        if timeline is not None:
            timeline.session(session)
        check = _state_check(session, file, scaler) if state_check else None
        compile_s = clocks.perf_counter() - start
        start = clocks.perf_counter()
        if store is not None and store.begin(session) is not None:
            results.take_over(store)
            _tell_of_others(store, file)
        feed = ReplayFeed(session, results, check, labels, store)
        interrupted = feed.run(file, source)
        wall_s = clocks.perf_counter() - start
    if save_weights is not None:
        keep_weights(save_weights, session, file.stream)
    summary = results.summary(session, source.rows_refused, wall_s=wall_s, compile_s=compile_s)
    if store is not None:
        summary["store"] = store.figures()
    if isinstance(file, SyntheticInput):
        summary["series"] = {"name": file.path.name, "seed": file.seed}
    if check is not None:
        found = check.record()
        summary["state_check"] = found | {"effect": effect(found), "verdict": verdict(found)}
    if feed.late is not None and labels is not None:
        counts = {"missing": feed.late.missing, "undelivered": feed.late.undelivered}
        summary["label_column"] = {"name": labels.name, **counts}
    column = file.stream_column
    named = {"stream": file.stream} if column is None else {"stream_column": column}
    return {**named, **summary, "interrupted": interrupted}


def _tell_of_others(store: Store, file: InputFile) -> None:
    """Say where a stream comes into a store beside those that it holds."""
    known = sorted(store.positions)
    if known and file.stream_column is None and file.stream not in known:
        warn(
            f"the store {store.path} holds {', '.join(known)}: {file.stream} is added to it and "
            "goes on with its weights (--stream names the series, or take another store)"
        )


def _state_check(session: Session, file: InputFile, scaler: Any) -> StateCheck:
    from ..core.proofs.state import StateCheck

    weights = session.weights_for(file.stream)
    queries = queries_of(file, session.config)
    return StateCheck(session.config, session.maker, weights, scaler=scaler, queries=queries)
