"""What the session hands to the writer of a store: each unit is stored whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import msgspec

from ..events import (
    End,
    Expiry,
    Gap,
    Label,
    Prediction,
    Rollback,
    Run,
    Score,
    SessionStart,
    Ticks,
    Update,
)
from ..records import Batch


class Settle(msgspec.Struct, frozen=True):
    """The input of an orderly end: labels that could still be revised are final."""


Result: TypeAlias = Prediction | Score | Update | Rollback | Expiry

Moving: TypeAlias = Ticks | Run | Gap | SessionStart
"""Inputs that change which sequence number a stream expects."""

StreamInput: TypeAlias = Moving | Label
"""Inputs that change the position of a stream."""

StoredInput: TypeAlias = StreamInput | End | Settle


class JournalPosition(msgspec.Struct):
    """The position of a stream.

    `run_id` identifies the run of the publisher. `next_seq` is the expected sequence number, None
    where there are none. `n`, `ticks` and `labels` are counts. The CRC-32 checksums are over all
    its times and all its fields, as in the table of ticks, however they were cut into blocks.
    """

    run_id: str = msgspec.field(default="", name="session")
    next_seq: int | None = None
    n: int = 0
    ticks: int = 0
    labels: int = 0
    times_crc: int = 0
    fields_crc: int = 0

    def follow(self, event: StreamInput) -> None:
        """Apply an input to the run, the sequence number and the number of labels."""
        match event:
            case Label():
                self.labels += 1
            case Gap():
                self.next_seq = event.seq
            case SessionStart():
                # a stream without ticks may begin with any number
                self.next_seq = 1 if self.ticks else None
                self.run_id = event.session
            case _:
                self.run_id = event.session
                self.next_seq = None if event.seq is None else event.seq + count_of(event)


def count_of(ticks: Ticks | Run) -> int:
    """Return the number of ticks."""
    return len(ticks.times) if isinstance(ticks, Run) else len(ticks.t_ns)


class Step(NamedTuple):
    """An input, the number of elements that it produced, and the outputs that it caused."""

    event: StoredInput
    elements: int
    outputs: list[Result | Batch[Any]]


Steps: TypeAlias = list[Step]
"""Inputs that the session has processed completely: all of their outputs are known."""


class Saved(NamedTuple):
    """A snapshot of the session after everything that was handed over before it.

    `chunks` yields its bytes, the same ones at each call, in any thread.
    """

    chunks: Callable[[], Iterator[bytes | memoryview]]
    version: int
    fingerprint: str
    elements: int


class Note(NamedTuple):
    """An event that is not an input and happened `times` times."""

    kind: str
    stream: str
    reason: str
    times: int = 1
    n: int | None = None


class Hole(NamedTuple):
    """`inputs` inputs were left out, because the writer could not keep up.

    `positions` are the positions of their streams afterwards, without checksums; `saved` is the
    session at that moment.
    """

    inputs: int
    reason: str
    positions: dict[str, JournalPosition]
    saved: Saved


Unit: TypeAlias = Steps | Saved | Note | Hole
