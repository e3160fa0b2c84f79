"""Many streams in one session without learning: tables in place of objects.

```python
fleet = Fleet(config, columns)                       # compiles; `table` need not be set
places = np.array([fleet.place(name) for name in names])
outcome = fleet.push(Arrivals(places[which], t_ns, values))   # any mixture, in arrival order
outcome.predictions.p, outcome.scores.log_loss       # columns, see `fleet_events`
for event in outcome.events(): ...                   # or the events of a `Session`
```

A fleet gives what a `Session` for each stream gives, bit for bit, for blocks cut in any way. It
takes what a session takes (`ticks` joins blocks of streams that came one after another), and
hands what comes of it to `emit`, one event each, where there is one. Events cost several times
what the columns cost, since a prediction is then an object: 1 us of the 1.5 that ten elements
take. Labels come from the series, in mode `carry`, and nothing learns.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..errors import ConfigurationError
from ..events import Expiry, Gap, Label, Output, Refusal, SessionStart, Ticks
from ..model.engine import Engine
from ..model.scaling import check_scaler
from ..model.table_engine import TableEngine
from .elements import ElementMaker, Values
from .fleet_book import FleetBook, Stepped
from .fleet_elements import Block, FleetMaker, Made
from .fleet_events import Arrivals, Outcome, Predictions, Scores, joined
from .fleet_tables import PLACE, Rows, Streams, Table
from .fleet_view import FleetStreams
from .session import MAX_STREAMS
from .stream import first_due

Emit: TypeAlias = Callable[[Output], None]
Floats: TypeAlias = npt.NDArray[np.float32]
Longs: TypeAlias = npt.NDArray[np.int64]

PIECE = 16_384
"""Arrivals worked off at a time: the columns of more would not stay in a cache."""

FROM_SERIES = "labels come from the series itself; set labels = 'external' to send them"


class Fleet:
    """The state machine of many streams; see the head of the file.

    config: what to do. columns: names of the values of a tick, in order. emit: called with each
    event, None where `push`'s columns are all that is wanted. weights: what to start from
    instead of random weights. scaler: the state (1 + 2F,) that each scaler starts from. engine:
    what was compiled for an equal configuration before. capacity: streams at most; a row that
    was never used takes no memory.

    Raises ConfigurationError for what `Session` raises it for, and for a configuration that
    learns or needs more than tables hold.
    """

    def __init__(
        self,
        config: Config,
        columns: Sequence[str],
        emit: Emit | None = None,
        *,
        weights: Mapping[str, Mapping[str, Any]] | None = None,
        scaler: npt.ArrayLike | None = None,
        engine: TableEngine | None = None,
        capacity: int = MAX_STREAMS,
    ) -> None:
        fault = config.table_fault()
        if fault:
            raise ConfigurationError(fault, key="table")
        self.config, self.columns, self.capacity = config, tuple(columns), capacity
        self._emit = emit
        self.maker = ElementMaker(config.stream.features, columns)
        per_stream = config.model.sharing == "per-stream"
        self.table_engine = engine or TableEngine(
            Engine(config, len(self.maker)), per_stream=per_stream
        )
        self.engine = self.table_engine.engine
        given = None if weights is None else self.engine.check_weights(weights)
        self.weights = self.engine.pack(given or self.engine.init_weights())
        self._start = self.engine.init_carry()
        if scaler is not None:
            known = check_scaler(self.engine.shape.features, scaler)
            self._start = np.concatenate([known, self._start[len(known) :]])
        self.stray_labels = 0
        self.names: list[str] = []
        self._places: dict[str, int] = {}
        self._open_tables()

    def _open_tables(self) -> None:
        capacity = self.capacity
        self.place_table = Table(capacity, PLACE)
        self.carries = Table(capacity, np.dtype("f4"), (self.table_engine.width,))
        self.elements = FleetMaker(self.maker, capacity)
        self.book = FleetBook(self.config, capacity)
        self.sessions = np.full(capacity, "", np.object_)
        self._visible = self.place_table.rows["gaps_visible"]
        # Whose ticks `push` had last for each stream, by number: sessions are dear to compare.
        self._sources = np.zeros(capacity, np.int32)
        self._source, self._source_number = ("", False), 1
        self.own_weights: Table | None = None
        if self.table_engine.per_stream:
            self.own_weights = Table(capacity, np.dtype("f4"), (self.table_engine.weight_width,))
            self._first_weights = np.asarray(self.weights[0])

    # ---- what it holds ----------------------------------------------------------------

    @property
    def streams(self) -> FleetStreams:
        """The streams by name, as objects made when they are looked at."""
        return FleetStreams(self)

    def place(self, name: str) -> int:
        """Return the place of a stream, opened if it is new; -1 where there are too many."""
        found = self._places.get(name)
        return self._open(name) if found is None else found

    def places(self, names: Sequence[str]) -> Longs:
        """Return the places of streams (len(names),), as `place` does."""
        known = self._places.get
        found = np.array([known(name, -1) for name in names], np.int64)
        for k in np.flatnonzero(found < 0).tolist():
            found[k] = self.place(names[k])
        return found

    def find(self, name: str) -> int | None:
        """Return the place of a stream that is open, None for another."""
        return self._places.get(name)

    def _open(self, name: str) -> int:
        place = len(self.names)
        if place == self.capacity:
            return -1
        self.names.append(name)
        self._places[name] = place
        row = self.place_table.rows[place]
        row["gaps_visible"] = True
        row["first"] = self._first_due(0)
        if self._start.any():
            self.carries.rows[place] = self._start
        if self.own_weights is not None:
            self.own_weights.rows[place] = self._first_weights
        return place

    def _first_due(self, fresh: int) -> int:
        return first_due(fresh, self.config.stream.window, self.config.stream.stride)

    def set_weights(self, name: str, weights: Mapping[str, Mapping[str, Any]]) -> None:
        """Give a stream weights of its own, opening it if it is new.

        Raises ConfigurationError for weights that do not fit, where weights are shared, and
        where there are too many streams.
        """
        if self.own_weights is None:
            raise ConfigurationError(
                "a stream has weights of its own with sharing=per-stream alone", key="sharing"
            )
        place = self.place(name)
        if place < 0:
            raise ConfigurationError(self._too_many(), key="streams")
        self.own_weights.rows[place] = self.table_engine.flat(self.engine.check_weights(weights))

    def scaler_of(self, name: str) -> Floats | None:
        """Return the state (1 + 2F,) of a stream's scaler, None where there is no such stream."""
        place = self._places.get(name)
        size = 1 + 2 * self.engine.shape.features
        return None if place is None else self.carries.rows[place, :size].copy()

    def stream_bytes(self) -> int:
        """Return the bytes that the tables hold for one stream; its name comes to that."""
        pointers = self.sessions.itemsize * (1 + self.book.slots) + self._sources.itemsize
        return sum(table.row_bytes for table in self.tables()) + pointers

    def tables(self) -> list[Table]:
        """Return all tables, in an order that stays."""
        book, elements = self.book, self.elements
        tables = [self.place_table, self.carries, elements.values, elements.times]
        tables += [book.pending, book.scores.board, book.scores.given]
        return tables if self.own_weights is None else [*tables, self.own_weights]

    # ---- what comes in ----------------------------------------------------------------

    def push(self, arrivals: Arrivals) -> Outcome:
        """Take ticks of any streams, and return what came of them.

        Raises ConfigurationError for values that are not the fleet's columns, and IndexError
        for a place that no stream has.
        """
        if arrivals.values.shape[1] != len(self.columns):
            raise ConfigurationError(
                f"arrivals have {arrivals.values.shape[1]} values, "
                f"the session has columns {', '.join(self.columns)}"
            )
        streams = np.ascontiguousarray(arrivals.streams, np.int64)
        if len(streams) and not 0 <= streams.min() <= streams.max() < len(self.names):
            raise IndexError(f"places are 0 to {len(self.names) - 1}: ask for them with `place`")
        self._said_by(streams, arrivals.session, arrivals.numbered)
        return self._advance(streams, arrivals.t_ns, arrivals.values, [(0, arrivals.where)])

    def _said_by(self, streams: Streams, session: str, numbered: bool) -> None:
        """Take note of whose ticks these are, for streams that are not known to be so already."""
        if (session, numbered) != self._source:
            self._source, self._source_number = (session, numbered), self._source_number + 1
        other = streams[self._sources[streams] != self._source_number]
        if len(other):
            self._sources[other] = self._source_number
            self.sessions[other], self._visible[other] = session, numbered

    def _advance(
        self, streams: Streams, t_ns: Longs, values: Values, origins: Sequence[tuple[int, str]]
    ) -> Outcome:
        """Take ticks, of which those from `first` on come from `where` for each of `origins`."""
        parts = [
            self._piece(streams, t_ns, values, origins, slice(start, start + PIECE))
            for start in range(0, max(len(streams), 1), PIECE)
        ]
        predictions = joined(Predictions, [part[0] for part in parts])
        scores = joined(Scores, [part[1] for part in parts])
        refusals = [refusal for part in parts for refusal in part[2]]
        outcome = Outcome(self.names, predictions, scores, refusals)
        if self._emit is not None:
            for event in outcome.events():
                self._emit(event)
        return outcome

    def ticks(self, blocks: Sequence[Ticks]) -> None:
        """Take blocks of ticks, each of one stream, in the order of their arrival."""
        joining: list[tuple[int, Ticks]] = []
        among: set[int] = set()
        for ticks in blocks:
            if ticks.values.shape[1] != len(self.columns):
                raise ConfigurationError(
                    f"ticks of {ticks.stream!r} have {ticks.values.shape[1]} values, "
                    f"the session has columns {', '.join(self.columns)}"
                )
            place = self.place(ticks.stream)
            unlike = place >= 0 and self._unlike(place, ticks)
            if place < 0 or (unlike and place in among):
                self._join(joining)
                joining, among = [], set()
            if place < 0:
                self._out(Refusal(ticks.stream, "tick", self._too_many(), 0, ticks.where))
                continue
            if unlike:
                self.sessions[place], self._visible[place] = ticks.session, ticks.seq is not None
                self._sources[place] = 0
            joining.append((place, ticks))
            among.add(place)
        self._join(joining)

    def _unlike(self, place: int, ticks: Ticks) -> bool:
        """Tell whether a stream's predictions will say otherwise of where they come from."""
        seen = self._visible[place] == (ticks.seq is not None)
        return not seen or self.sessions[place] != ticks.session

    def _join(self, blocks: Sequence[tuple[int, Ticks]]) -> None:
        if not blocks:
            return
        counts = [len(ticks.t_ns) for _, ticks in blocks]
        starts: list[int] = (np.cumsum(counts) - counts).tolist()
        self._advance(
            np.repeat(np.array([place for place, _ in blocks], np.int64), counts),
            np.concatenate([ticks.t_ns for _, ticks in blocks]),
            np.concatenate([ticks.values for _, ticks in blocks]),
            [(start, ticks.where) for start, (_, ticks) in zip(starts, blocks, strict=True)],
        )

    def label(self, label: Label) -> None:
        """Refuse a label from outside, since labels come from the series."""
        place = self._places.get(label.stream)
        if place is None:
            self.stray_labels += 1
            reason = f"there is no stream {label.stream!r}"
        else:
            self.place_table.rows["refused_labels"][place] += 1
            reason = FROM_SERIES
        self._out(Refusal(label.stream, "label", reason, where=f"n={label.n}"))

    def settle(self) -> None:
        """Do nothing, for no label waits to be revised: a session has more to do."""

    def gap(self, gap: Gap) -> None:
        """Take notice of lost ticks: predictions are flagged, and the policy applies."""
        place = self.place(gap.stream)
        if place >= 0:
            self.place_table.rows["gaps"][place] += 1
            self.place_table.rows["missed"][place] += gap.missed
            self._interrupt(place)

    def session_start(self, start: SessionStart) -> None:
        """Take notice of a publisher's restart: labels may be lost, and no prediction waits on."""
        place = self.place(start.stream)
        if place < 0 or self.sessions[place] == start.session:
            return
        self.sessions[place], self._sources[place] = start.session, 0
        if self.place_table.rows["n"][place] > 0:
            self._interrupt(place, restarted=True)

    def _interrupt(self, place: int, *, restarted: bool = False) -> None:
        stream, row = self.config.stream, self.place_table.rows[place]
        n, resets = int(row["n"]), stream.on_gap == "reset"
        row["flag_until"] = n + stream.window
        for waiting in self.book.waiting(n, int(row["first"])) if resets or restarted else ():
            row["expired"] += 1
            row["first"] = waiting + stream.stride
            self._out(Expiry(self.names[place], waiting))
        if not resets:
            return
        row["resets"] += 1
        self.carries.rows[place] = self._start
        row["remembered"] = 0
        row["first"] = self._first_due(n)

    def _too_many(self) -> str:
        return f"{self.capacity} streams are open, which is the limit"

    def _out(self, event: Output) -> None:
        if self._emit is not None:
            self._emit(event)

    # ---- a piece of a block -----------------------------------------------------------

    def _piece(
        self,
        streams: Streams,
        t_ns: Longs,
        values: Values,
        origins: Sequence[tuple[int, str]],
        part: slice,
    ) -> tuple[Predictions, Scores, list[tuple[int, Refusal]]]:
        streams, t_ns, values = streams[part], t_ns[part], values[part]
        block = self.elements.group(streams)
        places = self.place_table.gather(block.streams)
        places["ticks"] += block.counts
        made = self.elements.make(block, places["remembered"], t_ns, values)
        for at, _ in made.refused:
            places["refused_ticks"][block.local[at]] += 1
        stepped = self._step(block, places, made, t_ns)
        self.place_table.put(block.streams, places)
        predictions, scores = self.book.take(stepped, self.sessions)
        refusals = [
            (at + part.start, self._refusal(origins, streams[at], at + part.start, reason))
            for at, reason in made.refused
        ]
        if part.start:
            predictions = predictions._replace(at=predictions.at + part.start)
            scores = scores._replace(at=scores.at + part.start)
        return predictions, scores, refusals

    def _step(self, block: Block, places: Rows, made: Made, t_ns: Longs) -> Stepped:
        """Step over the elements of a piece, and bring `places` up to date."""
        at, local, xs = np.arange(len(t_ns)), block.local, made.elements
        ranks = block.ranks(made.made)
        if not made.made.all():
            at = np.flatnonzero(made.made)
            local, xs, ranks = local[at], xs[at], ranks[at]
        n = places["n"][local] + ranks
        p = self._network(block.streams[local], xs)
        due, labelled = self.book.falls(n, places["first"][local])
        places["n"] += np.bincount(local, minlength=len(places))
        places["predictions"] += np.bincount(local[due], minlength=len(places))
        told = np.flatnonzero(due | labelled)
        at, of = at[told], local[told]
        positive = (xs[told, 0] > 0).astype(np.int64)
        more = positive, t_ns[at], p[told].astype(np.float64), places["flag_until"][of]
        visible = places["gaps_visible"][of] == 1
        return Stepped(at, block.streams[of], n[told], *more, visible, due[told], labelled[told])

    def _network(self, streams: Streams, xs: Floats) -> Floats:
        """Step over elements xs (m, F), each of a stream (m,), and return p (m,)."""
        p, size = np.empty(len(xs), np.float32), self.table_engine.size
        weights: Any = self.weights
        for start in range(0, len(xs), size):
            part = slice(start, start + size)
            block = self.elements.group(streams[part])
            if self.own_weights is not None:
                weights = self.own_weights.gather(block.streams)
            table, index = self.carries.gather(block.streams), block.local.astype(np.int32)
            moved, p[part] = self.table_engine.step(weights, table, index, xs[part])
            self.carries.put(block.streams, np.ascontiguousarray(moved))
        return p

    def _refusal(
        self, origins: Sequence[tuple[int, str]], place: int, at: int, reason: str
    ) -> Refusal:
        """Return the refusal of tick `at`, whose index is that in its own block of ticks."""
        first, where = origins[bisect_right(origins, at, key=_start_of) - 1]
        return Refusal(self.names[place], "tick", reason, at - first, where)


def _start_of(origin: tuple[int, str]) -> int:
    return origin[0]
