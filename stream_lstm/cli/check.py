"""`stream-lstm check-config` tells whether a configuration is good, and what it amounts to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import KEYS, flatten
from ..core.expressions import columns_of
from ..core.features import FeatureSet
from ..quoting import json_line
from ..schema import LearningConfig
from .bank_file import read_bank
from .process import say, say_json
from .settings import resolve


def command(
    file: Annotated[Path, typer.Argument(help="The configuration to check.", metavar="FILE.toml")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the settings as one JSON object.")
    ] = False,
) -> None:
    """Check a configuration file and print every setting that it leads to.

    Settings of the environment count as they would for run and replay. Exit code 78 and one
    sentence say what is wrong.
    """
    settings = resolve({}, file)
    values = flatten(settings.config)
    expressions = settings.config.stream.features
    if expressions:
        FeatureSet(expressions, settings.config.feed.columns or columns_of(expressions))
    read_bank(settings.config)
    if settings.config.learning.learn:
        _check_optimizer(settings.config.learning)
    if as_json:
        say_json(values)
        return
    table = ""
    for key, value in values.items():
        if KEYS[key] != table:
            table = KEYS[key]
            say("", f"[{table}]")
        origin = settings.origins.get(key)
        note = f"  # from the {origin}" if origin else ""
        # TOML has no null: a setting that is not given stands as a comment.
        line = f"# {key} is not set" if value is None else f"{key} = {_toml(value)}"
        typer.echo(line + note)  # a value may be longer than a message
    say("", f"{file} is good.", err=True)


def _check_optimizer(config: LearningConfig) -> None:
    # JAX takes a second to import; a check without learning does not need it.
    from ..model.optimizers import KALMAN, build_kalman, build_optimizer

    build_kalman(config) if config.optimizer == KALMAN else build_optimizer(config)


def _toml(value: Any) -> str:
    return json_line(value)
