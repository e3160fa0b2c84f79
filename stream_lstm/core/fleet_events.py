"""What goes into a fleet and what comes out of it, as columns in place of an object each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ..events import Output, Prediction, Refusal, Score

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Arrivals(msgspec.Struct, frozen=True):
    """Ticks of many streams in the order of their arrival.

    `streams` int64 (m,) are places as `Fleet.place` gives them; `t_ns` is int64 (m,) and
    `values` float64 (m, C) in the order of the fleet's columns; `session` is their publisher's,
    `numbered` says whether it numbers them, so that gaps are seen, and `where` names the origin
    for messages.
    """

    streams: npt.NDArray[np.int64]
    t_ns: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    session: str = ""
    numbered: bool = False
    where: str = ""

    def __post_init__(self) -> None:
        count = len(self.streams)
        if self.values.ndim != 2 or self.t_ns.shape != (count,) or len(self.values) != count:
            raise ValueError(
                f"arrivals: streams and t_ns must be (m,) and values (m, C), not "
                f"{self.streams.shape}, {self.t_ns.shape} and {self.values.shape}"
            )


class Predictions(NamedTuple):
    """Predictions made, in order; the fields are those of `events.Prediction`.

    `at` (k,) are the arrivals that they were made after, `streams` places.
    """

    at: Longs
    streams: Longs
    n: Longs
    t_ns: Longs
    p: Doubles
    sessions: npt.NDArray[np.object_]
    gaps_visible: Bools
    after_gap: Bools


class Scores(NamedTuple):
    """Predictions scored, in order; the fields are those of `events.Score`.

    `at` (k,) are the arrivals that brought the labels, `streams` places.
    """

    at: Longs
    streams: Longs
    n: Longs
    t_ns: Longs
    p: Doubles
    label: Longs
    log_loss: Doubles
    base_rate_p: Doubles
    last_label_p: Doubles
    sessions: npt.NDArray[np.object_]
    coin_evidence: Doubles
    base_rate_evidence: Doubles
    last_label_evidence: Doubles


class Outcome(NamedTuple):
    """All that came of a block of arrivals; `names` are the fleet's, by place.

    `refusals` holds (arrival, event).
    """

    names: Sequence[str]
    predictions: Predictions
    scores: Scores
    refusals: Sequence[tuple[int, Refusal]]

    def events(self) -> Iterator[Output]:
        """Give the events one by one, in the order in which a session would emit them."""
        # An arrival scores before it predicts, and is refused if it does neither.
        keyed: list[tuple[int, Output]] = [
            *zip((self.scores.at * 2).tolist(), self._scores(), strict=True),
            *zip((self.predictions.at * 2 + 1).tolist(), self._predictions(), strict=True),
            *((at * 2, refusal) for at, refusal in self.refusals),
        ]
        keyed.sort(key=_first)
        return (event for _, event in keyed)

    def _predictions(self) -> Iterator[Prediction]:
        names = self.names
        for stream, *fields in zip(*_lists(self.predictions), strict=True):
            yield Prediction(names[stream], *fields)

    def _scores(self) -> Iterator[Score]:
        names = self.names
        for stream, *fields in zip(*_lists(self.scores), strict=True):
            yield Score(names[stream], *fields)


def _lists(columns: Any) -> list[list[Any]]:
    """Return all columns but the first as lists of Python's own numbers."""
    return [column.tolist() for column in columns[1:]]


def _first(pair: tuple[int, Any]) -> int:
    return pair[0]


def joined(kind: Any, parts: Sequence[Any]) -> Any:
    """Return columns of `parts`, one behind another, as one `kind`."""
    if len(parts) == 1:
        return parts[0]
    return kind(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
