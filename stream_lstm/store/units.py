"""What is handed to the writer of a store, in order: each unit is stored whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, TypeAlias

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

Result: TypeAlias = Prediction | Score | Update | Rollback | Expiry


class Settle(msgspec.Struct, frozen=True):
    """The labels that could still be revised count now: an input, made by an orderly end."""


class Position(msgspec.Struct):
    """Where a stream stands.

    `next_seq` is the sequence number that is due, None where there are none; `n` the elements,
    `ticks` the ticks and `labels` the labels so far. The checksums (CRC-32) are over all its times
    and all its fields, as they stand in the table of ticks, however they were cut into blocks.
    """

    session: str = ""
    next_seq: int | None = None
    n: int = 0
    ticks: int = 0
    labels: int = 0
    times_crc: int = 0
    fields_crc: int = 0

    def follow(self, event: Ticks | Run | Gap | SessionStart) -> None:
        """Go where an input leads: session and sequence number."""
        if isinstance(event, Ticks | Run):
            self.session = event.session
            self.next_seq = None if event.seq is None else event.seq + count_of(event)
        elif isinstance(event, Gap):
            self.next_seq = event.seq
        else:
            # what was never heard before may begin with any number
            self.next_seq = 1 if self.ticks else None
            self.session = event.session


Taken: TypeAlias = Ticks | Run | Label | Gap | SessionStart | End | Settle
"""An input of a session."""


def count_of(ticks: Ticks | Run) -> int:
    """Return how many ticks these are."""
    return len(ticks.times) if isinstance(ticks, Run) else len(ticks.t_ns)


class Step(NamedTuple):
    """An input, how many elements it made, and what came out of it."""

    event: Taken
    made: int
    outputs: list[Result | Batch[Any]]


Steps: TypeAlias = list[Step]
"""Inputs that the session has caught up with: only then are all of their outputs known."""


class State(Protocol):
    """The bytes of a snapshot, which a thread can ask for later; see `core.snapshot.Frozen`."""

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes in order; every time the same ones."""


class Saved(NamedTuple):
    """A snapshot of the session as it is after everything handed over before it."""

    state: State
    version: int
    fingerprint: str
    elements: int


class Note(NamedTuple):
    """Something that happened and is no input: so many `times`, for the `reason`."""

    kind: str
    stream: str
    reason: str
    times: int = 1
    session: str = ""
    n: int | None = None


class Hole(NamedTuple):
    """`inputs` inputs were not handed over, since the writer could not keep up.

    `positions` say where the streams that they were of stand after them, but for checksums, and
    `saved` is the session as it is then.
    """

    inputs: int
    reason: str
    positions: dict[str, Position]
    saved: Saved


Unit: TypeAlias = Steps | Saved | Note | Hole
