"""A session whose calls happen completely or not at all.

An interrupt, or an exception of the caller's own `emit`, can come between any two steps of a call
and leave a session between two states. So a call sets the mark `_open` before it changes anything
and clears it in its last step. A call that finds the mark set knows that the one before was
interrupted: it restores the session from its base, a frozen state, and repeats all calls since,
which lead to the same bits. Nothing happens while the exception passes, since a second one could
interrupt that too.

The mark can also mean that another thread is in a call, or that a callback calls the session that
called it. The stacks of the threads tell these cases apart.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from ..closing import call_in_child
from ..errors import UsageError
from ..events import Gap, Label, OldTimes, SessionStart, Ticks
from ..model.forecaster import Params
from ..model.runtime import check_forked
from .columnar import Arrivals
from .outcome import Deliver, Emit
from .session import Session
from .snapshot import Frozen, freeze, join, restore
from .stream import Streams

T = TypeVar("T")

REBASE_EVERY = 2048
"""Elements between two bases of a session with few streams: repeating as many takes tens of
milliseconds without learning."""

REBASE_PER_STREAM = 64
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
    """A state to restore, what a snapshot of it does not contain, and the calls since."""

    state: Frozen
    stray_labels: int
    refused_by_feature: Counter[str]
    calls: list[tuple[Callable[..., object], tuple[Any, ...]]]


class AtomicSession:
    """A `Session` for callers that continue after an exception, see the module and `Session`.

    The arguments are those of `Session`. echo: whether `emit`, `deliver` and `publish` also get
    the output of repeated calls. An exception that passes through a call has a note that says
    whether the call took effect. Every other attribute is that of the `Session`, such as `config`,
    `columns` and `scores`.

    Raises UsageError if a second thread calls while the first is in a call, for a call from one of
    the session's own callbacks, and in a forked child.
    """

    def __init__(self, *arguments: Any, echo: bool = False, **options: Any) -> None:
        self._session = Session(*arguments, **options)
        self._echo = echo
        self._open = False
        self._callbacks: tuple[Any, ...] | None = None
        self._rebase()
        _sessions.add(self)

    # ---- calls that change the state --------------------------------------------------

    def tick(
        self,
        name: str,
        t_ns: int,
        values: Sequence[float | None],
        run_id: str = "",
        seq: int | None = None,
        where: str = "",
    ) -> int:
        """Take one tick of one stream; see `Session.tick`."""
        return self._call(_tick, name, t_ns, tuple(values), run_id, seq, where)

    def push(self, ticks: Ticks) -> int:
        """Take a block of ticks of one stream; see `Session.push`."""
        own = Ticks(
            ticks.stream, ticks.t_ns.copy(), ticks.values.copy(), ticks.session, ticks.seq,
            ticks.where,
        )  # fmt: skip
        return self._call(_push, own, size=len(own.t_ns))

    def arrive(self, arrivals: Arrivals) -> None:
        """Take ticks of any streams; see `Session.arrive`."""
        own = msgspec.structs.replace(
            arrivals,
            streams=arrivals.streams.copy(),
            t_ns=arrivals.t_ns.copy(),
            values=arrivals.values.copy(),
        )
        self._call(_arrive, own, size=len(own.streams))

    def place(self, name: str) -> int:
        """Return the row of a stream, opening it if it is new; see `Session.place`."""
        return self._call(_place, name)

    def label(self, label: Label) -> None:
        """Take the external label of a published prediction; see `Session.label`."""
        self._call(_label, label)

    def settle(self) -> None:
        """Settle labels that may still be revised; see `Session.settle`."""
        self._call(_settle)

    def gap(self, gap: Gap) -> None:
        """Take lost ticks into account; see `Session.gap`."""
        self._call(_gap, gap)

    def session_start(self, start: SessionStart) -> None:
        """Take a publisher's restart into account; see `Session.session_start`."""
        self._call(_session_start, start)

    def set_weights(self, name: str, weights: Mapping[str, Mapping[str, Any]]) -> None:
        """Give a stream its own weights; see `Session.set_weights`."""
        own = {
            layer: {key: np.array(value) for key, value in part.items()}
            for layer, part in weights.items()
        }
        self._call(_set_weights, name, own)

    def restore(self, data: bytes) -> None:
        """Continue from a `snapshot` of a session with the same settings and columns.

        Raises SnapshotError if the bytes are damaged or belong to other settings.
        """
        self._call(restore, bytes(data))

    # ---- calls that leave it ----------------------------------------------------------

    def snapshot(self) -> bytes:
        """Return the whole state as bytes; the session continues."""
        return self.read(lambda session: join(freeze(session)))

    @property
    def streams(self) -> Streams:
        """The streams by name, with all queued ticks stepped."""
        return self.read(lambda session: session.streams)

    def look(self) -> None:
        """Step all queued ticks and score all labels; see `Session.look`."""
        self.read(Session.look)

    def catch_up(self) -> None:
        """Step over all queued ticks; see `Session.catch_up`."""
        self.read(Session.catch_up)

    def weights_for(self, name: str) -> Params:
        """Return copies of the weights that a stream uses."""
        return self.read(lambda session: session.weights_for(name))

    def on_old_ticks(self, listener: Callable[[OldTimes], object] | None) -> None:
        """Report old ticks to a listener; see `Session.on_old`."""
        self.read(lambda session: setattr(session, "on_old", listener))

    def hand_to(self, *, emit: Emit | None = None, deliver: Deliver | None = None) -> None:
        """Hand the output from now on to other callers; see `Session`."""

        def turn(session: Session) -> None:
            session.emit, session.deliver = emit, deliver

        self.read(Session.catch_up)  # to the callers until now
        self.read(turn)

    def read(self, function: Callable[[Session], T]) -> T:
        """Return what a function reads from the session; it must not change the state."""
        if self._open:
            self._prepare()
        self._open = True
        try:
            out = function(self._session)
            self._open = False
        except BaseException as error:
            error.add_note(BEFORE)
            raise
        return out

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        if self._open and not _is_in_use(self):  # a callback may read from its caller
            self._prepare()
        return getattr(self._session, name)

    # ---- recovery ---------------------------------------------------------------------

    def _call(self, method: Callable[..., T], *arguments: Any, size: int = 1) -> T:
        """Make a call that takes `size` elements."""
        if self._open or self._left <= 0:
            self._prepare()
        call, calls = (method, arguments), self._base.calls
        self._open = True
        try:
            out = method(self._session, *arguments)
            calls.append(call)
            self._left -= size
            self._open = False
        except BaseException as error:
            error.add_note(AFTER if calls and calls[-1] is call else BEFORE)
            raise
        return out

    def _prepare(self) -> None:
        """Recover from an interrupted call, and take a new base if one is due."""
        check_forked()
        if self._open:
            if _is_in_use(self):
                raise UsageError(IN_USE)
            self._recover()
        if self._left <= 0:
            self._open = True
            self._rebase()
            self._open = False

    def _rebase(self) -> None:
        session = self._session
        base = _Base(freeze(session), session.stray_labels, session.refused_by_feature.copy(), [])
        left = REBASE_EVERY + REBASE_PER_STREAM * len(session.table)
        # An exception between these lines is harmless: a call goes to the base that it follows.
        self._base = base
        self._left = left

    @property
    def repeating(self) -> bool:
        """Whether calls are being repeated, whose output was handed over before."""
        return self._callbacks is not None

    def _recover(self) -> None:
        """Restore the state after the last call that took effect; may be interrupted itself."""
        session, base = self._session, self._base
        if self._callbacks is None:
            self._callbacks = session.emit, session.deliver, session.publish, session.on_old
        session.on_old = None
        if not self._echo:
            session.emit = session.deliver = session.publish = None
        restore(session, join(base.state))
        session.stray_labels = base.stray_labels
        session.refused_by_feature = base.refused_by_feature.copy()
        for method, arguments in base.calls:
            method(session, *arguments)
        session.emit, session.deliver, session.publish, session.on_old = self._callbacks
        self._callbacks = None
        self._open = False


_tick, _push, _arrive, _place = Session.tick, Session.push, Session.arrive, Session.place
_label, _settle, _gap = Session.label, Session.settle, Session.gap
_session_start, _set_weights = Session.session_start, Session.set_weights

_CALLS: frozenset[CodeType] = frozenset(
    method.__code__ for method in (AtomicSession._call, AtomicSession.read)
)
"""The functions in which a session is in a call."""


def _is_in_use(session: AtomicSession) -> bool:
    """Return whether a call other than the present one is in progress.

    The present call, or what reads an attribute, is two frames up.
    """
    present = sys._getframe(2)
    for frame in sys._current_frames().values():
        at: FrameType | None = frame
        while at is not None:
            if at.f_code in _CALLS and at is not present and at.f_locals.get("self") is session:
                return True
            at = at.f_back
    return False


_sessions: weakref.WeakSet[AtomicSession] = weakref.WeakSet()


def _close_in_child() -> None:
    """Let the next call of every session check whether this process is a forked one."""
    for session in list(_sessions):
        session._open = True


call_in_child(_close_in_child)
