"""The configuration: all tables together, validated when they are made.

Every key has a name of its own across all tables, so that the flag `--bptt`, the environment
variable `STREAM_LSTM_BPTT` and the key `bptt` in the table `[learning]` are one setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import msgspec

from .errors import ConfigurationError
from .errors import nearest as nearest
from .tables import (
    FeedConfig,
    Gradient,
    LearningConfig,
    ModelConfig,
    PublishConfig,
    ScalingConfig,
    ScoringConfig,
    SecurityConfig,
    ServeConfig,
    StoreConfig,
    StreamConfig,
    TrainConfig,
)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set, one attribute for each table of the TOML file."""

    stream: StreamConfig = StreamConfig()
    model: ModelConfig = ModelConfig()
    scaling: ScalingConfig = ScalingConfig()
    learning: LearningConfig = LearningConfig()
    scoring: ScoringConfig = ScoringConfig()
    train: TrainConfig = TrainConfig()
    feed: FeedConfig = FeedConfig()
    publish: PublishConfig = PublishConfig()
    store: StoreConfig = StoreConfig()
    security: SecurityConfig = SecurityConfig()
    serve: ServeConfig = ServeConfig()

    def __post_init__(self) -> None:
        method, window = self.gradient(), self.stream.window
        self._check_labels()
        self._check_twins()
        if not self.learning.learn:
            if self.learning.bank != "none":
                raise ValueError(f"bank={self.learning.bank} learns: say learn too")
            return
        if method == "bptt" and self.model.mode == "carry" and self.learning.bptt > window:
            raise ValueError(
                f"bptt={self.learning.bptt} reaches back further than the warm-up "
                f"window={window}: lower bptt or raise window"
            )
        if method != "bptt" and self.stream.stride > window:
            raise ValueError(
                f"gradient={method} needs a whole stride before the first prediction: raise "
                f"window={window} to stride={self.stream.stride}, or choose gradient=bptt"
            )
        if method != "bptt" and (self.model.mode == "window" or self.stream.labels == "external"):
            raise ValueError(
                f"gradient={method} follows the carried state from label to label of the series: "
                "mode=window and labels=external need gradient=bptt"
            )

    def _check_labels(self) -> None:
        stream = self.stream
        if stream.labels == "external":
            return
        if stream.horizon == 0:
            raise ValueError(
                "horizon=0 asks for an element's own label, which labels=series shows before the "
                "prediction: raise horizon, or say labels=external"
            )
        if stream.threshold is not None:
            raise ValueError(
                f"threshold={stream.threshold:g} is for labels=external: labels of the series "
                "are signs"
            )

    def _check_twins(self) -> None:
        twins = self.scoring.twins
        if twins and self.learning.bank != "none":
            raise ValueError("twins=... are of one network: use them with bank=none")
        if "frozen" in twins and not self.learning.learn:
            raise ValueError(
                "twins=frozen is the model itself where nothing learns: say learn too"
            )
        if "stateless" in twins and self.model.mode == "window":
            raise ValueError("twins=stateless is the model itself in mode=window")

    def gradient(self) -> Gradient:
        """Return the gradient method that `auto` stands for."""
        if self.learning.gradient != "auto":
            return self.learning.gradient
        carried = self.model.mode == "carry" and self.stream.labels == "series"
        whole = self.stream.stride <= self.stream.window
        return "hybrid" if self.learning.optimizer == "dekf" and carried and whole else "bptt"


TABLES: Mapping[str, type[msgspec.Struct]] = {
    "stream": StreamConfig,
    "model": ModelConfig,
    "scaling": ScalingConfig,
    "learning": LearningConfig,
    "scoring": ScoringConfig,
    "train": TrainConfig,
    "feed": FeedConfig,
    "publish": PublishConfig,
    "store": StoreConfig,
    "security": SecurityConfig,
    "serve": ServeConfig,
}

KEYS: Mapping[str, str] = {
    field: table for table, struct in TABLES.items() for field in struct.__struct_fields__
}
"""The table of every key."""


def parse_tables(data: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten tables of keys into {key: value}.

    Raises ConfigurationError for a table or a key that is not known, naming the nearest one.
    """
    flat: dict[str, Any] = {}
    for table, body in data.items():
        if table not in TABLES:
            hint = f"; the key {table!r} belongs in [{KEYS[table]}]" if table in KEYS else ""
            raise ConfigurationError(
                f"unknown table [{table}]{hint or nearest(table, TABLES)}", key=table
            )
        if not isinstance(body, Mapping):
            raise ConfigurationError(f"[{table}] must be a table of keys", key=table)
        for key, value in body.items():
            if KEYS.get(key) != table:
                elsewhere = f"; it belongs in [{KEYS[key]}]" if key in KEYS else ""
                hint = elsewhere or nearest(key, TABLES[table].__struct_fields__)
                raise ConfigurationError(f"unknown key {key!r} in [{table}]{hint}", key=key)
            flat[key] = value
    return flat


def build(values: Mapping[str, Any]) -> Config:
    """Make a `Config` from flat {key: value}; text is converted where the key wants a number.

    Raises ConfigurationError naming the key, its value and what is allowed.
    """
    tables: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        if key not in KEYS:
            raise ConfigurationError(f"unknown key {key!r}{nearest(key, KEYS)}", key=key)
        field = {f.name: f for f in msgspec.structs.fields(TABLES[KEYS[key]])}[key]
        try:
            converted = msgspec.convert(value, field.type, strict=not isinstance(value, str))
        except msgspec.ValidationError as error:
            raise ConfigurationError(
                f"{key} = {value!r}: {error}{_hint(field.type)}", key=key
            ) from None
        if isinstance(converted, float) and not math.isfinite(converted):
            raise ConfigurationError(f"{key} = {value!r}: write a finite number", key=key)
        tables.setdefault(KEYS[key], {})[key] = converted
    try:
        parts: dict[str, Any] = {name: TABLES[name](**body) for name, body in tables.items()}
        return Config(**_within_window(parts, "bptt" in values))
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _within_window(parts: dict[str, Any], bptt_given: bool) -> dict[str, Any]:
    """Return the tables, in which the default of `bptt` is no more than `window`."""
    stream: StreamConfig = parts.get("stream", StreamConfig())
    model: ModelConfig = parts.get("model", ModelConfig())
    learning: LearningConfig = parts.get("learning", LearningConfig())
    if bptt_given or not learning.learn or model.mode != "carry" or learning.bptt <= stream.window:
        return parts
    return parts | {"learning": msgspec.structs.replace(learning, bptt=stream.window)}


def _hint(kind: Any) -> str:
    """Return what a value of a type looks like, where msgspec's words do not say it."""
    if get_origin(kind) is Literal:
        return f"; choose one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        return '; a list is written ["...", "..."]'
    return "; write true or false" if kind is bool else ""


def flatten(config: Config) -> dict[str, Any]:
    """Return {key: value} of everything, the inverse of `build`."""
    return {key: getattr(getattr(config, table), key) for key, table in KEYS.items()}
