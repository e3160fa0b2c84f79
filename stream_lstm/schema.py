"""The tables of the configuration: one frozen struct each, with its keys and their limits.

A struct checks its own values; `config.Config` checks what must hold between tables. The class
docstrings are the help texts of the flags and the configuration reference of the manual.
"""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from .errors import ConfigurationError

Mode: TypeAlias = Literal["carry", "window"]
Labels: TypeAlias = Literal["series", "external"]
Revisions: TypeAlias = Literal["first", "last"]
Twin: TypeAlias = Literal["frozen", "stateless"]
Sharing: TypeAlias = Literal["shared", "per-stream"]
Scaling: TypeAlias = Literal["sd", "zscore", "none"]
OnGap: TypeAlias = Literal["continue", "reset"]
OnPause: TypeAlias = Literal["continue", "reset", "forget"]
OnOldTime: TypeAlias = Literal["take", "warn", "refuse"]
PayloadFormat: TypeAlias = Literal[
    "record", "auto", "json", "msgpack", "text", "array", "struct", "float64"
]
Frame: TypeAlias = Literal[
    "topic", "header", "payload", "topic+payload", "time", "seq", "skip", "rest"
]
Compression: TypeAlias = Literal["none", "zlib", "gzip", "zstd"]
TimeUnit: TypeAlias = Literal["auto", "ns", "us", "ms", "s", "iso"]
FeedSocket: TypeAlias = Literal["sub", "pull"]
Encoding: TypeAlias = Literal["msgpack", "json"]
LogFormat: TypeAlias = Literal["text", "json"]
Gradient: TypeAlias = Literal["auto", "bptt", "snap1", "hybrid", "rtrl"]
Targets: TypeAlias = Literal["every", "published"]
Init: TypeAlias = Literal["standard", "chrono"]
Schedule: TypeAlias = Literal["cosine", "constant"]
TakeoverPolicy: TypeAlias = Literal["when-gone", "never", "always"]
OnBad: TypeAlias = Literal["fail", "skip"]

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Positive: TypeAlias = Annotated[float, Meta(gt=0, le=3e38)]
"""The limit is finite as a float32."""

MAX_LAYERS = 4
"""Deeper stacks did not help on any series that was tried, and compile slowly."""

MAX_BLOCK = 1_000_000
"""Limit for warm-up, stride, horizon and tape lengths, which bounds the memory of a tape."""

Length: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_BLOCK)]

UNITS_NS = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86_400 * 10**9,
}
"""Units of durations, in nanoseconds."""

MAX_DURATION_NS = 2**62
"""146 years: the sum of two still fits in 64 bits."""


def parse_duration(text: str) -> int:
    """Return a duration such as `90s` or `1.5h` in nanoseconds; raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip(), re.ASCII)
    units = ", ".join(UNITS_NS)
    if not found or found[2] not in UNITS_NS:
        raise ValueError(f"{text!r} is not a duration: write a number and {units}, such as 90s")
    whole, _, part = found[1].partition(".")
    unit = UNITS_NS[found[2]]
    ns: int = int(whole[:20]) * unit + int(part[:20] or "0") * unit // 10 ** len(part[:20])
    if not 0 < ns <= MAX_DURATION_NS:
        raise ValueError(f"{text!r} is not a duration from 1ns to 50000d")
    return ns


class StreamConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How ticks become elements, and when predictions are due.

    features: expressions over the fields of a tick; the first is the target. `stream-lstm help
    features` lists all functions.
    plugins: functions of your own for features, each as package.module:name; they need
    `--allow-plugins`, since they run code.
    window: warm-up W in elements; in mode `window` also the length of the window.
    stride: predict every S elements.
    horizon: the label of the prediction after element n is the sign of element n + horizon; 0, the
    label of the element itself, requires external labels.
    labels: `series` takes labels from the series, `external` waits for labels (n, y).
    threshold: external labels are numbers, and those above this count as 1; without it they are 0
    or 1.
    max_pending: predictions of one stream that may wait for labels; beyond it the oldest expires.
    label_expiry: elements after which a prediction without an external label expires; 0 never.
    label_expiry_s: seconds after which it expires, by the times of the ticks; 0 never.
    revisions: which of several labels for a prediction counts, the `first` or the `last`.
    label_hold: elements for which a label can be revised before it counts, with revisions `last`.
    on_gap: `continue` flags predictions after lost ticks, `reset` also resets the carried state.
    pause: time such as `1h` or `90s`; a tick that comes later than that after the latest time of
    its stream comes after a pause. Without it there are no pauses.
    on_pause: `continue` flags predictions after a pause, `forget` also empties the memory of the
    features, `reset` also resets the carried state.
    holidays: dates such as `2024-12-25`; sessions that open on them stay closed.
    on_old_time: what to do with old ticks, whose time is before the latest of their stream or
    which repeat time and values of the last tick: `take` and count them, `warn` also logs them,
    `refuse` refuses them.
    on_missing: what features see instead of a missing value, as COLUMN=POLICY, or *=POLICY for
    all other columns; `refuse` refuses the tick, `zero` is 0, `last` is the last value that was
    there, and `last:5s` the same unless it is older.
    table: does nothing and will be removed; every stream is in a table.
    """

    features: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    window: Length = 100
    stride: Length = 10
    horizon: Annotated[int, Meta(ge=0, le=MAX_BLOCK)] = 1
    labels: Labels = "series"
    threshold: Annotated[float, Meta(ge=-1e300, le=1e300)] | None = None
    max_pending: Length = 1000
    label_expiry: Annotated[int, Meta(ge=0)] = 0
    label_expiry_s: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    revisions: Revisions = "first"
    label_hold: Length = 100
    on_gap: OnGap = "continue"
    pause: str = ""
    on_pause: OnPause = "continue"
    holidays: tuple[str, ...] = ()
    on_old_time: OnOldTime = "warn"
    on_missing: tuple[str, ...] = ()
    table: bool = False

    def __post_init__(self) -> None:
        try:
            _ = self.pause_ns
        except ValueError as error:
            raise ConfigurationError(f"pause = {error}", key="pause") from None
        for text in self.holidays:
            _check_date(text)

    @property
    def pause_ns(self) -> int:
        """The time after which a pause begins, in nanoseconds; 0 without pauses."""
        return parse_duration(self.pause) if self.pause else 0


def _check_date(text: str) -> None:
    try:
        # `fromisoformat` reads other forms too
        valid = re.fullmatch(r"\d{4}-\d\d-\d\d", text) and datetime.date.fromisoformat(text)
    except ValueError:
        valid = None
    if not valid:
        message = f"holidays: {text!r} is not a date; write it as 2024-12-25"
        raise ConfigurationError(message, key="holidays")


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The network and its weights.

    mode: `carry` never resets the state, `window` starts every window from a zero state.
    hidden: units H of each layer.
    layers: number of stacked LSTM layers.
    seed: seed of the random weights.
    init: `standard` starts with cells that forget quickly, `chrono` with cells that remember up to
    `init_horizon` elements.
    init_horizon: longest memory that `chrono` starts with, in elements.
    sharing: `shared` is one set of weights for all streams, `per-stream` one for each.
    weights: file of weights to start from instead of random weights.
    compile_cache: folder for compiled code, for a faster next start, or `none`; without it, the
    user's folder for caches. Its contents are executed, so protect it from other users.
    """

    mode: Mode = "carry"
    hidden: Annotated[int, Meta(ge=1, le=8192)] = 32
    layers: Annotated[int, Meta(ge=1, le=MAX_LAYERS)] = 1
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    init: Init = "standard"
    init_horizon: Annotated[float, Meta(gt=2, le=1e9)] = 300.0
    sharing: Sharing = "shared"
    weights: str | None = None
    compile_cache: str | None = None


LIMIT = 2.0**123
"""Limit of the magnitude of inputs, about 1e37: a difference of two must be finite in float32.
A power of two is the same number in float32 and float64."""


class ScalingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The causal scaler.

    scaling: `sd` divides by the standard deviation so far, which preserves the sign, `zscore` also
    subtracts the mean, `none` does not scale.
    memory: elements over which the estimates fade.
    clip: limit of the magnitude of scaled values.
    gain: factor between the scaled value and the input of the network.
    """

    scaling: Scaling = "sd"
    memory: Annotated[float, Meta(ge=2)] = 1000.0
    clip: Annotated[float, Meta(gt=0, le=1e6)] = 10.0
    gain: Annotated[float, Meta(gt=0, le=1e3)] = 2.0


class LearningConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The online update.

    learn: make one update for each label.
    learn_until: element after which the weights stay as they are; 0 learns without end.
    gradient: how far a gradient reaches back: `bptt` K elements; `snap1`, `hybrid` and `rtrl` to
    the beginning, with increasing exactness; `auto` is `hybrid` for `dekf` where possible, else
    `bptt`.
    bptt: elements K that the gradient `bptt` reaches back, at most `window`, which is the default
    if it is shorter.
    targets: learn from `every` element's own next value, or from `published` predictions only.
    positive_weight: weight of a positive label relative to a negative one.
    optimizer: name of an optax optimiser, or `dekf`, the node-decoupled Kalman filter.
    optimizer_args: arguments of the optimiser as NAME=NUMBER, such as p0=1 for dekf or b1=0.8 for
    adam.
    bank: `none`, `default` or a TOML file: a mixture of learners and plain forecasters.
    share: part of the weight that moves between the members of a bank at each label.
    publish_experts: publish the weight and probability of each member with the prediction.
    learning_rate: step size of an optax optimiser; `dekf` has none.
    clip_norm: limit of the global norm of gradients for optax; 0 disables it.
    max_update: limit of the root mean square of one update's changes; larger updates are refused.
    0 disables it.
    max_weights: limit of the root mean square of the weights after an update; 0 disables it.
    rollback_window: labels over which the log loss is compared with the base rate's; 0 disables
    rollbacks.
    rollback_excess: nats per label above the base rate, over that window, that cause a rollback.
    rollback_refusals: updates refused in a row that cause a rollback.
    freeze_labels: labels without learning after a rollback; doubles each time, up to 16 times.
    """

    learn: bool = False
    learn_until: Annotated[int, Meta(ge=0)] = 0
    gradient: Gradient = "auto"
    bptt: Length = 50
    targets: Targets = "every"
    positive_weight: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    optimizer: str = "adam"
    optimizer_args: tuple[str, ...] = ()
    learning_rate: Positive = 1e-3
    clip_norm: Annotated[float, Meta(ge=0)] = 1.0
    max_update: Annotated[float, Meta(ge=0)] = 1.0
    max_weights: Annotated[float, Meta(ge=0)] = 10.0
    rollback_window: Annotated[int, Meta(ge=0, le=MAX_BLOCK)] = 256
    rollback_excess: Positive = 0.2
    rollback_refusals: Count = 32
    freeze_labels: Length = 128
    bank: str = "none"
    share: Annotated[float, Meta(ge=0, lt=1)] = 1e-5
    publish_experts: bool = False


class ScoringConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Further scores, and recalibration.

    score_window: number of last labels with scores of their own; 0 for none.
    twins: further forecasts to score on the same labels: `frozen` uses the weights that learning
    started from, `stateless` starts each window from a zero state.
    calibrate: recalibrate the published probability from its own past.
    """

    score_window: Annotated[int, Meta(ge=0, le=MAX_BLOCK)] = 1000
    twins: tuple[Twin, ...] = ()
    calibrate: bool = False


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Training from files, in epochs; `bptt` and `clip_norm` are those of learning.

    train_optimizer: name of an optax optimiser.
    lanes: largest number of pieces of the series that are trained in parallel.
    epochs: largest number of passes over the series.
    patience: epochs without a better validation after which training stops; 0 never stops it.
    validation: held-out share at the end of each series.
    train_rate: step size of the optimiser in training.
    schedule: `cosine` lowers the step size to 0 over all epochs, `constant` does not.
    weight_dropout: share of the recurrent weights that each update leaves out at random.
    average: epochs over which the weights are averaged; 0 does not average.
    """

    lanes: Annotated[int, Meta(ge=1, le=100_000)] = 32
    epochs: Annotated[int, Meta(ge=1, le=1_000_000)] = 30
    patience: Annotated[int, Meta(ge=0)] = 8
    validation: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    train_optimizer: str = "adam"
    train_rate: Positive = 2e-2
    schedule: Schedule = "cosine"
    weight_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    average: Annotated[float, Meta(ge=0, le=1000)] = 2.5


class Declaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The form of a feed's messages.

    payload: how the values are encoded: `record` is this project's protocol, `float64` an array
    of f8, and `auto` judges the first messages.
    columns: values of a tick, in order: paths such as `data.bids.0.0`, with `*` for every element
    of an array, or names of `fields` or of `dtype`.
    fields: names of the positions in a line of text, or in an array of JSON or MessagePack; one
    that begins with `_` is skipped.
    dtype: of `array`, a type such as `f4`, `>i2` or `header`; of `struct`, `t:i8,bid:f8,ask:f8`.
    channels: values of a row of an array whose `columns` are not named.
    frames: the meaning of each frame: topic, header, payload, topic+payload, time, seq, skip or
    rest.
    separator: text between topic and payload in one frame, or between the fields of a line.
    compression: of the payload.
    topic: what topics begin with, or a pattern such as `md/{}/trade` where `{}` is the stream.
    stream_name: the stream of messages that name none.
    stream_field: field with the stream, or `header.NAME`; EUR/USD becomes EUR-USD.
    time_field: field with the time, or `header.NAME`.
    time_unit: unit of numbers in `time_field`; `auto` goes by their size.
    seq_field: field with the sequence number of the stream, or `header.NAME`; shows lost ticks.
    where: a condition such as `type = "trade"`; other messages are counted and skipped.
    last_per: a field; of consecutive rows with the same value only the last counts.
    streams: streams to subscribe to; empty for all.
    """

    payload: PayloadFormat = "record"
    columns: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    dtype: str = ""
    channels: Annotated[int, Meta(ge=0, le=4096)] = 0
    frames: tuple[Frame, ...] = ()
    separator: tuple[str, ...] = ()
    compression: Compression = "none"
    topic: str | None = None
    stream_name: str = ""
    stream_field: str = ""
    time_field: str | None = None
    time_unit: TimeUnit = "auto"
    seq_field: str = ""
    where: str = ""
    last_per: str = ""
    streams: tuple[str, ...] = ()


FORM = tuple(
    key
    for key in Declaration.__struct_fields__
    if key not in ("payload", "columns", "topic", "time_field", "streams")
)
"""Keys that only feeds without records of this protocol have."""


class FeedConfig(Declaration, frozen=True, forbid_unknown_fields=True, omit_defaults=False):
    r"""Where the daemon gets its ticks, and the form of its messages.

    connect: ZeroMQ endpoints of publishers.
    bind_feed: ZeroMQ endpoints to bind, for publishers that connect.
    feed_socket: `sub` for publishers (PUB, XPUB), `pull` for pushers (PUSH).
    subscribe: first bytes of the messages to subscribe to, instead of `topic` or `streams`; write
    other bytes as in Python, such as `\x00`.
    idle_timeout: seconds without a message after which the daemon stops; 0 never.
    receive_hwm: messages of any size that may wait in the receiving socket for each publisher.
    recovery: endpoints of publishers that serve lost ticks.
    heartbeat_s: seconds between two heartbeats of the feed; three missed ones make a feed that
    sends heartbeats stale.
    stale_after: seconds without a message after which any feed is stale; 0 relies on heartbeats.
    busy_poll: seconds for which the daemon polls for the next message without sleeping; this uses
    a whole core and more than halves the latency of a sparse feed.
    max_streams: number of streams that are accepted; input of further ones is refused and counted.
    takeover: a stream belongs to the endpoint that sent it first. Another endpoint may take it
    over `when-gone`, once the owner has lost its connection; `never`; or `always`. Other input for
    it is refused and counted. Labels have no owner.
    """

    connect: tuple[str, ...] = ()
    bind_feed: tuple[str, ...] = ()
    feed_socket: FeedSocket = "sub"
    subscribe: tuple[str, ...] = ()
    idle_timeout: Annotated[float, Meta(ge=0)] = 0.0
    receive_hwm: Annotated[int, Meta(ge=1, le=10_000_000)] = 20_000
    recovery: tuple[str, ...] = ()
    heartbeat_s: Annotated[float, Meta(gt=0, le=86_400)] = 1.0
    stale_after: Annotated[float, Meta(ge=0)] = 0.0
    busy_poll: Annotated[float, Meta(ge=0, le=1)] = 0.0
    max_streams: Annotated[int, Meta(ge=1, le=100_000)] = 100_000
    takeover: TakeoverPolicy = "when-gone"


class PublishConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the daemon sends its predictions.

    publish: ZeroMQ endpoint to bind; without it nothing is published.
    encoding: encoding of the published records.
    """

    publish: str | None = None
    encoding: Encoding = "msgpack"


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The store on disk, from which a restart continues.

    store: SQLite file, created if it does not exist; without it nothing is stored.
    snapshot_every: elements between two snapshots of the whole state.
    commit_elements: elements after which a transaction is committed.
    commit_ms: milliseconds after which a transaction is committed.
    sync: `normal` survives any kill of the process, `full` also waits for the disk at each commit.
    max_gb: size of the file in 10^9 bytes at which a daemon deletes its oldest ticks and their
    results, up to the oldest snapshot that it needs; 0 never does.
    if_gone: what a daemon does if its file is removed, moved, replaced or truncated: `new`
    continues, and starts a new file with the whole state as soon as its place is free, `stop`
    exits with 74; a replay always stops.
    """

    store: str | None = None
    snapshot_every: Length = 10_000
    commit_elements: Length = 10
    commit_ms: Annotated[float, Meta(ge=1, le=60_000)] = 100.0
    sync: Literal["normal", "full"] = "normal"
    max_gb: Annotated[float, Meta(ge=0, le=1e6)] = 20.0
    if_gone: Literal["new", "stop"] = "new"


class SecurityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may connect, and how much a peer may request.

    curve_dir: folder of keys, made by `stream-lstm keys`; it encrypts every socket, and accepts
    only peers whose public key is in its folder `clients`.
    insecure: bind addresses that other machines can reach without keys.
    max_subscriptions: prefixes that one subscriber may request; with more it is disconnected.
    """

    curve_dir: str | None = None
    insecure: bool = False
    max_subscriptions: Annotated[int, Meta(ge=10, le=1_000_000)] = 3_000


class ServeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a daemon reports its condition.

    metrics: address, such as 127.0.0.1:9464, that serves /metrics, /livez and /readyz; without it
    nothing is served.
    live_after: seconds without a turn of the main loop after which /livez reports that the daemon
    hangs.
    ready: streams that /readyz needs: `all` that have not ended, or `any` one of them.
    log_format: format of standard error: `text` for people, `json` for one object a line.
    """

    metrics: str | None = None
    live_after: Annotated[float, Meta(ge=1, le=86_400)] = 30.0
    ready: Literal["all", "any"] = "all"
    log_format: LogFormat = "text"
