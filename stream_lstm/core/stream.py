"""What the session keeps for one stream: all of it state, none of it code.

Elements are counted from 1 and the count never goes back. `fresh` is the count at the last
reset: warm-up is over once W elements have come since then. `next_due` is the element after
which the next prediction is due, and `flag_until` the last element whose prediction is flagged
because of a gap.
"""

from __future__ import annotations

import msgspec
import numpy as np

from .elements import Memory
from .ledger import Ledger
from .mixture import Mixture
from .recalibration import Recalibration
from .scoring import Scoreboard
from .tape import Tape


class Counters(msgspec.Struct):
    """What happened on a stream since it was opened.

    Those of `labels_` are of labels from outside; see `labels.LabelPolicy`. `updates_refused` are
    those of the three reasons below together, `updates_rested` those that were left out after a
    roll-back.
    """

    ticks: int = 0
    refused_ticks: int = 0
    refused_labels: int = 0
    labels_early: int = 0
    labels_repeated: int = 0
    labels_revised: int = 0
    labels_disagreeing: int = 0
    labels_late: int = 0
    labels_unknown: int = 0
    labels_bad: int = 0
    predictions: int = 0
    updates: int = 0
    updates_refused: int = 0
    updates_not_finite: int = 0
    updates_too_large: int = 0
    weights_too_large: int = 0
    updates_rested: int = 0
    rollbacks: int = 0
    gaps: int = 0
    missed: int = 0
    resets: int = 0

    def merge(self, other: Counters) -> None:
        """Add the counts of another stream."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class StreamState(msgspec.Struct):
    """The whole state of one stream.

    `carry`, `twin`, the carry of the frozen twin, and `trace`, what its learning carries from
    update to update, are arrays of the engine, of NumPy or of JAX.
    """

    name: str
    carry: np.ndarray
    memory: Memory
    next_due: int
    tape: Tape | None = None
    trace: np.ndarray | None = None
    mixture: Mixture | None = None
    twin: np.ndarray | None = None
    recalibration: Recalibration | None = None
    n: int = 0
    fresh: int = 0
    flag_until: int = 0
    last_label: int = -1
    session: str = ""
    gaps_visible: bool = True
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    scores: Scoreboard = msgspec.field(default_factory=Scoreboard)
    counters: Counters = msgspec.field(default_factory=Counters)


def first_due(fresh: int, window: int, stride: int) -> int:
    """Return the first n >= fresh + window with (n - window) a multiple of stride."""
    return window + -(-fresh // stride) * stride
