"""What can be wrong with a replay before it starts, each said in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config import Config
from ..core.expressions import Column, columns_of
from ..core.features import FeatureSet
from ..errors import UsageError
from ..store.weights import check_target
from .input_file import InputFile

PRICES = ("price", "close", "mid", "last", "px", "value")
"""Parts of the names of columns whose logarithmic return makes sense."""


def check_targets(file: Path, out: Path | None, save_weights: Path | None) -> None:
    """Raise UsageError or OutputError for a place that results cannot or must not go to."""
    if out is not None and out.exists() and file.exists() and out.samefile(file):
        raise UsageError(f"--out {out} is the file that is read; name another")
    if save_weights is not None:
        check_target(save_weights)


BY_COLUMN = ("--stream", "--synthetic", "--label-column", "--state-check", "--store")
"""Flags that are of one stream."""


def check_many(config: Config, column: str | None, flags: Sequence[str]) -> None:
    """Raise UsageError for flags that do not go with many streams."""
    wrong = [flag for flag in flags if flag in BY_COLUMN] if column is not None else []
    if wrong:
        raise UsageError(f"{wrong[0]} is of one stream: leave it or --stream-column out")
    if column and "--save-weights" in flags and config.model.sharing == "per-stream":
        raise UsageError(
            "--save-weights writes one set of weights, and with sharing = 'per-stream' there "
            "is one for each stream: leave one of the two out"
        )


def check_features(file: InputFile, config: Config) -> tuple[str, ...]:
    """Return the columns that the features use.

    Raises UsageError where there are no features or no times for them, and ConfigurationError
    for a feature that is wrong.
    """
    expressions = config.stream.features
    if not expressions:
        raise UsageError(_which_features(file))
    columns = columns_of(expressions)
    if file.time is None and FeatureSet(expressions, columns).uses_time:
        raise UsageError("the feature elapsed() needs times: name their column with --time COLUMN")
    return columns


def _which_features(file: InputFile) -> str:
    from ..feed.files import file_columns

    names = ", ".join(file_columns(file.path))
    with file.open(columns=None) as source:
        example = feature_example(source.value_columns)
    return (
        f"name what the model sees with --feature; {file.path} has the columns {names}, "
        f"so for example: --feature '{example}'"
    )


def feature_example(columns: Sequence[str]) -> str:
    """Return a feature over some of the numeric columns that is likely to be wanted."""
    bids, asks = _containing(columns, "bid"), _containing(columns, "ask")
    if bids and asks:
        return f"log_return(mid({Column(bids[0])}, {Column(asks[0])}))"
    for word in PRICES:
        if found := _containing(columns, word):
            return f"log_return({Column(found[0])})"
    return f"diff({Column(columns[-1])})"


def _containing(columns: Sequence[str], word: str) -> list[str]:
    return [name for name in columns if word in name.lower()]
