"""`stream-lstm prove`: promises of this program, checked on the user's own data.

`serve.proofs` carries them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError, StreamLSTMError, UsageError
from ..feed.input_file import look_over
from ..store.startup import check_saving, warm_start
from .console import detail, file_progress, result, warn
from .options import FileOptions, JsonOption, options
from .replay import check_features, check_frozen, with_features, with_optional
from .settings import Settings

if TYPE_CHECKING:
    from ..serve.proofs import Subject

UNTRAINED = (
    "prove state needs --weights, since the state of random weights proves nothing. Make them "
    "with: stream-lstm train FILE --feature ... --out weights.safetensors, or with: stream-lstm "
    "replay FILE --feature ... --learn --save-weights weights.safetensors"
)


def _subject(settings: Settings, source: FileOptions) -> Subject:
    """Return the subject of a proof; raises what a replay of the file would before it compiles."""
    file = source.input()
    if settings.config.stream.labels == "external":
        raise UsageError("proofs need labels from the series itself: omit labels=external")
    check_saving(settings.config, None)
    begin = with_features(file, warm_start(settings.config, settings.origins, warn))
    columns = check_features(file, begin.config)
    file, _ = look_over(file, used=columns, warn=warn, detail=detail)
    file = with_optional(file, begin.config, columns)
    with file.open(columns, lambda *_: None) as opened:
        next(opened.blocks(), None)  # what the first rows show is told before anything is compiled
    from ..serve.proofs import Subject  # JAX is imported here and not before

    return Subject(file, begin, columns, warn, file_progress)


# ---- state ------------------------------------------------------------------------------------


@options(
    *("stream", "model", "scaling"),
    without=(
        *("max_pending", "on_gap", "labels", "table"),
        *("mode", "seed", "init", "init_horizon", "sharing"),
    ),
)
def state(*, settings: Settings, source: FileOptions, as_json: JsonOption = False) -> None:
    """Prove whether carrying the state helps: carried, windowed and fresh, on the same labels.

    Example: stream-lstm prove state quotes.csv.gz --weights weights.safetensors --window 100
    """
    if settings.config.model.weights is None:
        raise UsageError(UNTRAINED)
    check_frozen(settings.config)
    about = _subject(settings, source)
    from ..serve.proofs import prove_state

    summary = prove_state(about)
    detail(f"compiled in {summary['compile_s']:.2f} s")
    result(summary, _state_lines(summary), as_json=as_json)


def _state_lines(summary: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{summary['stream']}: {summary['elements']:,} elements in {summary['wall_s']:.1f} s, "
        "weights unchanged"
    )
    from .results import state_lines

    yield from state_lines(summary)


# ---- causal -----------------------------------------------------------------------------------


@options(
    *("stream", "model", "scaling", "learning", "scoring"),
    without=("max_pending", "on_gap", "table"),
)
def causal(
    *,
    settings: Settings,
    source: FileOptions,
    trials: Annotated[
        int, typer.Option(min=1, metavar="N", help="Positions at which the future is changed.")
    ] = 200,
    trial_seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Seed of the positions and other futures.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Prove that no prediction, score or update depends on the future, and no column reveals it.

    Example: stream-lstm prove causal quotes.csv.gz --feature 'log_return(mid(bid, ask))' --learn
    """
    about = _subject(settings, source)
    from ..serve.proofs import prove_causal, revealing

    summary = prove_causal(about, trials, trial_seed)
    detail(f"compiled in {summary['compile_s']:.2f} s")
    result(summary, _causal_lines(summary), as_json=as_json)
    if summary["leak"] is not None:
        raise StreamLSTMError(summary["verdict"])
    if summary["foreknowing"]:
        raise DataError(revealing(summary))


def _causal_lines(summary: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{summary['stream']}: {summary['elements']:,} elements, {summary['predictions']:,} "
        f"predictions, {summary['updates']:,} updates in {summary['wall_s']:.1f} s"
    )
    yield (
        f"{summary['trials']:,} positions, {summary['comparisons']:,} comparisons; futures: "
        f"{', '.join(summary['futures'])}"
    )
    for name, stage in summary["stages"].items():
        yield f"  {name}: {stage['bytes']:,} bytes compared, {stage['differing']:,} runs differ"
    yield summary["verdict"]


# ---- live -------------------------------------------------------------------------------------


@options(
    *("stream", "model", "scaling", "learning", "scoring"),
    without=("max_pending", "on_gap", "table"),
)
def live(*, settings: Settings, source: FileOptions, as_json: JsonOption = False) -> None:
    """Prove that the live daemon predicts, to the bit, what a replay of the same file does.

    Example: stream-lstm prove live quotes.csv.gz --feature 'log_return(mid(bid, ask))' --learn
    """
    about = _subject(settings, source)
    from ..serve.proofs import prove_live

    summary = prove_live(about)
    result(summary, _live_lines(summary), as_json=as_json)
    if not summary["same"]:
        raise StreamLSTMError(summary["verdict"])


def _live_lines(summary: dict[str, Any]) -> Iterator[str]:
    yield f"{summary['stream']}: replayed, and run live over ZeroMQ, in {summary['wall_s']:.1f} s"
    for name in ("ticks", "predictions", "updates"):
        found = summary[name]
        yield f"  {name}: {found['live']:,} live, {found['replay']:,} replayed"
    yield f"  digest: {summary['digest']['live'][:16]}, {summary['digest']['replay'][:16]}"
    yield summary["verdict"]


# ---- features ---------------------------------------------------------------------------------


@options(
    "stream",
    extra=("weights",),
    without=(
        *("window", "stride", "horizon", "labels", "threshold", "max_pending", "label_expiry"),
        *("label_expiry_s", "revisions", "label_hold", "on_gap", "table"),
    ),
)
def features(
    *,
    settings: Settings,
    source: FileOptions,
    trial_seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Seed of the cuts and of the ticks taken back.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Prove that features have the same bits tick by tick and in blocks, your own ones too.

    Example: stream-lstm prove features quotes.csv.gz --plugin mine:ema --allow-plugins
    --feature 'ema(bid)'
    """
    about = _subject(settings, source)
    from ..serve.proofs import prove_features

    summary = prove_features(about, trial_seed)
    result(summary, _features_lines(summary), as_json=as_json)
    if summary["failure"] or summary["difference"]:
        raise StreamLSTMError(summary["verdict"])


def _features_lines(summary: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{summary['stream']}: {summary['ticks']:,} ticks, {summary['blocks']:,} cut blocks, "
        f"{summary['undone']:,} other ticks taken back, {summary['restored']:,} states moved, in "
        f"{summary['wall_s']:.1f} s"
    )
    if summary["functions"]:
        yield f"  with memory: {', '.join(summary['functions'])}"
    yield summary["verdict"]
