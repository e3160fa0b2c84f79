"""The configuration: all tables together, validated when they are made, and banks of members.

Every key has a name of its own across all tables, so the flag `--bptt`, the environment variable
`STREAM_LSTM_BPTT` and the key `bptt` in the table `[learning]` are one setting.

A bank is a list of members: networks with their own settings, and plain forecasters. A network
takes the settings that it does not have from the tables `model` and `learning`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

import msgspec
from msgspec import Meta

from .errors import ConfigurationError
from .errors import nearest as nearest
from .schema import (
    FORM,
    FeedConfig,
    Gradient,
    Init,
    LearningConfig,
    ModelConfig,
    Positive,
    PublishConfig,
    ScalingConfig,
    ScoringConfig,
    SecurityConfig,
    ServeConfig,
    StoreConfig,
    StreamConfig,
    Targets,
    TrainConfig,
)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings, one attribute for each table of the TOML file."""

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
        self._check_feed()
        if not self.learning.learn:
            if self.learning.bank != "none":
                raise ValueError(f"bank={self.learning.bank} requires learn=true")
            return
        if method == "bptt" and self.model.mode == "carry" and self.learning.bptt > window:
            raise ValueError(
                f"bptt={self.learning.bptt} reaches back further than the warm-up "
                f"window={window}: lower bptt or raise window"
            )
        if method != "bptt" and self.stream.stride > window:
            raise ValueError(
                f"gradient={method} needs a whole stride before the first prediction: raise "
                f"window={window} to stride={self.stream.stride}, or set gradient=bptt"
            )
        if method != "bptt" and (self.model.mode == "window" or self.stream.labels == "external"):
            raise ValueError(
                f"gradient={method} follows the carried state from label to label of the series: "
                "mode=window and labels=external require gradient=bptt; see 'stream-lstm help "
                "learning'"
            )

    def _check_labels(self) -> None:
        stream = self.stream
        if stream.labels == "external":
            return
        if stream.horizon == 0:
            raise ValueError(
                "horizon=0 is the element's own label, which labels=series shows before the "
                "prediction: raise horizon, or set labels=external"
            )
        if stream.threshold is not None:
            raise ValueError(
                f"threshold={stream.threshold:g} requires labels=external: labels of the series "
                "are signs"
            )

    def _check_twins(self) -> None:
        twins = self.scoring.twins
        if twins and self.learning.bank != "none":
            raise ValueError("twins are of one network: they require bank=none")
        if "frozen" in twins and not self.learning.learn:
            raise ValueError("twins=frozen requires learn=true: else it is the model itself")
        if "stateless" in twins and self.model.mode == "window":
            raise ValueError(
                "twins=stateless requires mode=carry: in mode=window it is the model itself"
            )

    def _check_feed(self) -> None:
        given = [key for key in FORM if getattr(self.feed, key) != getattr(FeedConfig(), key)]
        if given and self.feed.payload in ("record", "auto"):
            raise ValueError(
                f"{given[0]} describes the messages of other publishers: set payload to json, "
                f"msgpack, text, array or struct (payload = {self.feed.payload!r})"
            )
        if self.feed.feed_socket == "pull" and self.feed.subscribe:
            raise ValueError("a pull socket takes every message: remove subscribe")

    def gradient(self) -> Gradient:
        """Return the gradient method, with `auto` resolved."""
        if self.learning.gradient != "auto":
            return self.learning.gradient
        carried = self.model.mode == "carry" and self.stream.labels == "series"
        whole = self.stream.stride <= self.stream.window
        return "hybrid" if self.learning.optimizer == "dekf" and carried and whole else "bptt"


TABLES: Mapping[str, type[msgspec.Struct]] = {
    field.name: field.type for field in msgspec.structs.fields(Config)
}
"""The struct of every table."""

KEYS: Mapping[str, str] = {
    field: table for table, struct in TABLES.items() for field in struct.__struct_fields__
}
"""The table of every key."""

NOT_TRAINED = (
    *("max_pending", "on_gap", "labels", "table"),
    *("mode", "sharing", "learn", "learning_rate"),
)
"""Keys of a live session that have no meaning in training."""


def parse_tables(data: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten tables of keys into {key: value}.

    Raises ConfigurationError for an unknown table or key, naming the nearest one.
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
    """Make a `Config` from flat {key: value}; text is converted to the type of its key.

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
    """Return the tables with a default of `bptt` that is at most `window`."""
    stream: StreamConfig = parts.get("stream", StreamConfig())
    model: ModelConfig = parts.get("model", ModelConfig())
    learning: LearningConfig = parts.get("learning", LearningConfig())
    if bptt_given or not learning.learn or model.mode != "carry" or learning.bptt <= stream.window:
        return parts
    return parts | {"learning": msgspec.structs.replace(learning, bptt=stream.window)}


def _hint(kind: Any) -> str:
    """Return what a value of a type looks like, if msgspec's message does not tell."""
    if get_origin(kind) is Literal:
        return f"; choose one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        return '; write a list as ["...", "..."]'
    return "; write true or false" if kind is bool else ""


def flatten(config: Config) -> dict[str, Any]:
    """Return {key: value} of all settings, the inverse of `build`."""
    return {key: getattr(getattr(config, table), key) for key, table in KEYS.items()}


BANKS = ("none", "default")
"""Values of `bank` that are not a file."""

MAX_MEMBERS = 32
"""More members only cost time: the mixture pays ln M nats for them."""

MAX_LAGS = 1024
"""The covariance of a logistic member grows with the square of its lags."""

MAX_WIDE = 512
"""Values of several features that a logistic member uses: more features reach less far back."""


class NetworkMember(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="network", tag_field="kind"
):
    """An LSTM; None takes the value of the tables `model` and `learning`."""

    name: str
    hidden: Annotated[int, Meta(ge=1, le=8192)] | None = None
    layers: Annotated[int, Meta(ge=1, le=4)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] | None = None
    init: Init | None = None
    init_horizon: Annotated[float, Meta(gt=2, le=1e9)] | None = None
    gain: Annotated[float, Meta(gt=0, le=1e3)] | None = None
    gradient: Gradient | None = None
    bptt: Annotated[int, Meta(ge=1)] | None = None
    targets: Targets | None = None
    positive_weight: Positive | None = None
    optimizer: str | None = None
    optimizer_args: tuple[str, ...] | None = None
    learning_rate: Positive | None = None
    clip_norm: Annotated[float, Meta(ge=0)] | None = None


class TableMember(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="table", tag_field="kind"
):
    """Counts of labels after each pattern of the last `signs` signs of the target.

    signs: 0 is the base rate. targets: count every element's label, or those of published
    predictions only. fade: labels after which a count has faded to 1/e; 0 never fades.
    """

    name: str
    signs: Annotated[int, Meta(ge=0, le=12)] = 0
    targets: Targets = "published"
    fade: Annotated[float, Meta(ge=0, le=1e9)] = 0.0


class LogisticMember(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="logistic", tag_field="kind"
):
    """A logistic regression on the target's last scaled values and signs, fitted by the filter.

    lags: number of values. signs: number of signs. all_features: use the last values of all
    features, as far back as `MAX_WIDE` values reach. targets: learn from every element's label, or
    from those of published predictions only. p0, q: variance of the weights at the start, and
    added at each update.
    """

    name: str
    lags: Annotated[int, Meta(ge=1, le=MAX_LAGS)] = 10
    signs: Annotated[int, Meta(ge=0, le=MAX_LAGS)] = 0
    all_features: bool = False
    targets: Targets = "every"
    p0: Positive = 0.1
    q: Annotated[float, Meta(ge=0, le=1e6)] = 0.0


class RegimeMember(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="regime", tag_field="kind"
):
    """Two hidden regimes: labels of predictions tend to 1 in one, and to 0 in the other.

    lasts: mean length of a regime in labels. relative: labels tend to the last sign of the target,
    or away from it, instead of to 1 or 0. The strength is learned.
    """

    name: str
    lasts: Annotated[float, Meta(ge=2, le=1e9)] = 300.0
    relative: bool = False


Member: TypeAlias = NetworkMember | TableMember | LogisticMember | RegimeMember
Members: TypeAlias = tuple[Member, ...]

DEFAULT_BANK: Members = (
    NetworkMember("network", hidden=32, gain=2.0, optimizer="dekf"),
    NetworkMember(
        "latch",
        hidden=32,
        init="chrono",
        init_horizon=1000.0,
        gain=1.0,
        targets="published",
        optimizer="dekf",
    ),
    LogisticMember("lags", lags=10, signs=10, q=1e-6),
    LogisticMember("drifting-slope", lags=1, p0=0.01, q=5e-5),
    LogisticMember("far-lags", lags=128, targets="published", p0=0.003),
    LogisticMember("wide-lags", lags=50, all_features=True, targets="published", p0=0.003, q=3e-7),
    TableMember("base-rate"),
    TableMember("last-sign", signs=1),
    TableMember("signs", signs=6, targets="every"),
    RegimeMember("regime"),
    RegimeMember("repeat-regime", relative=True),
)
"""The bank that needs no tuning; the manual's page on learning describes each member."""


class BankFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bank's TOML file: `[[member]]` tables."""

    member: tuple[dict[str, Any], ...]


KINDS: Mapping[str, type[Member]] = {
    "network": NetworkMember,
    "table": TableMember,
    "logistic": LogisticMember,
    "regime": RegimeMember,
}


def bank_members(config: Config, given: Members | None) -> Members | None:
    """Return the members of the configured bank, None without a bank.

    given: the members of the file that the configuration names. Raises ConfigurationError if it
    names one and they are missing.
    """
    bank = config.learning.bank
    if bank == "none":
        return None
    if bank == "default":
        return DEFAULT_BANK
    if given is None:
        raise ConfigurationError(
            f"bank = {bank!r} is neither default nor none: pass the members of that file",
            key="bank",
        )
    return given


def parse_bank(data: Mapping[str, Any]) -> Members:
    """Return the members of a parsed TOML file of `[[member]]` tables.

    Raises ConfigurationError naming the member and the key.
    """
    try:
        tables = msgspec.convert(data, BankFile).member
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"a bank is a list of [[member]] tables: {error}") from None
    members = tuple(_member(k, table) for k, table in enumerate(tables, 1))
    check_members(members)
    return members


def check_members(members: Sequence[Member]) -> None:
    """Raise ConfigurationError for no or too many members, or for equal or empty names."""
    if not 1 <= len(members) <= MAX_MEMBERS:
        raise ConfigurationError(f"a bank has 1 to {MAX_MEMBERS} members, not {len(members)}")
    names = [member.name for member in members]
    for name in names:
        if not name or names.count(name) > 1:
            raise ConfigurationError(f"each member needs a name of its own, not {name!r}")


def _member(k: int, table: dict[str, Any]) -> Member:
    where, kind = f"member {k}", table.get("kind")
    if "name" in table:
        where += f" ({table['name']!r})"
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigurationError(
            f"{where}: kind = {kind!r}; choose one of {', '.join(KINDS)}"
            + (nearest(kind, KINDS) if isinstance(kind, str) else "")
        )
    fields = KINDS[kind].__struct_fields__
    for key in table:
        if key != "kind" and key not in fields:
            raise ConfigurationError(f"{where}: a {kind} has no key {key!r}{nearest(key, fields)}")
    for key, value in table.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigurationError(f"{where}: {key} = {value!r}: write a finite number")
    try:
        return msgspec.convert(table, KINDS[kind])
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{where}: {error}") from None
