"""A session each of whose calls happens wholly or not at all.

An interrupt, or an exception of the caller's own `emit`, can come between any two steps of a call,
and leaves a session between two states. So a call sets the mark `_open` before it changes anything
and clears it with its last step. A call that finds the mark set knows that the one before was
torn: it restores the session from its base, a frozen state, and makes all calls since then again,
which lead to the same bits. Nothing is done while the exception passes, since a second one could
tear that too.

A mark that is set can also mean that another thread is in a call, or that a callback calls the
session that it was called by. The stacks of the threads tell these cases apart.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from ..errors import UsageError
from ..events import Gap, Label, OldTimes, SessionStart, Ticks
from ..forks import call_in_child
from ..model.forecaster import Params
from ..model.runtime import check_forked
from .many import Arrivals
from .session import Session
from .snapshot import Frozen, freeze, join, restore
from .view import Streams

T = TypeVar("T")

MOST_AGAIN = 2048
"""Elements between two bases of a session with few streams: what is made again after an exception
takes tens of milliseconds without learning."""

AGAIN_PER_STREAM = 64
"""The same for each stream: a base costs some microseconds for each."""

BEFORE = "this call had no effect: the state is the one before it"
AFTER = "this call took effect: the state is the one after it"
"""Notes of an exception that passes through a call."""

IN_USE = (
    "the session is in a call already, of another thread or of the one that a callback was called "
    "by: call it from one thread at a time (hold a lock, or make one for each thread), and not "
    "from its own callbacks"
)


class _Base(NamedTuple):
    """Where a session is restored from: its state, and what a snapshot does not hold."""

    state: Frozen
    stray_labels: int
    calls: list[tuple[Callable[..., object], tuple[Any, ...]]]


class AtomicSession:
    """A `Session` for callers who go on after an exception; see the module and `Session`.

    The arguments are those of `Session`. echo: whether `emit`, `deliver` and `publish` hear again
    what calls that are made again bring; others do not. An exception that passes through a call
    has a note that says whether the call took effect.

    Every other attribute is that of the session inside, such as `config`, `columns` and `scores`.

    Raises UsageError where a second thread calls while the first is in a call, for a call from
    one of the session's own callbacks, and in a forked child.
    """

    def __init__(self, *arguments: Any, echo: bool = False, **more: Any) -> None:
        self._plain = Session(*arguments, **more)
        self._echo = echo
        self._open = False
        self._listeners: tuple[Any, ...] | None = None
        self._rebase()
        _living.add(self)

    # ---- what moves the state ---------------------------------------------------------

    def tick(
        self,
        name: str,
        t_ns: int,
        values: Sequence[float | None],
        session: str = "",
        seq: int | None = None,
        where: str = "",
    ) -> int:
        """Take one tick of one stream; see `Session.tick`."""
        if self._open or self._left <= 0:
            self._enter()
        call = _tick, (name, t_ns, tuple(values), session, seq, where)
        self._open = True
        try:
            made = self._plain.tick(name, t_ns, values, session, seq, where)
            self._base.calls.append(call)
            self._left -= 1
            self._open = False
        except BaseException as error:
            self._tell(error, call)
            raise
        return made

    def push(self, ticks: Ticks) -> int:
        """Take a block of ticks of one stream; see `Session.push`."""
        kept = Ticks(
            ticks.stream, ticks.t_ns.copy(), ticks.values.copy(), ticks.session, ticks.seq,
            ticks.where,
        )  # fmt: skip
        return self._make(_push, kept, size=len(kept.t_ns))

    def arrive(self, arrivals: Arrivals) -> None:
        """Take ticks of any streams; see `Session.arrive`."""
        kept = msgspec.structs.replace(
            arrivals,
            streams=arrivals.streams.copy(),
            t_ns=arrivals.t_ns.copy(),
            values=arrivals.values.copy(),
        )
        self._make(_arrive, kept, size=len(kept.streams))

    def place(self, name: str) -> int:
        """Return the row of a stream, opened if it is new; see `Session.place`."""
        return self._make(_place, name)

    def label(self, label: Label) -> None:
        """Take the truth for a published prediction; see `Session.label`."""
        self._make(_label, label)

    def settle(self) -> None:
        """Let labels that may be revised count now; see `Session.settle`."""
        self._make(_settle)

    def gap(self, gap: Gap) -> None:
        """Take notice of lost ticks; see `Session.gap`."""
        self._make(_gap, gap)

    def session_start(self, start: SessionStart) -> None:
        """Take notice of a publisher's restart; see `Session.session_start`."""
        self._make(_session_start, start)

    def set_weights(self, name: str, weights: Mapping[str, Mapping[str, Any]]) -> None:
        """Give a stream weights of its own; see `Session.set_weights`."""
        kept = {
            layer: {key: np.array(value) for key, value in part.items()}
            for layer, part in weights.items()
        }
        self._make(_set_weights, name, kept)

    def restore(self, data: bytes) -> None:
        """Continue from a `snapshot` of a session with the same settings and columns.

        Raises SnapshotError where the bytes are damaged or belong to other settings.
        """
        self._make(_restore, bytes(data))

    # ---- what looks at it -------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Return the whole state as bytes; the session continues."""
        return self._look(lambda session: join(freeze(session)))

    @property
    def streams(self) -> Streams:
        """The streams by name, as they are now."""
        return self._look(lambda session: session.streams)

    def look(self) -> None:
        """Step and score all that waits; see `Session.look`."""
        self._look(Session.look)

    def catch_up(self) -> None:
        """Step over all ticks that wait; see `Session.catch_up`."""
        self._look(Session.catch_up)

    def weights_for(self, name: str) -> Params:
        """Return copies of the weights that a stream uses."""
        return self._look(lambda session: session.weights_for(name))

    def hear_old(self, listener: Callable[[OldTimes], object] | None) -> None:
        """Have old ticks reported to a listener; see `Session.on_old`."""
        self._look(lambda session: setattr(session, "on_old", listener))

    def reading(self, read: Callable[[Session], T]) -> T:
        """Return what a function reads of the session inside, whose state it leaves."""
        return self._look(read)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        if self._open and not _is_in_use(self):  # a callback may look at what called it
            self._enter()
        return getattr(self._plain, name)

    # ---- how --------------------------------------------------------------------------

    def _make(self, method: Callable[..., T], *arguments: Any, size: int = 1) -> T:
        """Make a call that moves the state by `size` elements."""
        if self._open or self._left <= 0:
            self._enter()
        call = method, arguments
        self._open = True
        try:
            out = method(self._plain, *arguments)
            self._base.calls.append(call)
            self._left -= size
            self._open = False
        except BaseException as error:
            self._tell(error, call)
            raise
        return out

    def _look(self, read: Callable[[Session], T]) -> T:
        """Make a call that leaves the state the same, though it may step over ticks that wait."""
        if self._open:
            self._enter()
        self._open = True
        try:
            out = read(self._plain)
            self._open = False
        except BaseException as error:
            error.add_note(BEFORE)
            raise
        return out

    def _tell(self, error: BaseException, call: object) -> None:
        calls = self._base.calls
        made = bool(calls) and calls[-1] is call
        error.add_note(AFTER if made else BEFORE)

    def _enter(self) -> None:
        """Prepare a call where something is to be done before it."""
        check_forked()
        if self._open:
            if _is_in_use(self):
                raise UsageError(IN_USE)
            self._mend()
        if self._left <= 0:
            self._open = True
            self._rebase()
            self._open = False

    def _rebase(self) -> None:
        session = self._plain
        base = _Base(freeze(session), session.stray_labels, [])
        left = MOST_AGAIN + AGAIN_PER_STREAM * len(session.table)
        # Calls go to the list of the base that they follow, whatever tears these lines.
        self._base = base
        self._left = left

    @property
    def mending(self) -> bool:
        """Whether calls are made again, whose events were heard before."""
        return self._listeners is not None

    def _mend(self) -> None:
        """Restore the state after the last call that took effect; may be torn itself."""
        session, base = self._plain, self._base
        if self._listeners is None:
            self._listeners = session.emit, session.deliver, session.publish, session.on_old
        session.on_old = None
        if not self._echo:
            session.emit = session.deliver = session.publish = None
        restore(session, join(base.state))
        session.stray_labels = base.stray_labels
        for method, arguments in base.calls:
            method(session, *arguments)
        session.emit, session.deliver, session.publish, session.on_old = self._listeners
        self._listeners = None
        self._open = False


_tick, _push, _arrive, _place = Session.tick, Session.push, Session.arrive, Session.place
_label, _settle, _gap = Session.label, Session.settle, Session.gap
_session_start, _set_weights, _restore = Session.session_start, Session.set_weights, restore

_CALLS: frozenset[CodeType] = frozenset(
    method.__code__ for method in (AtomicSession.tick, AtomicSession._make, AtomicSession._look)
)
"""The functions in which a session is in a call."""


def _is_in_use(session: AtomicSession) -> bool:
    """Return whether a call that is not the present one is in progress.

    To be asked from a function that the present call has called.
    """
    present = sys._getframe(2)  # the call that asks, or what reads an attribute
    for frame in sys._current_frames().values():
        at: FrameType | None = frame
        while at is not None:
            if at.f_code in _CALLS and at is not present and at.f_locals.get("self") is session:
                return True
            at = at.f_back
    return False


_living: weakref.WeakSet[AtomicSession] = weakref.WeakSet()


def _close_in_child() -> None:
    """Have the next call of every session look whether this process is a forked one."""
    for session in list(_living):
        session._open = True


call_in_child(_close_in_child)
