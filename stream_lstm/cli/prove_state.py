"""`stream-lstm prove state`: whether carrying the state changes, and betters, what is predicted.

The weights stay as they are; `core.state_check` says what is compared. The labels of a synthetic
stream that are no coins are known, and are scored apart: for `s4-latch` they are all that matters.
"""

from __future__ import annotations

import time as clocks
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..config import Config
from ..errors import ConfigurationError, UsageError
from ..events import Refusal, Ticks
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
from .state_check import check_frozen, effect, queries_of, state_lines, verdict
from .synthetic_input import SeriesSeedOption, SyntheticOption, chosen_input

if TYPE_CHECKING:
    from ..core.proofs.state import StateCheck

UNTRAINED = (
    "prove state needs --weights: what random weights make of a state proves nothing. Make them "
    "with: stream-lstm train FILE --feature ... --out weights.safetensors, or with: stream-lstm "
    "replay FILE --feature ... --learn --save-weights weights.safetensors"
)


@configured(
    ("stream", "model", "scaling"),
    without=(
        *("max_pending", "on_gap", "labels", "table"),
        *("mode", "seed", "init", "init_horizon", "sharing"),
    ),
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
    as_json: JsonOption = False,
) -> None:
    """Prove whether carrying the state helps: carried, windowed and fresh, on the same labels.

    Example: stream-lstm prove state quotes.csv.gz --weights weights.safetensors --window 100
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
    if settings.config.model.weights is None:
        raise UsageError(UNTRAINED)
    check_frozen(settings.config)
    try:
        summary = prove(subject(source, settings))
    except ConfigurationError as error:
        raise blame(settings, error) from None
    tell(summary, lines(summary), as_json)


def prove(about: Subject) -> dict[str, Any]:
    """Run the whole proof and return what it found; raises what a replay raises."""
    from ..core.elements import maker_of
    from ..core.proofs.state import StateCheck
    from ..model.network import check_weights
    from .replay_results import ReplayResults

    file, config = about.file, about.config
    maker = maker_of(config.stream, about.columns)
    assert about.weights is not None
    start = clocks.perf_counter()
    weights = check_weights(_shape(config), about.weights)
    asked = queries_of(file, config)
    check = StateCheck(config, maker, weights, scaler=about.scaler, queries=asked)
    compile_s = clocks.perf_counter() - start
    start = clocks.perf_counter()
    with ReplayResults(str(file.path), file.on_bad_row) as results:
        ticks = _feed(about, check, results)
    found = check.record()
    return {
        "version": __version__,
        "stream": file.stream,
        "ticks": ticks,
        "elements": check.elements,
        "refused_ticks": results.refused.total["tick"],
        **found,
        "effect": effect(found),
        "verdict": verdict(found),
        "compile_s": compile_s,
        "wall_s": clocks.perf_counter() - start,
    }


def _feed(about: Subject, check: StateCheck, results: Any) -> int:
    """Push the whole file and return the number of its ticks."""
    from .progress import file_progress

    file, done = about.file, 0

    def refused(index: int, reason: str) -> None:
        results.take(Refusal(file.stream, "tick", reason, index))

    with (
        file.open(about.columns, results.refused) as source,
        file_progress(source, file.limit) as report,
    ):
        for block in source.blocks():
            results.rows = block.rows
            check.push(Ticks(file.stream, block.t_ns, block.values), refused)
            done += len(block.rows)
            report(done)
    return done


def _shape(config: Config) -> Any:
    from ..model.forecaster import network_shape

    return network_shape(config.model, len(config.stream.features))


def lines(summary: dict[str, Any]) -> list[str]:
    """Return what people read."""
    head = (
        f"{summary['stream']}: {summary['elements']:,} elements in {summary['wall_s']:.1f} s, "
        f"weights as they are"
    )
    return [head, *state_lines(summary)]
