"""What a running session has counted, over all its streams, for a thread that only looks.

Nothing here changes anything or holds up the loop: whole numbers and sums are read as they are at
that moment, and those of different moments may stand side by side. The scores' own figures are not
asked for, since what they count meanwhile belongs to the loop's thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

from ..core.fleet import Fleet
from ..core.fleet_tables import WAYS
from ..core.fleet_view import COUNTED
from ..core.scoring import Scoreboard
from ..core.session import Session
from ..core.stream import Counters, StreamState

FORECASTS = ("model", "base_rate", "last_label")
"""Whose log losses are summed, in the order in which a scoreboard has them."""

MOST_STREAMS = 100
"""Streams that are told of one by one."""


class Scored(msgspec.Struct):
    """Labels, positive ones and right calls of the model; log losses of FORECASTS, in nats."""

    labels: int = 0
    positives: int = 0
    correct: int = 0
    losses: tuple[float, ...] = (0.0, 0.0, 0.0)


class Totals(msgspec.Struct):
    """Sums over all streams."""

    streams: int
    warm: int
    elements: int
    expired: int
    counters: Counters
    scored: Scored


class OneStream(msgspec.Struct):
    """A stream; `evidence` is log W in nats against a coin, the base rate and the last label."""

    name: str
    elements: int
    warm: bool
    scored: Scored
    evidence: tuple[float, float, float]


AnySession: TypeAlias = Session | Fleet


def totals(session: AnySession) -> Totals:
    """Return the sums over all streams of a session."""
    if isinstance(session, Fleet):
        return _fleet_totals(session)
    streams, counters = list(session.streams.values()), Counters()
    for stream in streams:
        counters.merge(stream.counters)
    counters.labels_unknown += session.stray_labels
    counters.refused_labels += session.stray_labels
    scored = [_scored(stream.scores) for stream in streams]
    return Totals(
        len(streams),
        sum(_is_warm(session, stream) for stream in streams),
        sum(stream.n for stream in streams),
        sum(stream.ledger.expired for stream in streams),
        counters,
        _sum(scored),
    )


def _scored(scores: Scoreboard) -> Scored:
    bets, losses = scores.bets, tuple(scores.losses[: len(FORECASTS)])
    correct = 0 if bets is None else round((bets.coin.labels + bets.coin.total) / 2)
    return Scored(scores.labels, scores.positives, correct, losses)


def _sum(scored: Iterable[Scored]) -> Scored:
    total = Scored()
    for one in scored:
        total.labels += one.labels
        total.positives += one.positives
        total.correct += one.correct
        total.losses = tuple(a + b for a, b in zip(total.losses, one.losses, strict=True))
    return total


def _is_warm(session: Session, stream: StreamState) -> bool:
    return stream.n - stream.fresh >= session.config.stream.window


def _fleet_totals(fleet: Fleet) -> Totals:
    count = len(fleet.names)
    places, board = fleet.place_table.rows[:count], fleet.book.scores.board.rows[:count]
    losses = tuple(float(board[way]["log_loss"].sum()) for way in WAYS)
    counters = Counters(**{name: int(places[name].sum()) for name in COUNTED})
    counters.labels_unknown = fleet.stray_labels
    counters.refused_labels += fleet.stray_labels
    scored = Scored(
        int(board["labels"].sum()),
        int(board["positives"].sum()),
        int(board["model"]["correct"].sum()),
        losses,
    )
    return Totals(
        count,
        int((places["predictions"] > 0).sum()),
        int(places["n"].sum()),
        int(places["expired"].sum()),
        counters,
        scored,
    )


def some_streams(session: AnySession) -> Iterator[OneStream]:
    """Yield the first streams of a session, of which there may be too many to tell of all."""
    if isinstance(session, Fleet):
        for name in list(session.names[:MOST_STREAMS]):
            found = session.streams[name]
            scores = found.scores
            warm = found.counters.predictions > 0
            yield OneStream(name, found.n, warm, _scored(scores), scores.evidence.log_e())
        return
    for stream in list(session.streams.values())[:MOST_STREAMS]:
        bets = stream.scores.bets
        evidence = (0.0, 0.0, 0.0) if bets is None else bets.log_e()
        warm = _is_warm(session, stream)
        yield OneStream(stream.name, stream.n, warm, _scored(stream.scores), evidence)


def warm_streams(session: AnySession, wanted: Iterable[str]) -> tuple[int, list[str]]:
    """Return (streams that are warm, those of `wanted` that are not)."""
    if isinstance(session, Fleet):
        rows = session.place_table.rows[: len(session.names)]["predictions"] > 0
        warm = {name for name in wanted if (k := session.find(name)) is not None and rows[k]}
        return int(rows.sum()), [name for name in wanted if name not in warm]
    named = {s.name for s in list(session.streams.values()) if _is_warm(session, s)}
    return len(named), [name for name in wanted if name not in named]
