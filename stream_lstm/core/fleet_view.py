"""The streams of a fleet as objects, for what looks at a few of them: made when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .fleet_tables import WAYS
from .grades import Grades
from .reliability import Reliability
from .scoring import Scoreboard
from .skill import Bet, DifferenceBand, Evidence, Wealth
from .stream import Counters

if TYPE_CHECKING:
    from .fleet import Fleet


class FleetStream(NamedTuple):
    """A stream of a fleet as it was when it was looked at; see `stream.StreamState`.

    Of the scores those are kept that are sums of this stream alone: not the ranking, nor the
    counts of the reliability, nor the last labels.
    """

    name: str
    n: int
    session: str
    counters: Counters
    scores: Scoreboard


class FleetStreams(Mapping[str, FleetStream]):
    """The streams of a fleet by name, in the order in which they were opened."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def __len__(self) -> int:
        return len(self._fleet.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._fleet.names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._fleet.find(name) is not None

    def __getitem__(self, name: str) -> FleetStream:
        fleet, place = self._fleet, self._fleet.find(name)
        if place is None:
            raise KeyError(name)
        row = fleet.place_table.rows[place]
        scores = scoreboard(fleet.book.scores.board.rows[place])
        return FleetStream(name, int(row["n"]), fleet.sessions[place], counters(row), scores)


COUNTED = ("ticks", "refused_ticks", "refused_labels", "predictions", "gaps", "missed", "resets")


def counters(row: Any) -> Counters:
    """Return the counters in a row of `PLACE`."""
    return Counters(**{name: int(row[name]) for name in COUNTED})


def scoreboard(row: Any) -> Scoreboard:
    """Return the sums in a row of `BOARD`."""
    labels, positives, repeats, *parts = row.item()
    model, base, last = (_graded(part) for part in parts[:3])
    coin_bet, base_bet, last_bet = (bet(labels, part) for part in parts[3:6])
    base_band, last_band = (DifferenceBand(labels, *part) for part in parts[6:])
    evidence = Evidence(coin_bet, base_bet, last_bet, base_band, last_band)
    return Scoreboard(labels, positives, repeats, model, base, last, evidence)


def _graded(part: tuple[Any, ...]) -> Grades:
    correct, calls, log_loss, brier = part
    return Grades(correct, log_loss, brier, calls)


def bet(labels: int, part: tuple[Any, ...]) -> Bet:
    """Return the bet in a row of the board."""
    total, squares, better, worse = part
    return Bet(labels, total, squares, Wealth(*better), Wealth(*worse))


def totals(fleet: Fleet) -> tuple[Scoreboard, Counters]:
    """Return the scores and the counters of all streams of a fleet together.

    They are those that merging the streams of a session gives, but for `recent`: the last labels
    of all streams together, not those of each.
    """
    count = len(fleet.names)
    scores, rows = fleet.book.scores, fleet.place_table.rows[:count]
    total = Scoreboard()
    for row in scores.board.rows[:count][scores.board.rows["labels"][:count] > 0]:
        total.merge(scoreboard(row))
    given = scores.given.rows[:count]
    for k, way in enumerate(WAYS):
        grades: Grades = getattr(total, way)
        grades.ranking = scores.ranking(k)
        labels, positives = scores.bins[:, k].tolist()
        sums = np.cumsum(given[:, k], axis=0)[-1].tolist() if count else [0.0] * len(labels)
        grades.reliability = Reliability(labels, positives, sums)
    total.recent = scores.recent()
    return total, Counters(**{name: int(rows[name].sum()) for name in COUNTED})
