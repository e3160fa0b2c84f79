"""The tables of the configuration: one frozen struct for each, with its keys and their limits.

A struct is validated by itself when it is made from text; what holds between tables is checked
by `config.Config`.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

Mode: TypeAlias = Literal["carry", "window"]
Labels: TypeAlias = Literal["series", "external"]
Revisions: TypeAlias = Literal["first", "last"]
Twin: TypeAlias = Literal["frozen", "stateless"]
Sharing: TypeAlias = Literal["shared", "per-stream"]
Scaling: TypeAlias = Literal["sd", "zscore", "none"]
OnGap: TypeAlias = Literal["continue", "reset"]
OnOldTime: TypeAlias = Literal["take", "warn", "refuse"]
PayloadFormat: TypeAlias = Literal["record", "json", "float64"]
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
"""Finite as a float32, too."""

MAX_LAYERS = 4
"""Deeper stacks were never found to help on one series, and compile slowly."""

MAX_BLOCK = 1_000_000
"""Limit for warm-up, stride, horizon and tape lengths: what a tape of them takes stays small."""

Length: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_BLOCK)]


class StreamConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How ticks become elements, and when predictions are due.

    features: expressions over the tick's fields; the first is the target.
    window: warm-up W, in elements; in mode `window` also the length of the window.
    stride: a prediction is due every S elements.
    horizon: the label of a prediction after element n is the sign of element n + horizon; 0, the
    element's own label, is for labels from outside.
    labels: `series` takes them from the series itself, `external` waits for (n, y).
    threshold: labels from outside are numbers, and those above this count as 1; without it they
    are 0 or 1.
    max_pending: predictions of one stream that may wait for labels; the oldest expires.
    label_expiry: elements after which a prediction without a label from outside expires; 0 never.
    label_expiry_s: seconds, by the times of the ticks, after which it expires; 0 never.
    revisions: of several labels for a prediction the `first` counts, or the `last` to come.
    label_hold: with `last`, elements for which a label may be revised before it counts.
    on_gap: `continue` flags predictions after lost ticks, `reset` also starts a fresh carry.
    on_old_time: ticks whose time is before the latest one of their stream, or that repeat the time
    and the values of the last one, are counted: `take` takes them, `warn` also logs them, `refuse`
    refuses them.
    table: does nothing, and will go: every stream is kept in a table.
    """

    features: tuple[str, ...] = ()
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
    on_old_time: OnOldTime = "warn"
    table: bool = False


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The network and how its weights are held.

    mode: `carry` never resets the state, `window` starts it at zero every window.
    hidden: units H of each layer.
    layers: LSTM layers on top of each other.
    seed: of the random weights.
    init: `standard` starts cells that forget soon, `chrono` cells that remember for up to
    `init_horizon` elements.
    init_horizon: the longest memory, in elements, that `chrono` starts with.
    sharing: one set of weights for all streams, or one for each.
    weights: a file to start from instead of random weights.
    compile_cache: a folder to keep what was compiled in, for a faster start the next time; what
    lies there is run, so let nobody else write to it.
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
"""Inputs stay below this magnitude, about 1e37: a difference of two must be finite in float32.
A power of two is the same number in float32 and float64."""


class ScalingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The causal scaler.

    scaling: `sd` divides by the standard deviation so far and keeps the sign, `zscore` also
    takes the mean off, `none` passes through.
    memory: elements over which the estimates fade.
    clip: scaled values beyond this are cut to it.
    gain: what the network sees is the scaled value times this.
    """

    scaling: Scaling = "sd"
    memory: Annotated[float, Meta(ge=2)] = 1000.0
    clip: Annotated[float, Meta(gt=0, le=1e6)] = 10.0
    gain: Annotated[float, Meta(gt=0, le=1e3)] = 2.0


class LearningConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The online update.

    learn: one update for each label that arrives.
    learn_until: the element after which weights stay as they are; 0 learns for ever.
    gradient: how far a gradient reaches back: `bptt` K elements; `snap1`, `hybrid` and `rtrl` to
    the beginning, more and more exactly; `auto` is `hybrid` for `dekf` where that is defined, else
    `bptt`.
    bptt: elements K that the gradient `bptt` reaches back, no more than `window`; by default
        `window` where that is less.
    targets: learn from `every` element's own next value, or at the `published` predictions alone.
    positive_weight: how much a positive label counts beside a negative one.
    optimizer: an optimiser of optax by name, or `dekf`, the node-decoupled Kalman filter.
    optimizer_args: its arguments as NAME=NUMBER, such as p0=1 for dekf or b1=0.8 for adam.
    bank: `default`, `none` or a TOML file: learners and plain forecasters side by side, mixed.
    share: part of the weight that moves among a bank's members at each label.
    publish_experts: publish each member's weight and probability with the prediction.
    learning_rate: the step size of an optimiser of optax; `dekf` has none.
    clip_norm: global norm that gradients are clipped to for optax; 0 leaves them.
    max_update: root mean square that the changes of one update may have; it is refused above that.
    0 sets no limit.
    max_weights: root mean square that an update may give the weights; 0 sets no limit.
    rollback_window: labels over which log loss is compared with the base rate's; 0 never rolls
    weights back.
    rollback_excess: nats a label above the base rate over that window at which they are.
    rollback_refusals: updates refused in a row at which they are.
    freeze_labels: labels for which learning rests then; twice as many each time, up to 16 times.
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
    """What is scored beside each prediction's own label, and what is made of the scores.

    score_window: labels at the end over which scores are given once more; 0 gives none.
    twins: forecasts to be scored on the same labels: `frozen`, of the weights that learning
    started from; `stateless`, of windows from a zero state.
    calibrate: recalibrate the published probability by its own past.
    """

    score_window: Annotated[int, Meta(ge=0, le=MAX_BLOCK)] = 1000
    twins: tuple[Twin, ...] = ()
    calibrate: bool = False


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Training from files, in epochs; `bptt` and `clip_norm` are those of learning.

    train_optimizer: an optimiser of optax by name.
    lanes: pieces of the series that are stepped side by side, at most.
    epochs: passes over the series, at most.
    patience: epochs without a better validation after which training stops; 0 never stops it.
    validation: share of each series, its end, that is held out.
    train_rate: the optimiser's step size in training.
    schedule: `cosine` lowers the step size to 0 over all epochs, `constant` leaves it.
    weight_dropout: share of the recurrent weights that each update does without, drawn anew.
    average: epochs over which the weights that are kept are averaged; 0 keeps them as they are.
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


class FeedConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the daemon's ticks come from.

    connect: ZeroMQ endpoints of publishers.
    streams: names to subscribe to; empty means all.
    columns: names of the values, in the order in which the feed sends them.
    payload: `record` is this project's protocol; `json` a bare JSON object of fields and
    `float64` bare little-endian numbers, for feeds of others.
    topic: topic prefix of a foreign feed; what follows it names the stream.
    time_field: field of a bare JSON object that holds the time.
    idle_timeout: seconds without a message after which the daemon gives up; 0 waits for ever.
    receive_hwm: messages, however large, that may wait in the receiving socket for each publisher.
    recovery: endpoints at which publishers answer who asks for lost ticks.
    heartbeat_s: seconds between the feed's heartbeats; three missed by a feed that had sent one
    make the daemon stale.
    stale_after: seconds without a message after which the daemon is stale, whatever the feed; 0
    goes by the heartbeats.
    busy_poll: seconds that the daemon watches for the next message without sleeping; it keeps a
    core busy and its caches warm, which more than halves the latency of a sparse feed.
    max_streams: streams that are taken in; what comes of any further one is refused, and counted.
    takeover: with several endpoints, a stream belongs to the endpoint that sent it first. Another
    endpoint may take it over `when-gone`, once the owner has lost its connection; `never`; or
    `always`. What it may not send is refused, and counted; labels have no owner.
    """

    connect: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    payload: PayloadFormat = "record"
    topic: str | None = None
    time_field: str | None = None
    idle_timeout: Annotated[float, Meta(ge=0)] = 0.0
    receive_hwm: Annotated[int, Meta(ge=1, le=10_000_000)] = 20_000
    recovery: tuple[str, ...] = ()
    heartbeat_s: Annotated[float, Meta(gt=0, le=86_400)] = 1.0
    stale_after: Annotated[float, Meta(ge=0)] = 0.0
    busy_poll: Annotated[float, Meta(ge=0, le=1)] = 0.0
    max_streams: Annotated[int, Meta(ge=1, le=100_000)] = 100_000
    takeover: TakeoverPolicy = "when-gone"


class PublishConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the daemon's predictions go.

    publish: ZeroMQ endpoint to bind; none publishes nothing.
    encoding: of the published records.
    """

    publish: str | None = None
    encoding: Encoding = "msgpack"


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept on disk, for a restart to go on from.

    store: a SQLite file, made if it is not there; none keeps nothing.
    snapshot_every: elements between two snapshots of the whole state.
    commit_elements: what has come is committed once it is so many elements,
    commit_ms: or after this many milliseconds.
    sync: `normal` survives any kill of the process, `full` also waits for the disk at each commit.
    max_gb: size of the file, in 10^9 bytes, at which a daemon lets go of its oldest ticks and what
    came of them, up to the oldest snapshot that it keeps; 0 never does.
    if_gone: what a daemon does when its file is removed, moved, replaced or cut: `new` continues,
    and begins a new file with the whole state as soon as nothing else is in its place, `stop` ends
    with 74; a replay always stops.
    """

    store: str | None = None
    snapshot_every: Length = 10_000
    commit_elements: Length = 10
    commit_ms: Annotated[float, Meta(ge=1, le=60_000)] = 100.0
    sync: Literal["normal", "full"] = "normal"
    max_gb: Annotated[float, Meta(ge=0, le=1e6)] = 20.0
    if_gone: Literal["new", "stop"] = "new"


class SecurityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may connect, and how much a peer may ask for.

    curve_dir: a folder of keys, made by `stream-lstm keys`; with it every socket is encrypted, and
    only the peers whose public keys lie in its folder `clients` are let in.
    insecure: bind addresses that other machines can reach without keys.
    max_subscriptions: prefixes that one subscriber may ask for; who asks for more is cut off.
    """

    curve_dir: str | None = None
    insecure: bool = False
    max_subscriptions: Annotated[int, Meta(ge=10, le=1_000_000)] = 3_000


class ServeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a daemon tells machines and people how it is.

    metrics: address, such as 127.0.0.1:9464, that serves /metrics, /livez and /readyz; none serves
    nothing.
    live_after: seconds without a turn of its loop after which /livez says that the daemon hangs.
    log_format: of standard error: `text` for people, `json` one object a line.
    """

    metrics: str | None = None
    live_after: Annotated[float, Meta(ge=1, le=86_400)] = 30.0
    log_format: LogFormat = "text"
