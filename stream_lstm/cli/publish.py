"""`stream-lstm publish` and `bridge`: a file, or a WebSocket, as a live feed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__
from ..errors import ConfigurationError, DataError, UsageError
from ..feed.pace import Speed, parse_speed
from ..schema import Encoding
from .console import file_progress, result, warn
from .options import FileOptions, JsonOption, PublisherOptions, one_of, options
from .settings import Settings, split_list

if TYPE_CHECKING:
    from ..feed.publisher import Publisher
    from ..interop.websocket_bridge import WebSocketSource
    from ..serve.service import PeerLog
    from ..serve.signals import StopSwitch

MAX_BLOCK = 65_536
"""Ticks in one record, as `feed.protocol.MAX_BLOCK_ROWS`."""


@options("security")
def publish(
    *,
    settings: Settings,
    source: FileOptions,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...", help="The values of a tick.", show_default="all numeric columns"
        ),
    ] = None,
    speed: Annotated[
        str | None,
        typer.Option(
            metavar="recorded|max|10x|5000/s",
            help="The pace, in recorded time or ticks a second.",
            show_default="recorded with --time, or else max",
        ),
    ] = None,
    wait_subscribers: Annotated[
        int, typer.Option(min=0, metavar="N", help="Wait until this many have subscribed.")
    ] = 0,
    wait_timeout: Annotated[
        float, typer.Option(min=0, metavar="S", help="Give up waiting for them after S seconds.")
    ] = 30.0,
    send_timeout: Annotated[
        float,
        typer.Option(
            min=0.001, metavar="S", help="Give up if a subscriber reads nothing for S seconds."
        ),
    ] = 30.0,
    block: Annotated[
        int, typer.Option(min=1, max=MAX_BLOCK, metavar="N", help="Ticks in one record.")
    ] = 1,
    sockets: PublisherOptions,
    as_json: JsonOption = False,
) -> None:
    """Publish a historical file or a synthetic stream as a live feed, with its end.

    Example: stream-lstm publish quotes.csv.gz --columns bid,ask --time time_ns --speed 10x
    """
    from ..feed.security import Security
    from ..feed.sending import Publication, opening, send_file
    from .results import peer_lines

    security = Security(settings.config.security)
    security.check_bind(sockets.bind)
    if sockets.recovery is not None:
        security.check_bind(sockets.recovery)
    publication = Publication(
        file=source.input(),
        bind=sockets.bind,
        columns=None if columns is None else tuple(name.strip() for name in columns.split(",")),
        speed=_speed(speed, source.time),
        block=block,
        encoding=one_of("--encoding", sockets.encoding, Encoding),
        subscribers=wait_subscribers,
        wait_timeout_s=wait_timeout,
        send_timeout_s=send_timeout,
        security=security,
        recovery=sockets.recovery,
        ring=sockets.ring,
    )
    try:
        sent = send_file(
            publication,
            lambda publisher: warn(opening(publication.file.stream, publisher)),
            warn=warn,
            progress=file_progress,
        )
    except ConfigurationError as error:
        # flags alone configure this command; the reader of the file cannot know that
        raise UsageError(*error.lines) from None
    rate = sent["ticks"] / sent["wall_s"] if sent["wall_s"] else 0.0
    line = (
        f"{sent['stream']}: {sent['ticks']:,} ticks sent in {sent['wall_s']:.2f} s "
        f"({rate:,.0f} a second){_cut(sent)}"
    )
    result(sent, [line, *peer_lines(sent["refused_peers"])], as_json=as_json)


def _cut(record: dict[str, Any]) -> str:
    return ", stopped by a signal" if record["interrupted"] else ""


def _speed(text: str | None, time: str | None) -> Speed:
    if text is None:
        return Speed("max" if time is None else "recorded")
    speed = parse_speed(text)
    if speed.kind == "recorded" and time is None:
        raise UsageError(f"--speed {text} needs times: name their column with --time COLUMN")
    return speed


@options("security")
def bridge(
    *,
    settings: Settings,
    url: Annotated[str, typer.Argument(help="Address to connect to, ws:// or wss://.")],
    columns: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="Fields with the values of a tick, in order; data.bid is the field bid of the "
            "object data.",
        ),
    ],
    stream_field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Field that names the stream of a message; EUR/USD becomes EUR-USD.",
            show_default="all are of the stream websocket",
        ),
    ] = None,
    time_field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Field with the time: ISO 8601, or a number of s, ms, us or ns since 1970.",
            show_default="ticks have no times",
        ),
    ] = None,
    subscribe: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Text to send on connecting.")
    ] = None,
    silent_after: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="S",
            help="Reconnect after S seconds without a message; until one comes, the daemon sees "
            "a silent feed.",
            show_default="never",
        ),
    ] = None,
    sockets: PublisherOptions,
    as_json: JsonOption = False,
) -> None:
    """Publish the JSON messages of a WebSocket as a feed, until the server ends it or a signal.

    Example: stream-lstm bridge wss://feed.example/quotes --columns bid,ask --stream-field symbol
    """
    if not url.startswith(("ws://", "wss://")):
        raise UsageError(f"{url}: a WebSocket's address begins with ws:// or wss://")
    from ..feed.publisher import Publisher
    from ..feed.security import Security
    from ..feed.sending import opening
    from ..interop.websocket_bridge import WebSocketSource
    from .results import peer_lines

    security = Security(settings.config.security)
    names = split_list(columns)
    source = WebSocketSource(
        url,
        names,
        stream_field=stream_field,
        time_field=time_field,
        subscribe=subscribe,
        silent_s=silent_after,
        say=warn,
    )
    began = time.monotonic()
    with Publisher(
        sockets.bind,
        columns=names,
        encoding=one_of("--encoding", sockets.encoding, Encoding),
        recovery=sockets.recovery,
        ring=sockets.ring,
        security=security,
    ) as publisher:
        warn(opening(url, publisher))
        interrupted = _forward(source, publisher)
        record: dict[str, Any] = {
            "version": __version__,
            "url": url,
            "session": publisher.run_id,
            "endpoint": publisher.endpoint,
            "recovery": publisher.recovery_endpoint,
            "columns": names,
            "ticks": source.ticks,
            "refused_messages": source.refused,
            "connections": source.connections,
            "wall_s": time.monotonic() - began,
            "refused_peers": security.counts(),
            "interrupted": interrupted,
        }
    line = f"{source.ticks:,} ticks, {source.refused:,} messages refused{_cut(record)}"
    result(record, [line, *peer_lines(record["refused_peers"])], as_json=as_json)
    if source.refused and not source.ticks:
        raise DataError(f"no message of {url} contained a tick; the last: {source.last_refusal}")


def _forward(source: WebSocketSource, publisher: Publisher) -> bool:
    """Publish until the source ends or a signal comes; return whether one did."""
    from ..serve.signals import StopSwitch, stop_on_signals

    with StopSwitch() as stop, stop_on_signals(stop):
        asyncio.run(_until(stop, source, publisher))
        if stop.requested:
            publisher.end()
        return stop.requested


async def _until(stop: StopSwitch, source: WebSocketSource, publisher: Publisher) -> None:
    from ..feed.bridge import bridge as forward
    from ..serve.service import PeerLog

    loop = asyncio.get_running_loop()
    forwarding = asyncio.ensure_future(forward(source, publisher))
    logging = asyncio.ensure_future(_log_peers(PeerLog(publisher.security, warn)))

    def check() -> None:
        if stop.requested:
            forwarding.cancel()

    loop.add_reader(stop.fileno(), check)
    try:
        await forwarding
    except asyncio.CancelledError:
        if not stop.requested:
            raise
    finally:
        logging.cancel()
        loop.remove_reader(stop.fileno())


async def _log_peers(peers: PeerLog) -> None:
    """Report once a second which peers were refused."""
    from ..serve.service import PERIOD_S

    while True:
        await asyncio.sleep(PERIOD_S)
        peers.tend()
