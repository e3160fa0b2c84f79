"""The inputs and outputs of the core, as frozen records.

Inputs are `Ticks` or a short `Run` of them, `Label`, `Gap`, `SessionStart` and `End`: the feed
makes them from bytes or files, and later code trusts them. Outputs are `Prediction`, `Score`,
`Update`, `Rollback`, `Expiry` and `Refusal`. `Stale`, `Fresh` and `Takeover` concern only the
feed, and no session sees them. Time is data: `t_ns` (nanoseconds since 1970, int64) comes with the
tick, and nothing below the shell reads a clock.

Each output is declared only here. The wire, the store, the result files and the tables of
`replay_frame` derive their fields from the declaration, see `records`. A new field is the last one
and has a default.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

NO_TIME = 0
"""`t_ns` of a tick without a time."""

MAX_SESSION_CHARS = 64
"""A UUID has 36; there is one for every stream."""

MAX_SEQ = 2**62
"""Leaves room for the length of a block within int64."""

MAX_COUNT = 2**62
"""The limit of a counter: foreign sequence numbers could take it beyond int64."""

Session: TypeAlias = Annotated[str, Meta(max_length=MAX_SESSION_CHARS)]
Seq: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_SEQ)]
Time: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Bit: TypeAlias = Annotated[int, Meta(ge=0, le=1, extra={"arrow": "int8"})]
Probability: TypeAlias = Annotated[float, Meta(extra={"sql": "REAL NOT NULL", "arrow": "float32"})]
"""A finite float32 value."""


class Ticks(msgspec.Struct, frozen=True):
    """A block of one or more raw ticks of one stream, in order.

    `t_ns` is int64 (n,); `values` is float64 (n, C) in the order of the session's columns;
    `session` is the publisher's run id ("" for files); `seq` is the sequence number of the first
    tick, None without one; `where` is the origin for messages.
    """

    stream: str
    t_ns: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    session: str = ""
    seq: int | None = None
    where: str = ""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.t_ns.shape != self.values.shape[:1]:
            raise ValueError(
                f"ticks of {self.stream!r}: values must be (n, C) and t_ns (n,), "
                f"not {self.values.shape} and {self.t_ns.shape}"
            )


class Run:
    """A few consecutive ticks of one stream, as Python numbers.

    `times` are their `t_ns`, and `rows` their values in the order of the columns, None for a
    missing one; the rest is as in `Ticks`. Making an array of a few numbers takes longer than
    stepping them, so single messages become runs; a feed adds to a run until it hands it on.
    """

    __slots__ = ("rows", "seq", "session", "stream", "times", "where")

    def __init__(self, stream: str, session: str, seq: int | None, where: str) -> None:
        self.stream, self.session, self.seq, self.where = stream, session, seq, where
        self.times: list[int] = []
        self.rows: list[Sequence[float | None]] = []

    def block(self) -> Ticks:
        """Return the ticks as arrays."""
        t_ns = np.array(self.times, np.int64)
        flat = np.array(list(chain.from_iterable(self.rows)), np.float64)
        values = flat.reshape(len(t_ns), -1)
        return Ticks(self.stream, t_ns, values, self.session, self.seq, self.where)


class Label(msgspec.Struct, frozen=True):
    """The external label of prediction `n` of a stream.

    `y` is 0 or 1, or any number if the configuration has a threshold.
    """

    stream: str
    n: int
    y: float
    t_ns: int = NO_TIME


class Gap(msgspec.Struct, frozen=True):
    """`missed` ticks of a stream were lost before sequence number `seq`."""

    stream: str
    seq: int
    missed: int


class SessionStart(msgspec.Struct, frozen=True):
    """A stream has a new publisher, whose sequence numbers begin at 1."""

    stream: str
    session: str


class End(msgspec.Struct, frozen=True):
    """A stream's publisher has announced its end."""

    stream: str
    session: str = ""


class Expert(msgspec.Struct, frozen=True, array_like=True):
    """A member of a bank at a prediction: its name, weight and probability."""

    name: str
    weight: float
    p: float


class Prediction(msgspec.Struct, frozen=True):
    """P(target of element n + horizon > 0), made after element `n`.

    Its identity is (session, stream, n); `session` is the publisher's run id. `p` is exactly a
    float32 value. `gaps_visible` is False for a feed without sequence numbers; `after_gap` is True
    until a whole warm-up of elements has passed since the last gap or pause. `experts` are the
    members of the bank, if they are published.
    """

    stream: str
    n: Seq
    t_ns: Time
    p: Probability
    session: Session = ""
    gaps_visible: bool = True
    after_gap: bool = False
    experts: tuple[Expert, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.p <= 1.0:
            raise ValueError(
                f"prediction {self.n} of {self.stream!r}: p={self.p} is not in [0, 1]"
            )


class Score(msgspec.Struct, frozen=True):
    """The score of prediction `n`, whose label has come; losses are log losses in nats.

    `t_ns` is the time of the element that brought the label. `base_rate_p` and `last_label_p` are
    the plain forecasts of the same label, made when `p` was. The three kinds of evidence are log W
    in nats after this label, that the model is better, see `core.evidence`. `raw_p`, `frozen_p`
    and `stateless_p` are further forecasts of the same label, if there are any.
    """

    stream: str
    n: Seq
    t_ns: Time
    p: Probability
    label: Bit
    log_loss: float
    base_rate_p: float
    last_label_p: float
    session: Session = ""
    coin_evidence: float = 0.0
    base_rate_evidence: float = 0.0
    last_label_evidence: float = 0.0
    raw_p: float | None = None
    frozen_p: float | None = None
    stateless_p: float | None = None


UpdateReason: TypeAlias = Literal["", "not-finite", "update-too-large", "weights-too-large"]


class Update(msgspec.Struct, frozen=True):
    """An optimiser update that was made, or refused for a `reason`, which is "" otherwise.

    `n` is the labelled prediction that caused it, `loss` the mean log loss over the tape in nats
    before the update, and `grad_norm` the global norm before clipping.
    """

    stream: str
    n: int
    loss: float
    grad_norm: float
    accepted: bool
    reason: UpdateReason = ""


RollbackReason: TypeAlias = Literal["refusals", "base-rate", "last-good"]
RollbackTarget: TypeAlias = Literal["last-good", "base-rate"]


class Rollback(msgspec.Struct, frozen=True):
    """Learning hurt, so the weights went back, and learning rests for `frozen` labels.

    `n` is the prediction whose label showed it. `reason` is a run of refused updates, a log loss
    above the base rate's, or one above that of the last good weights. `to` are the last good
    weights, or weights that give the base rate. `log_loss` and `base_rate_log_loss` are means over
    the compared labels; `good_log_loss` is that of the last good weights when they were confirmed,
    None if they never were; all in nats.
    """

    stream: str
    n: int
    reason: RollbackReason
    to: RollbackTarget
    frozen: int
    log_loss: float
    base_rate_log_loss: float
    good_log_loss: float | None = None


class Expiry(msgspec.Struct, frozen=True):
    """Prediction `n` expired without a label."""

    stream: str
    n: int


RefusalKind: TypeAlias = Literal["tick", "label", "message"]


QUOTATION = "; it is "
"""Ends the reason of a refusal of bytes, and begins their quotation."""


class Refusal(msgspec.Struct, frozen=True):
    """An input was rejected; state and weights are as before.

    `index` is its position in its block of ticks, -1 for other inputs.
    """

    stream: str
    kind: RefusalKind
    reason: str
    index: int = -1
    where: str = ""


class Stale(msgspec.Struct, frozen=True):
    """The feed has been silent for `silent_s` seconds, which is too long."""

    silent_s: float


class Fresh(msgspec.Struct, frozen=True):
    """The feed is back after `silent_s` seconds of silence."""

    silent_s: float


class OldTimes(msgspec.Struct, frozen=True):
    """`count` old ticks of a stream came, see `core.old_ticks`.

    `t_ns` is the time of the first, and `latest_ns` the latest time of the stream before it, both
    in ns since 1970. `where` is the origin for messages.
    """

    stream: str
    count: int
    t_ns: int
    latest_ns: int
    where: str = ""


class Takeover(msgspec.Struct, frozen=True):
    """A stream of endpoint `owner` now belongs to endpoint `to`."""

    stream: str
    owner: str
    to: str


Input: TypeAlias = Ticks | Run | Label | Gap | SessionStart | End
Notice: TypeAlias = Stale | Fresh | Takeover | OldTimes
Output: TypeAlias = Prediction | Score | Update | Rollback | Expiry | Refusal
