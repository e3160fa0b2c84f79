"""The product as one object: history, a loop of your own, and a live feed.

A `Predictor` is a `Stepper` with the world around it: its tables, files and sockets. However ticks
come, one by one, in a frame or from a feed, they pass the same session, and the bits are the same.
"""

from __future__ import annotations

import os
import time as clock
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import msgspec
import numpy as np
import numpy.typing as npt

from ..config import build
from ..core.expressions import columns_of
from ..core.missing import optional_columns
from ..core.outcome import Outcome
from ..core.replay import LEARN_PIECE, PIECE, Digest, ReplayRows, send
from ..core.session import Session
from ..core.stepper import STREAM, Stepper
from ..core.verdict import summarize
from ..errors import ConfigurationError, DataError
from ..events import (
    NO_TIME,
    End,
    Gap,
    Input,
    Label,
    Prediction,
    Refusal,
    Run,
    Score,
    SessionStart,
    Takeover,
    Ticks,
    Update,
)
from ..records import Gathered
from ..schema import TimeUnit
from ..store.predictors import SavedPredictor, array_record, chosen, config_of, decode, encode
from ..store.startup import WarmStart, about_inputs, warm_start
from .notices import warn

if TYPE_CHECKING:
    import pyarrow as pa

    from ..feed.security import Security
    from ..feed.subscriber import Subscriber
    from .frames import Rows

Weights = Mapping[str, Mapping[str, Any]]


class Replayed(msgspec.Struct):
    """The results of a replay.

    table: an Arrow table with a row for each prediction and the columns of `replay --out`; its
    `to_pandas()` is a DataFrame. With times it also has a column `time`, a timestamp in ns with
    the time zone of the column that was read. summary: the record of `replay --json`; its figures
    are those of the predictor since its start, its digest that of this replay. skipped: the number
    of rejected rows. predictor: continues after the last row.
    """

    table: pa.Table
    summary: dict[str, Any]
    skipped: int
    predictor: Predictor


class Start(NamedTuple):
    """What a predictor is made from."""

    begin: WarmStart
    columns: tuple[str, ...]
    stream: str


class Predictor(Stepper):
    """An LSTM carried along one series.

    features: expressions over the fields of a tick; the first is the target.
    columns: names of the fields, in order; by default those that the features use, in the order
    of their first use.
    weights: weights to start from, {layer: {"kernel": array}}, or the path of a file of weights.
    Settings that are not given, such as `hidden` and `scaling`, are then those of the file.
    scaler: the state (1 + 2F,) that the scaler starts from, as a weights file may contain it.
    stream: the name of the series in records.
    settings: any key of the configuration's tables stream, model, scaling, learning and scoring,
    such as `window=100`, `hidden=32`, `learn=True`, `labels="external"`.

    Attributes: `columns`; `last_update`, the latest `Update` or None; `last_score`, the latest
    `Score` or None.

    Raises ConfigurationError for a wrong setting or feature, and for a file of weights
    InputMissingError, OutputError (unreadable) or DataError (not weights). Compiles on
    construction, which takes a few seconds, and never afterwards.
    """

    def __init__(
        self,
        features: Sequence[str] | str,
        columns: Sequence[str] | str | None = None,
        *,
        weights: Weights | str | os.PathLike[str] | None = None,
        scaler: npt.ArrayLike | None = None,
        stream: str = STREAM,
        **settings: Any,
    ) -> None:
        self._begin(start_of(features, columns, weights, scaler, stream, settings))

    def _begin(self, start: Start) -> None:
        started = clock.perf_counter()
        self._start = start
        begin = start.begin
        super().__init__(
            begin.config,
            start.columns,
            stream=start.stream,
            weights=begin.weights,
            scaler=begin.scaler,
            members=begin.members,
        )
        self._compile_s = clock.perf_counter() - started

    @classmethod
    def _of(cls, start: Start) -> Self:
        made = cls.__new__(cls)
        made._begin(start)
        return made

    # ---- files ----------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save weights, scaler, settings and the whole state in one file.

        path: ends in .safetensors. The file is replaced as a whole, or not at all. It is also a
        file of weights, unless the predictor has a bank.

        Raises UsageError for another suffix, and OutputError where it cannot be written.
        """
        from ..store.output import write_whole
        from ..store.weights import check_target

        check_target(Path(path))
        write_whole(Path(path), self._file())

    @classmethod
    def load(cls, path: str | os.PathLike[str], **settings: Any) -> Self:
        """Return the predictor of a file of `save`; it continues to the same bits.

        settings: settings that the saved predictor must have, such as `stride=10`. Those that its
        state does not depend on, such as `compile_cache`, are used instead of the saved ones.

        Raises SnapshotError for a damaged file, and for settings that differ, which it names;
        DataError for a file without the state of a predictor; InputMissingError and OutputError.
        """
        from ..store.weights import load_state

        return cls._restored(load_state(Path(path)), str(path), settings)

    def _file(self) -> bytes:
        from ..store.weights import weights_bytes

        config, session = self._session.config, self._session
        state, about = self.to_bytes(), about_inputs(session.maker.features.names, config.scaling)
        if config.learning.bank != "none":
            return weights_bytes({}, about, state=state)
        scaler = session.read(lambda session: session.scaler_of(self.stream))
        scaler = self._start.begin.scaler if scaler is None else scaler
        return weights_bytes(self.weights(), about, scaler, state)

    def to_bytes(self) -> bytes:
        """Return settings, start and state as bytes, without code; see `from_bytes`."""
        begin = self._start.begin
        start = begin.weights and {
            layer: {name: array_record(array) for name, array in body.items()}
            for layer, body in begin.weights.items()
        }
        saved = SavedPredictor(
            chosen(self._session.config),
            self.columns,
            self.stream,
            self.snapshot(),
            start,
            None if begin.scaler is None else array_record(begin.scaler),
            self.last_update,
            self.last_score,
        )
        return encode(saved)

    @classmethod
    def from_bytes(cls, data: bytes, **settings: Any) -> Self:
        """Return the predictor in the bytes of `to_bytes`; settings and errors as in `load`."""
        return cls._restored(data, "the predictor", settings)

    @classmethod
    def _restored(cls, data: bytes, where: str, settings: Mapping[str, Any]) -> Self:
        saved, wanted = decode(data, where), dict(settings)
        if isinstance(wanted.get("features"), str):
            wanted["features"] = [wanted["features"]]
        config = config_of(saved, wanted, where)
        start: dict[str, Any] | None = None
        if saved.weights is not None:
            start = {
                layer: {name: record.array() for name, record in body.items()}
                for layer, body in saved.weights.items()
            }
        scaler = None if saved.scaler is None else saved.scaler.array()
        begin = warm_start(config, settings, warn)._replace(weights=start, scaler=scaler)
        made = cls._of(Start(begin, saved.columns, saved.stream))
        made.restore(saved.snapshot)
        made.last_update, made.last_score = saved.last_update, saved.last_score
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), self.to_bytes())

    # ---- many ticks -----------------------------------------------------------------------

    def replay(
        self,
        source: Any,
        *,
        time: str | None = None,
        time_unit: TimeUnit = "auto",
        skip_bad: bool = False,
    ) -> Replayed:
        """Take the rows of a table or a file, in their order, and return the results.

        source: a path of any file that `stream-lstm replay` reads; or an Arrow table, batch or
        reader, a DataFrame of pandas or Polars, a LazyFrame, a mapping of names to arrays, or
        another argument of `pyarrow.table`. time: its column of times, or the name of its index in
        pandas; an index without a name is ignored, and the times of a file are found. time_unit:
        of numbers in it. skip_bad: skip rows with a cell that is not finite, or empty without a
        policy of `on_missing`.

        Afterwards `step`, `follow` and `replay` continue, to the same bits as if each tick had
        been a `step`. Warns (InputWarning) about rows that are old, unless `on_old_time` is `take`
        or `refuse`, and about features that the scaler clips. Raises DataError for an invalid
        table and for the first bad row; the predictor is then as it was before.
        """
        with _opened(self._start, source, time, time_unit, skip_bad) as rows:
            rows.begin()
            return self._replay(rows, skip_bad)

    def step_frame(
        self,
        frame: Any,
        *,
        time: str | None = None,
        time_unit: TimeUnit = "auto",
        skip_bad: bool = False,
    ) -> list[Prediction]:
        """Step over the rows of a table, such as those since the last call.

        The arguments and errors are those of `replay`. Returns the predictions that became due.
        """
        taken = _Taken(skip_bad)
        with _opened(self._start, frame, time, time_unit, skip_bad) as rows:
            self._take_rows(rows, taken)
        return taken.predictions.join().events()

    def _replay(self, rows: Rows, skip_bad: bool) -> Replayed:
        from ..store.output import table_of

        started, taken = clock.perf_counter(), _Taken(skip_bad)
        self._take_rows(rows, taken)
        predicted, scored = taken.predictions.join(), taken.scores.join()
        number = {n: k for k, n in enumerate(scored["n"].tolist())}
        at = np.array([number.get(n, -1) for n in predicted["n"].tolist()], np.int64)
        table = table_of(predicted, scored, at)
        if rows.time_type is not None:
            table = _with_times(table, rows.time_type)
        wall_s = clock.perf_counter() - started
        summary = self._session.read(
            lambda session: summarize(
                session, taken.digest, wall_s=wall_s, compile_s=self._compile_s
            )
        )
        return Replayed(table, summary, taken.skipped + rows.skipped(), self)

    def _take_rows(self, rows: Rows, taken: _Taken) -> None:
        """Take all rows, or none if one of them raises."""
        from ..feed.files import TimeOrder

        session, before = self._session, (self.snapshot(), self.last_update, self.last_score)
        lines, order = dict[str, None](), TimeOrder(enabled=self._watches_order)
        session.hand_to(deliver=taken.take)
        try:
            for block in rows.blocks:
                assert block.numbers is not None
                order.look(block.t_ns, block.values, block.numbers)
                for piece in block.pieces(PIECE if session.plain else LEARN_PIECE):
                    self._push(piece, rows, taken)
                    lines |= dict.fromkeys(session.read(self._clipping.check))
            session.hand_to(emit=self._take)
        except BaseException:
            session.hand_to(emit=self._take)
            self.restore(before[0])
            self.last_update, self.last_score = before[1:]
            self._old = None
            raise
        self.last_update = taken.last_update or self.last_update
        if len(taken.scores):
            (self.last_score,) = taken.scores.join().take(np.array([-1])).events()
        if line := order.warning(rows.where(order.first)):
            lines[line] = None
            self._watch_order(False)
        for line in lines:
            warn(line)
        if self._old is not None:
            self._warn(self._old)

    def _push(self, piece: ReplayRows, rows: Rows, taken: _Taken) -> None:
        numbers = piece.numbers
        assert numbers is not None
        taken.where = lambda index: rows.where(int(numbers[index]))
        ticks = Ticks(self.stream, piece.t_ns, piece.values, seq=0)
        send(cast("Session", self._session), ticks)
        self._session.catch_up()
        if taken.error is not None:
            raise taken.error

    # ---- a live feed ----------------------------------------------------------------------

    async def follow(
        self,
        endpoint: str | Sequence[str],
        stream: str | None = None,
        *,
        security: Security | None = None,
        **feed: Any,
    ) -> AsyncIterator[Prediction]:
        """Step over the ticks of a live feed, and yield each prediction.

        endpoint: the ZeroMQ endpoint of a publisher, or several. stream: its stream; None for a
        feed of one stream. security: keys, if any. feed: any key of the configuration's table
        feed, such as `payload="json"` or the `columns` of a feed that has more than the features.

        Ends with the stream. Its sockets are closed when it ends, when its task is cancelled, and
        after a `break`; `contextlib.aclosing` closes them before the next line. Gaps and restarts
        of the publisher count as in the daemon, see `on_gap`. A refused tick warns (InputWarning).

        Raises ConfigurationError for an invalid key, EndpointError for an endpoint that cannot be
        connected to, and DataError for a feed of several streams if none is named.
        """
        known, columns = 0, tuple(feed.get("columns", self.columns))
        places = self._places(columns)
        with self._subscriber(endpoint, stream, security, {**feed, "columns": columns}) as events:
            async for event in events:
                if isinstance(event, Refusal):
                    warn(f"{event.where or endpoint}: {event.reason}")
                    continue
                stream = _same(stream, event.stream)
                if isinstance(event, End):
                    return
                if isinstance(event, SessionStart):
                    known += 1  # the first one begins the feed, and interrupts nothing
                if not isinstance(event, Ticks | Run):
                    self._take_event(event, restarted=known > 1)
                    continue
                for t_ns, row in _each(event):
                    try:
                        prediction = self.step(cast("Any", [row[place] for place in places]), t_ns)
                    except DataError as error:
                        warn(f"{event.where or endpoint}: {error}")
                        continue
                    if prediction is not None:
                        yield prediction

    def _places(self, columns: Sequence[str]) -> list[int]:
        """Return where the columns of the predictor are among those of a feed."""
        for name in self.columns:
            if name not in columns:
                raise ConfigurationError(
                    f"columns = {list(columns)!r}: the features use {name!r}", key="columns"
                )
        return [columns.index(name) for name in self.columns]

    def _subscriber(
        self,
        endpoint: str | Sequence[str],
        stream: str | None,
        security: Security | None,
        feed: Mapping[str, Any],
    ) -> Subscriber:
        from ..feed.subscriber import Subscriber

        connect = [endpoint] if isinstance(endpoint, str) else list(endpoint)
        streams = [] if stream is None else [stream]
        config = build({"connect": connect, "streams": streams, **feed}).feed
        return Subscriber(config, optional=self._optional, security=security)

    def _take_event(self, event: Input | Takeover, *, restarted: bool) -> None:
        """Take what a feed sends besides ticks."""
        if isinstance(event, Gap):
            self._session.gap(Gap(self.stream, event.seq, event.missed))
        elif isinstance(event, SessionStart) and restarted:
            self._session.session_start(SessionStart(self.stream, event.session))
        elif isinstance(event, Label) and self._session.config.stream.labels == "external":
            try:
                self.learn(event.y, event.n)
            except DataError as error:
                warn(str(error))


def _each(ticks: Ticks | Run) -> Iterator[tuple[int, Sequence[float | None]]]:
    if isinstance(ticks, Run):
        return zip(ticks.times, ticks.rows, strict=True)
    return zip(ticks.t_ns.tolist(), ticks.values.tolist(), strict=True)


def _same(known: str | None, stream: str) -> str:
    """Return the stream of a feed; DataError for a second one."""
    if known is not None and stream != known:
        raise DataError(
            f"the feed has the streams {known} and {stream}: follow one, with stream={known!r}"
        )
    return stream


def _unpickled(kind: type[Predictor], data: bytes) -> Predictor:
    return kind.from_bytes(data)


# ---- starts -----------------------------------------------------------------------------------


def start_of(
    features: Sequence[str] | str,
    columns: Sequence[str] | str | None,
    weights: Weights | str | os.PathLike[str] | None,
    scaler: npt.ArrayLike | None,
    stream: str,
    settings: Mapping[str, Any],
) -> Start:
    """Return what a predictor is made from; nothing is compiled. Raises as `Predictor`."""
    named = [features] if isinstance(features, str) else list(features)
    given = [columns] if isinstance(columns, str) else columns
    chosen = {k: v.item() if isinstance(v, np.generic) else v for k, v in settings.items()}
    if isinstance(weights, str | os.PathLike):
        chosen["weights"], weights = os.fspath(weights), None
    elif weights is not None and not isinstance(weights, Mapping):
        raise ConfigurationError(
            f"weights must be a mapping of layers to kernels, or the path of a file, not "
            f"{type(weights).__name__}",
            key="weights",
        )
    config = build({"features": named, **chosen})
    begin = warm_start(config, {"features", *settings}, warn)
    if weights is not None:
        begin = begin._replace(weights=dict(weights))
    if scaler is not None:
        begin = begin._replace(scaler=np.asarray(scaler))
    return Start(begin, tuple(given or columns_of(named)), stream)


@contextmanager
def _opened(
    start: Start, source: Any, time: str | None, time_unit: TimeUnit, skip_bad: bool
) -> Iterator[Rows]:
    from .frames import open_rows

    optional = optional_columns(start.begin.config.stream, start.columns)
    with open_rows(
        source, start.columns, optional, time=time, time_unit=time_unit, skip_bad=skip_bad
    ) as rows:
        yield rows


# ---- results ----------------------------------------------------------------------------------


class _Taken:
    """Gathers the outcomes of many ticks.

    where: names a row by its index in the present piece. Attributes: `error`, of the first row
    that ends the replay; `skipped`, the number of refused rows.
    """

    def __init__(self, skip_bad: bool) -> None:
        self.predictions, self.scores = Gathered(Prediction), Gathered(Score)
        self.digest, self.skipped = Digest(), 0
        self.last_update: Update | None = None
        self.error: DataError | None = None
        self.where: Callable[[int], str] = str
        self._skip_bad = skip_bad

    def take(self, outcome: Outcome) -> None:
        """Take an outcome of the session."""
        self.predictions.extend(outcome.predictions)
        self.scores.extend(outcome.scores)
        self.digest.add_batch(outcome.predictions)
        for event in outcome.others:
            if isinstance(event, Update):
                self.last_update = event
            elif isinstance(event, Refusal):
                self.skipped += 1
                if not self._skip_bad and self.error is None:
                    why = f"{event.reason}; skip_bad=True skips it"
                    self.error = DataError(f"{self.where(event.index)}: {why}")


def _with_times(table: pa.Table, kind: pa.DataType) -> pa.Table:
    """Return the table with a column `time`, empty where the time is unknown."""
    import pyarrow as pa

    t_ns = table["t_ns"].to_numpy()
    times = pa.array(t_ns, mask=t_ns == NO_TIME).cast(pa.timestamp("ns", "UTC"))
    return table.append_column("time", times.cast(kind))


def replay_frame(
    frame: Any,
    features: str | Sequence[str],
    *,
    time: str | None = None,
    time_unit: TimeUnit = "auto",
    stream: str = STREAM,
    skip_bad: bool = False,
    weights: Weights | str | os.PathLike[str] | None = None,
    scaler: npt.ArrayLike | None = None,
    **settings: Any,
) -> Replayed:
    """Run the rows of a table or a file through a new predictor, and return the results.

    frame, time, time_unit, skip_bad: as in `Predictor.replay`. features: expressions over its
    columns, the first being the target. stream, weights, scaler, settings: as in `Predictor`.

    The predictions are those of `stream-lstm replay` of the same rows, to the last bit, and the
    digest is the same if `stream` is the name of the file without its suffix. The `predictor` of
    the result continues after the last row. Raises ConfigurationError for an invalid setting,
    feature or column, and the errors of `Predictor.replay`; most before it compiles.
    """
    start = start_of(features, None, weights, scaler, stream, settings)
    with _opened(start, frame, time, time_unit, skip_bad) as rows:
        rows.begin()
        return Predictor._of(start)._replay(rows, skip_bad)
