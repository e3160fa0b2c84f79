"""The streams of a session as objects, for what looks at a few of them: made when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .elements import Memory
from .forecasts import Mixture, Recalibration
from .scores import Scoreboard
from .stream import Ledger, Owed, Pending, Side, Tape
from .table import (
    EXPIRED,
    FIRST,
    FLAG_UNTIL,
    FRESH,
    HELD,
    LAST_LABEL,
    LATEST,
    VISIBLE,
    Counters,
    N,
)

if TYPE_CHECKING:
    from .session import Session


class StreamView:
    """A stream as it was when the session was last looked at; see `table` and `stream.Side`."""

    __slots__ = ("_row", "_session", "name")

    def __init__(self, session: Session, row: int) -> None:
        self._session, self._row, self.name = session, row, session.table.names[row]

    def _number(self, column: int) -> int:
        return int(self._session.table.ints[self._row, column])

    @property
    def _side(self) -> Side:
        return self._session.sides.get(self._row) or Side()

    @property
    def n(self) -> int:
        """Elements accepted."""
        return self._number(N)

    @property
    def fresh(self) -> int:
        """Elements at the last reset."""
        return self._number(FRESH)

    @property
    def flag_until(self) -> int:
        """The last element whose prediction is flagged because of a gap."""
        return self._number(FLAG_UNTIL)

    @property
    def last_label(self) -> int:
        """The last label from outside that counted, -1 before one did."""
        return self._number(LAST_LABEL)

    @property
    def next_due(self) -> int:
        """The element after which the next prediction is due."""
        return self._session.table.next_due(self._row)

    @property
    def session(self) -> str:
        """The publisher's run."""
        return str(self._session.table.sources[self._row])

    @property
    def gaps_visible(self) -> bool:
        """Whether the feed numbers its ticks."""
        return bool(self._number(VISIBLE))

    @property
    def carry(self) -> np.ndarray:
        """What the network carries, float32."""
        return np.array(self._session.table.carry[self._row])

    @property
    def memory(self) -> Memory:
        """The last accepted ticks."""
        table, held = self._session.table, self._number(HELD)
        row = self._row
        return Memory(
            table.memory_t[row, :held].copy(),
            table.memory_v[row, :held].copy(),
            self._number(LATEST),
            table.last[row].copy(),
        )

    @property
    def counters(self) -> Counters:
        """What happened on the stream."""
        return self._session.table.counters(self._row)

    @property
    def scores(self) -> Scoreboard:
        """The stream's scores."""
        return self._session.scores.of(self._row)

    @property
    def expired(self) -> int:
        """Predictions that left without a label."""
        return self._number(EXPIRED) + self._side.ledger.expired

    @property
    def ledger(self) -> Ledger:
        """The waiting predictions, and labels from outside."""
        ledger = self._side.ledger
        table, row = self._session.table, self._row
        if self._session.config.stream.labels == "external":
            return ledger
        if self._row in self._session.sides:
            waiting = [Pending(*one[:6], 0, *one[6:]) for one in self._side.waiting]
        else:
            waiting = []
            for n in table.waiting(row):
                p, base, last_p, last = table.pending[row, table.slot(n)].tolist()
                source = table.pending_sources[row, table.slot(n)]
                waiting.append(Pending(n, p, base, last_p, int(last), source))
        return Ledger({one.n: one for one in waiting}, expired=self.expired)

    @property
    def tape(self) -> Tape | None:
        """The last elements, where they are kept."""
        return self._side.tape

    @property
    def trace(self) -> Any:
        """What learning carries from update to update."""
        return self._side.trace

    @property
    def mixture(self) -> Mixture | None:
        """The weights of a bank."""
        return self._side.mixture

    @property
    def twin(self) -> np.ndarray | None:
        """The carry of the frozen twin."""
        return self._side.twin

    @property
    def recalibration(self) -> Recalibration | None:
        """What recalibrates the published probability."""
        return self._side.recalibration

    @property
    def owed(self) -> list[Owed]:
        """Labels that are still to be learned from."""
        return self._side.owed

    def state(self) -> dict[str, Any]:
        """Return everything that is kept of the stream, by name."""
        names = ("n", "fresh", "flag_until", "last_label", "next_due", "session", "gaps_visible")
        parts = ("carry", "memory", "counters", "ledger", "tape", "trace", "mixture", "twin")
        own = (*names, *parts, "recalibration", "owed", "name", "expired")
        board = self._session.scores.board[self._row].copy()
        return {name: getattr(self, name) for name in own} | {
            "scores": board,
            "first": self._number(FIRST),
        }


class Streams(Mapping[str, StreamView]):
    """The streams of a session by name, in the order in which they were opened."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __len__(self) -> int:
        return len(self._session.table)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._session.table.names))

    def __contains__(self, name: object) -> bool:
        return name in self._session.table.places

    def __getitem__(self, name: str) -> StreamView:
        return StreamView(self._session, self._session.table.places[name])
