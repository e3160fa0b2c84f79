"""What a subscriber has counted."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import msgspec

from ..errors import DecodeCause

Cause: TypeAlias = DecodeCause | Literal["too_many_streams", "columns", "recovery", "not_owner"]
"""Why a message is refused; `recovery` is of an answer with lost ticks, `columns` of ticks whose
values have other names than ours, and `not_owner` of a stream that belongs to another endpoint."""

CAUSES: tuple[Cause, ...] = (
    *get_args(DecodeCause),
    "too_many_streams",
    "columns",
    "recovery",
    "not_owner",
)


class FeedCounters(msgspec.Struct):
    """What has come so far.

    `ticks` passed; `repeats` and `old` are ticks that did not; `missed` ticks were in `gaps`
    gaps; `refused` messages could not be read, belonged to a stream too many, or came from an
    endpoint that does not own their stream, which `not_owner` counts by itself; `takeovers` times
    another endpoint became a stream's owner. `asked` requests
    for lost ticks were sent; `recovered` of the ticks that passed came in answer to them, and
    `overlaps` came once more by the usual way; `gone` ticks were asked for and no longer held;
    `timeouts` requests had no answer in time, or were told to come again later; `overfull` times
    what waited for the lost ticks of a stream became too much, and it went on without them.
    `stale` times the feed fell silent.
    """

    messages: int = 0
    ticks: int = 0
    labels: int = 0
    heartbeats: int = 0
    sessions: int = 0
    streams: int = 0
    refused: int = 0
    gaps: int = 0
    missed: int = 0
    repeats: int = 0
    old: int = 0
    asked: int = 0
    recovered: int = 0
    overlaps: int = 0
    gone: int = 0
    timeouts: int = 0
    overfull: int = 0
    stale: int = 0
    not_owner: int = 0
    takeovers: int = 0
