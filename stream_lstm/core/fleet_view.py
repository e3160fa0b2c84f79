"""The streams of a fleet as objects, for what looks at a few of them: made when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .counts import TERMS, WIDTH, Counts
from .fleet_tables import WAYS, Rows
from .ranking import Ranking
from .reliability import BINS
from .rolling import Ring
from .scoring import Scoreboard
from .skill import Bet, Evidence, Wealth
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
    coin, base, last = (bet(labels, part) for part in parts[3:6])
    (_, base_spread, base_cut), (_, last_spread, last_cut) = parts[6:]
    sums = np.zeros((len(WAYS), WIDTH))
    for k, (correct, calls, _, brier) in enumerate(parts[:3]):
        sums[k, :TERMS] = labels, correct, calls, brier
    return Scoreboard(
        labels,
        positives,
        repeats,
        losses=[part[2] for part in parts[:3]],
        bets=Evidence(coin, base, last, base_spread, last_spread, base_cut, last_cut),
        counts=_counts(sums, labels, [Ranking() for _ in WAYS], Ring()),
    )


def _counts(
    sums: npt.NDArray[np.float64], labels: int, rankings: list[Ranking], recent: Ring
) -> Counts:
    return Counts(bytearray(sums.tobytes()), rankings, recent, labels)


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
    labels, losses = int(rows["labels"].sum()), []
    given, sums = scores.given.rows[:count], np.zeros((len(WAYS), WIDTH))
    for k, way in enumerate(WAYS):
        part = rows[way]
        losses.append(_in_order(part["log_loss"]))
        whole = labels, int(part["correct"].sum()), int(part["calls"].sum())
        sums[k, :TERMS] = *whole, _in_order(part["brier"])
        bins = sums[k, TERMS:].reshape(3, BINS)
        bins[:2] = scores.bins[:, k]
        bins[2] = [_in_order(given[:, k, bin_]) for bin_ in range(BINS)]
    rankings = [scores.ranking(k) for k in range(len(WAYS))]
    total = Scoreboard(
        labels,
        int(rows["positives"].sum()),
        int(rows["repeats"].sum()),
        window=len(scores.ring),
        losses=losses,
        bets=_evidence(rows),
        counts=_counts(sums, labels, rankings, scores.recent()),
    )
    counters = Counters(**{name: int(places[name].sum()) for name in COUNTED})
    return total, counters, int(places["expired"].sum()), int(places["n"].sum())


def _in_order(values: npt.NDArray[np.float64]) -> float:
    """Return a sum in the order of the streams: NumPy's own is of pairs, to other bits."""
    return float(np.cumsum(values)[-1]) if len(values) else 0.0


def _evidence(rows: Rows) -> Evidence:
    """Return what the streams have to say together."""
    evidence, labels = Evidence(), rows["labels"].tolist()
    for name in ("coin", "base", "last"):
        merged: Bet = getattr(evidence, name)
        for count, part in zip(labels, rows[name + "_bet"].tolist(), strict=True):
            merged.merge(bet(count, part))
    evidence.base_spread = _in_order(rows["base_band"]["spread"])
    evidence.last_spread = _in_order(rows["last_band"]["spread"])
    evidence.base_cut = int(rows["base_band"]["cut"].sum())
    evidence.last_cut = int(rows["last_band"]["cut"].sum())
    return evidence
