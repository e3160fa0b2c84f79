"""The sending of one file at its pace, for `stream-lstm publish`.

A record with several ticks goes out when the last of them is due: nothing is ever early. The
time between two records is spent waiting for the next one's time or for a signal, whichever is
first; the publisher sends its heartbeats by itself.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import DataError, EndpointError
from ..feed.pace import Pacer
from ..feed.publisher import LINGER_S, Publisher
from ..serve.logs import RefusalLog
from ..serve.signals import StopSwitch, stop_on_signals
from .peers import PERIOD_S, PeerLog, refused_peers
from .process import warn
from .progress import file_progress
from .row_order import row_order

if TYPE_CHECKING:
    from ..feed.files import FileSource
    from .publish import Publication


QUEUE_ROWS = 10_000
"""Rows that may wait for a slow subscriber before the file waits for it. What is queued at the end
must still leave: a subscriber that learns at 1,000 rows a second takes ten seconds for these."""

PACED_ROWS = 1024
"""Rows read at a time where ticks have their times: a longer read would make some of them late."""

STAY_S = 0.1
"""Between two looks whether somebody still asks for lost ticks."""


def send_file(
    publication: Publication, announce: Callable[[str], object] | None = None
) -> dict[str, Any]:
    """Send a file's ticks and its end; return what was sent.

    announce: takes the endpoint once it is bound, in the place of a line on standard error.

    Raises what opening the file, binding the endpoint, waiting for subscribers and sending
    raise.
    """
    file = publication.file
    refused = RefusalLog(warn, time.monotonic)
    options = {} if publication.speed.kind == "max" else {"chunk_rows": PACED_ROWS}
    with (
        file.open(publication.columns, refused, **options) as source,
        Publisher(
            publication.bind,
            columns=source.value_columns,
            encoding=publication.encoding,
            send_hwm=max(1, QUEUE_ROWS // publication.block),
            send_timeout_s=publication.send_timeout_s,
            # The end of a file is worth as long a wait as any other part of it.
            linger_s=publication.send_timeout_s,
            security=publication.security,
            recovery=publication.recovery,
            ring=publication.ring,
        ) as publisher,
    ):
        if announce is not None:
            announce(publisher.endpoint)
        else:
            warn(opening(file.stream, publisher))
        if publication.subscribers:
            _wait(publication, publisher)
        start = time.monotonic()
        sender = Sender(publication, publisher)
        with StopSwitch() as stop, stop_on_signals(stop):
            sender.run(source, stop)
            sender.stay(stop)
        if sender.interrupted:
            publisher.linger_s = LINGER_S
        wall_s = time.monotonic() - start
        refused.flush()
        if not sender.heard:
            warn("nobody was listening at the end: --wait-subscribers 1 waits for who is to come")
        return {
            "version": __version__,
            "stream": file.stream,
            "session": publisher.session,
            "endpoint": publisher.endpoint,
            "recovery": publisher.recovery_endpoint,
            "columns": source.value_columns,
            "ticks": sender.ticks,
            "messages": sender.messages,
            "refused_ticks": source.rows_refused,
            "wall_s": wall_s,
            "refused_peers": publisher.security.counts(),
            "interrupted": sender.interrupted,
        }


def opening(what: str, publisher: Publisher) -> str:
    """Return the line that says what is published, and where."""
    lost = publisher.recovery_endpoint
    asked = f", what is lost at {lost}" if lost else ""
    return f"publishing {what} ({', '.join(publisher.columns)}) at {publisher.endpoint}{asked}"


def _wait(publication: Publication, publisher: Publisher) -> None:
    """Wait for subscribers; who was refused is told of where they do not come."""
    try:
        publisher.wait_for_subscribers(
            publication.subscribers, publication.wait_timeout_s, stream=publication.file.stream
        )
    except EndpointError as error:
        refused = refused_peers(publisher.security.counts())
        raise EndpointError(
            f"{error}; peers refused: {refused}" if refused else str(error)
        ) from None


class Sender:
    """Sends the blocks of a file, each record at its time; `ticks` counts what was sent."""

    def __init__(self, publication: Publication, publisher: Publisher) -> None:
        self.ticks = 0
        self.messages = 0
        self.interrupted, self.heard = False, True
        self._publication = publication
        self._publisher = publisher
        self._peers = PeerLog(publisher.security, warn)
        self._look_at = 0.0

    def run(self, source: FileSource, stop: StopSwitch) -> None:
        """Send until the file ends or `stop` is requested, and then END."""
        stream = self._publication.file.stream
        try:
            self._run(source, stop)
        except DataError:
            # Subscribers are to know that no more will come, whatever the reason.
            self._publisher.end(stream)
            raise
        # asked for before the end, at which who listens may leave
        self.heard = self._publisher.wait_for_subscribers(0, 0.0, stream=stream) > 0
        self._publisher.end(stream)

    def _run(self, source: FileSource, stop: StopSwitch) -> None:
        def idle() -> bool:
            self._tend()
            return stop.requested

        pacer = Pacer(
            self._publication.speed,
            clock=time.monotonic,
            nap=lambda seconds: _nap(stop, seconds),
            idle=idle,
        )
        file, step = self._publication.file, self._publication.block
        with row_order(file) as look, file_progress(source, file.limit) as report:
            for block in source.blocks():
                look(block.t_ns, block.values, block.rows, block.keys)
                for start in range(0, len(block.values), step):
                    t_ns, values = (a[start : start + step] for a in (block.t_ns, block.values))
                    due = pacer.wait(self.ticks + len(t_ns) - 1, int(t_ns[-1]))
                    if not due or stop.requested:
                        self.interrupted = True
                        return
                    self._publisher.publish(file.stream, t_ns, values)
                    self.ticks += len(t_ns)
                    self.messages += 1
                    report(self.ticks)

    def stay(self, stop: StopSwitch) -> None:
        """Answer who still asks for lost ticks, until nobody does or `stop` is requested."""
        while not stop.requested and self._publisher.still_asked(self._publication.send_timeout_s):
            self._tend()
            _nap(stop, STAY_S)

    def _tend(self) -> None:
        """Report from time to time which peers were refused."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + PERIOD_S
            self._peers.tend()


def _nap(stop: StopSwitch, seconds: float) -> None:
    select.select([stop], [], [], seconds)
