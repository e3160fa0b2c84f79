"""What goes into the core and what comes out of it, as frozen records.

Inputs are `Ticks` or a short `Run` of them, `Label`, `Gap`, `SessionStart` and `End`: the feed
makes them from bytes or files, and code behind it trusts them. Outputs are `Prediction`, `Score`,
`Update`, `Rollback`, `Expiry` and `Refusal`. `Stale`, `Fresh` and `Takeover` are of the feed
alone, and no session sees them. Time is data: `t_ns` (nanoseconds since 1970, int64) comes in with
the tick, and nothing below the shell reads a clock.

Each output is declared here alone. The wire, the store, the files of results and the tables of
`replay_frame` derive their fields from the declaration, see `records`. A new field stands last and
has a default.
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
"""`t_ns` of a tick whose source has no time."""

MAX_SESSION_CHARS = 64
"""A UUID has 36; one is kept for every stream."""

MAX_SEQ = 2**62
"""Leaves room to add a block's length within int64."""

MAX_COUNT = 2**62
"""Where a counter stops: sequence numbers from outside could otherwise take it beyond int64."""

Session: TypeAlias = Annotated[str, Meta(max_length=MAX_SESSION_CHARS)]
Seq: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_SEQ)]
Time: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Bit: TypeAlias = Annotated[int, Meta(ge=0, le=1, extra={"arrow": "int8"})]
Probability: TypeAlias = Annotated[float, Meta(extra={"sql": "REAL NOT NULL", "arrow": "float32"})]
"""What the model gives: a float32 value, always finite."""


class Ticks(msgspec.Struct, frozen=True):
    """A block of one or more raw ticks of one stream, in order.

    `t_ns` is int64 (n,); `values` is float64 (n, C) in the order of the session's columns;
    `session` is the publisher's session ("" for files); `seq` is the sequence number of the
    first tick, or None where the feed gives none; `where` names the origin for messages.
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
    """A few ticks of one stream that follow each other, as Python numbers.

    `times` are their `t_ns`, `rows` their values in the order of the columns, None for one that
    lacks; the rest is that of `Ticks`. An array of a few numbers takes longer to make than their
    ticks take to step, so single messages come as runs; a feed adds to a run until it hands it on.
    """

    __slots__ = ("rows", "seq", "session", "stream", "times", "where")

    def __init__(self, stream: str, session: str, seq: int | None, where: str) -> None:
        self.stream, self.session, self.seq, self.where = stream, session, seq, where
        self.times: list[int] = []
        self.rows: list[Sequence[float | None]] = []

    def block(self) -> Ticks:
        """Return them as arrays."""
        t_ns = np.array(self.times, np.int64)
        flat = np.array(list(chain.from_iterable(self.rows)), np.float64)
        values = flat.reshape(len(t_ns), -1)
        return Ticks(self.stream, t_ns, values, self.session, self.seq, self.where)


class Label(msgspec.Struct, frozen=True):
    """The truth for prediction `n` of a stream, from outside.

    `y` is 0 or 1, or any number where the configuration has a threshold.
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
    """A stream's publisher is new: its sequence numbers begin again."""

    stream: str
    session: str


class End(msgspec.Struct, frozen=True):
    """A stream's publisher has said that nothing more will come."""

    stream: str
    session: str = ""


class Expert(msgspec.Struct, frozen=True, array_like=True):
    """A member of a bank at the time of a prediction: its name, weight and probability."""

    name: str
    weight: float
    p: float


class Prediction(msgspec.Struct, frozen=True):
    """P(target of element n + horizon > 0), made after element `n`.

    Its identity is (session, stream, n). `p` holds a float32 value exactly. `gaps_visible` is
    False for a feed without sequence numbers; `after_gap` is True until the carried state has
    seen a whole warm-up of elements since the last gap. `experts` are the members of the bank,
    where they are asked for.
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
    """The truth for prediction `n` has come; losses are log losses in nats.

    `t_ns` is the time of the element that brought the label. `base_rate_p` and `last_label_p`
    are what the two plain forecasters gave for the same label, known when `p` was. The three
    kinds of evidence are log W in nats after this label, that the model is better: see
    `core.evidence`. `raw_p`, `frozen_p` and `stateless_p` are further forecasts of the same label,
    where there are such.
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
    """One optimiser update was made, or refused for a `reason`, which is "" where it was made.

    `n` is the labelled prediction that caused it; `loss` is the mean log loss over the tape in
    nats before the update; `grad_norm` is the global norm before clipping.
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
    """Learning did harm, so the weights went back, and learning rests for `frozen` labels.

    `n` is the prediction whose label showed it. `reason` is a run of refused updates, or a log
    loss above the base rate's, or one above that of the last good weights. `to` are the last good
    weights, or such that give the base rate alone. `log_loss` and `base_rate_log_loss` are means
    over the labels that were compared, `good_log_loss` that of the last good weights while they
    proved good, None where they never had to; all in nats.
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
    """Prediction `n` left the book of waiting predictions without a label."""

    stream: str
    n: int


RefusalKind: TypeAlias = Literal["tick", "label", "message"]


class Refusal(msgspec.Struct, frozen=True):
    """An input was rejected; carry and weights are as before.

    `index` is the position in the block of ticks that held it, -1 where that has no meaning.
    """

    stream: str
    kind: RefusalKind
    reason: str
    index: int = -1
    where: str = ""


class Stale(msgspec.Struct, frozen=True):
    """Nothing has come from the feed for `silent_s` seconds, though it should have."""

    silent_s: float


class Fresh(msgspec.Struct, frozen=True):
    """The feed is back; it had been seen to be silent for `silent_s` seconds."""

    silent_s: float


class OldTimes(msgspec.Struct, frozen=True):
    """`count` old ticks of a stream came; see `core.old_times` for which are.

    `t_ns` is the time of the first, and `latest_ns` the time that the stream had reached before
    it, both in ns since 1970. `where` names the origin for messages.
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
