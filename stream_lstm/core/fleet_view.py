"""The streams of a fleet as objects, for what looks at a few of them: made when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .fleet_tables import WAYS, Rows
from .grades import Grades
from .reliability import BINS, Reliability
from .scoring import Scoreboard
from .skill import Bet, DifferenceBand, Evidence, Wealth
from .stream import Counters

if TYPE_CHECKING:
    from .fleet import Fleet


class FleetStream:
    """A stream of a fleet, as it is when an attribute is read; see `stream.StreamState`.

    Of the scores those are kept that are sums of this stream alone: not the ranking, nor the
    counts of the reliability, nor the last labels.
    """

    __slots__ = ("_fleet", "_place", "name")

    def __init__(self, fleet: Fleet, place: int) -> None:
        self._fleet, self._place, self.name = fleet, place, fleet.names[place]

    @property
    def n(self) -> int:
        """Elements accepted."""
        return int(self._fleet.place_table.rows["n"][self._place])

    @property
    def session(self) -> str:
        """The publisher's session."""
        return str(self._fleet.sessions[self._place])

    @property
    def counters(self) -> Counters:
        """What happened on the stream."""
        row = self._fleet.place_table.rows[self._place]
        return Counters(**{name: int(row[name]) for name in COUNTED})

    @property
    def scores(self) -> Scoreboard:
        """The stream's scores."""
        return scoreboard(self._fleet.book.scores.board.rows[self._place])


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
        return FleetStream(fleet, place)


COUNTED = ("ticks", "refused_ticks", "refused_labels", "predictions", "gaps", "missed", "resets")


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


def totals(fleet: Fleet) -> tuple[Scoreboard, Counters, int, int]:
    """Return scores, counters, expired predictions and elements of all streams together.

    They are those that merging the streams of a session gives, but for `recent`: the last labels
    of all streams together, not those of each.
    """
    count = len(fleet.names)
    scores, places = fleet.book.scores, fleet.place_table.rows[:count]
    rows = scores.board.rows[:count]
    rows = rows[rows["labels"] > 0]
    total = Scoreboard()
    for name in ("labels", "positives", "repeats"):
        setattr(total, name, int(rows[name].sum()))
    given = scores.given.rows[:count]
    for k, way in enumerate(WAYS):
        part, grades = rows[way], getattr(total, way)
        grades.correct, grades.calls = int(part["correct"].sum()), int(part["calls"].sum())
        grades.log_loss, grades.brier = _in_order(part["log_loss"]), _in_order(part["brier"])
        grades.ranking = scores.ranking(k)
        labels, positives = scores.bins[:, k].tolist()
        sums = [_in_order(given[:, k, bin_]) for bin_ in range(BINS)]
        grades.reliability = Reliability(labels, positives, sums)
    _merge_evidence(total.evidence, rows)
    total.recent = scores.recent()
    counters = Counters(**{name: int(places[name].sum()) for name in COUNTED})
    return total, counters, int(places["expired"].sum()), int(places["n"].sum())


def _in_order(values: npt.NDArray[np.float64]) -> float:
    """Return a sum in the order of the streams: NumPy's own is of pairs, to other bits."""
    return float(np.cumsum(values)[-1]) if len(values) else 0.0


def _merge_evidence(evidence: Evidence, rows: Rows) -> None:
    labels = rows["labels"].tolist()
    for name in ("coin", "base", "last"):
        merged: Bet = getattr(evidence, name)
        for count, part in zip(labels, rows[name + "_bet"].tolist(), strict=True):
            merged.merge(bet(count, part))
    for name in ("base_band", "last_band"):
        part, band = rows[name], getattr(evidence, name)
        band.labels, band.cut = sum(labels), int(part["cut"].sum())
        band.total, band.spread = _in_order(part["total"]), _in_order(part["spread"])
