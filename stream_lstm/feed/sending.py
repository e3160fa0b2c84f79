"""Send a file as a live feed, at the pace of its recording or at a chosen speed.

A record with several ticks is sent when the last of them is due, so nothing is early. Between two
records the sender waits for the next time or for a signal; the publisher sends its heartbeats by
itself.

`python -m stream_lstm.feed.sending JSON` is the feed of `stream-lstm prove live`: it binds a free
port, prints the endpoint as its only line, waits for a subscriber, sends the file at full speed,
one tick a record, sends END and exits. It also exits when its standard input is closed.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from .. import __version__
from ..errors import DataError, EndpointError, StreamLSTMError
from ..quoting import printable
from ..schema import Encoding
from ..serve.logs import EventLog
from ..serve.service import PERIOD_S, PeerLog, refused_peers
from ..serve.signals import StopSwitch, stop_on_signals
from .child import ChildProcess
from .demo_feed import leave_with_parent
from .input_file import InputFile, Progress, SyntheticInput, check_order, no_progress
from .pace import Pacer, Speed
from .publisher import LINGER_S, Publisher
from .recovery_server import RING_TICKS

if TYPE_CHECKING:
    from .files import FileSource
    from .security import Security

QUEUE_ROWS = 10_000
"""Rows that may wait for a slow subscriber before the file waits for it. The queue must still be
sent at the end: a subscriber that learns at 1,000 rows a second takes ten seconds for these."""

PACED_ROWS = 1024
"""Rows read at a time where ticks have times: a longer read would make some of them late."""

STAY_S = 0.1
"""Seconds between two checks for requests of lost ticks."""

WAIT_S = 120.0
"""Seconds that the feed of `prove live` waits for its subscriber, which compiles first."""

Warn = Callable[[str], object]


class Publication(msgspec.Struct, frozen=True):
    """What to publish, where and how; `columns` None publishes all numeric columns."""

    file: InputFile
    bind: str
    columns: tuple[str, ...] | None
    speed: Speed = Speed("max")
    block: int = 1
    encoding: Encoding = "msgpack"
    subscribers: int = 0
    wait_timeout_s: float = 30.0
    send_timeout_s: float = 30.0
    security: Security | None = None
    recovery: str | None = None
    ring: int = RING_TICKS


def send_file(
    publication: Publication,
    announce: Callable[[Publisher], object],
    *,
    warn: Warn,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Send a file's ticks and its end; return a record of what was sent.

    announce: takes the publisher once it is bound.

    Raises what opening the file, binding the endpoint, waiting for subscribers and sending
    raise.
    """
    file = publication.file
    refused = EventLog(warn, time.monotonic)
    options: dict[str, Any] = {} if publication.speed.kind == "max" else {"chunk_rows": PACED_ROWS}
    with (
        file.open(publication.columns, refused, **options) as source,
        Publisher(
            publication.bind,
            columns=source.value_columns,
            encoding=publication.encoding,
            send_hwm=max(1, QUEUE_ROWS // publication.block),
            send_timeout_s=publication.send_timeout_s,
            # the end of a file deserves as long a wait as any other part of it
            linger_s=publication.send_timeout_s,
            security=publication.security,
            recovery=publication.recovery,
            ring=publication.ring,
        ) as publisher,
    ):
        announce(publisher)
        times = (file.time or "").split(",")
        omitted = [
            n for n in source.columns if n not in (*source.value_columns, file.time, *times)
        ]
        if publication.columns is None and omitted:
            warn(f"columns without numbers are not published: {', '.join(omitted)}")
        if publication.subscribers:
            _wait(publication, publisher)
        start = time.monotonic()
        sender = Sender(publication, publisher, warn, progress)
        with StopSwitch() as stop, stop_on_signals(stop):
            sender.run(source, stop)
            sender.stay(stop)
        if sender.interrupted:
            publisher.linger_s = LINGER_S
        wall_s = time.monotonic() - start
        refused.flush()
        if not sender.had_subscribers:
            warn(
                "nobody was listening at the end: --wait-subscribers 1 waits for a subscriber "
                "before sending"
            )
        return {
            "version": __version__,
            "stream": file.stream,
            "session": publisher.run_id,
            "endpoint": publisher.endpoint,
            "recovery": publisher.recovery_endpoint,
            "columns": source.value_columns,
            "omitted_columns": omitted,
            "ticks": sender.ticks,
            "messages": sender.messages,
            "refused_ticks": source.rows_refused,
            "wall_s": wall_s,
            "refused_peers": publisher.security.counts(),
            "interrupted": sender.interrupted,
        }


def opening(what: str, publisher: Publisher) -> str:
    """Return a line that names what is published, and where."""
    lost = publisher.recovery_endpoint
    recovery = f", lost ticks at {lost}" if lost else ""
    return f"publishing {what} ({', '.join(publisher.columns)}) at {publisher.endpoint}{recovery}"


def _wait(publication: Publication, publisher: Publisher) -> None:
    """Wait for subscribers; a failure also names the peers that were refused."""
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
    """Sends the blocks of a file, each record at its time; counts `ticks` and `messages`."""

    def __init__(
        self, publication: Publication, publisher: Publisher, warn: Warn, progress: Progress
    ) -> None:
        self.ticks = 0
        self.messages = 0
        self.interrupted, self.had_subscribers = False, True
        self._publication = publication
        self._publisher = publisher
        self._warn, self._progress = warn, progress
        self._peers = PeerLog(publisher.security, warn)
        self._next_check = 0.0

    def run(self, source: FileSource, stop: StopSwitch) -> None:
        """Send until the file ends or `stop` is requested, and then END."""
        stream = self._publication.file.stream
        try:
            self._run(source, stop)
        except DataError:
            # subscribers must learn that the stream has ended, whatever the reason
            self._publisher.end(stream)
            raise
        # counted before the end, after which subscribers may leave
        self.had_subscribers = self._publisher.wait_for_subscribers(0, 0.0, stream=stream) > 0
        self._publisher.end(stream)

    def _run(self, source: FileSource, stop: StopSwitch) -> None:
        def idle() -> bool:
            self._check_peers()
            return stop.requested

        pacer = Pacer(
            self._publication.speed,
            clock=time.monotonic,
            nap=lambda seconds: _nap(stop, seconds),
            idle=idle,
        )
        file, step = self._publication.file, self._publication.block
        with check_order(file, self._warn) as order, self._progress(source, file.limit) as report:
            for block in source.blocks():
                order.look(block.t_ns, block.values, block.rows, block.keys)
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
        """Answer requests for lost ticks until there are no more or `stop` is requested."""
        patience_s = self._publication.send_timeout_s
        while not stop.requested and self._publisher.expects_requests(patience_s):
            self._check_peers()
            _nap(stop, STAY_S)

    def _check_peers(self) -> None:
        """Report from time to time which peers were refused."""
        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + PERIOD_S
            self._peers.tend()


def _nap(stop: StopSwitch, seconds: float) -> None:
    select.select([stop], [], [], seconds)


# ---- the feed of `prove live`, in a process of its own -------------------------------------


def file_feed(file: InputFile, columns: Sequence[str]) -> ChildProcess:
    """Start a process that publishes columns of a file; a context manager that ends it."""
    data = msgspec.json.encode((file, columns), enc_hook=str)
    return ChildProcess("stream_lstm.feed.sending", data.decode())


def main(text: str) -> None:
    """Publish what a line of JSON describes: [file, columns]."""
    file, columns = msgspec.json.decode(
        text,
        type=tuple[InputFile | SyntheticInput, tuple[str, ...]],
        dec_hook=lambda _, path: Path(path),
    )
    leave_with_parent()
    publication = Publication(
        file=file,
        bind="tcp://127.0.0.1:*",
        columns=columns,
        subscribers=1,
        wait_timeout_s=WAIT_S,
        send_timeout_s=WAIT_S,
    )
    try:
        send_file(publication, lambda publisher: _print(publisher.endpoint), warn=_print_error)
    except StreamLSTMError as error:
        _print_error(str(error))
        sys.exit(error.exit_code)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _print_error(line: str) -> None:
    sys.stderr.write(f"stream-lstm: {printable(line)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
