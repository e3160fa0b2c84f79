"""`stream-lstm publish` and `bridge`: a file, or a WebSocket, as a live feed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec
import typer

from .. import __version__
from ..errors import ConfigurationError, DataError, UsageError
from ..feed.input_file import look_over
from ..feed.pace import Speed, parse_speed
from ..schema import Declaration, Encoding
from .console import detail, file_progress, result, warn
from .options import FileOptions, JsonOption, PublisherOptions, one_of, options
from .settings import Settings

if TYPE_CHECKING:
    from ..feed.publisher import Publisher
    from ..interop.transports import MessageSource
    from ..serve.service import PeerLog
    from ..serve.signals import StopSwitch

FORM_KEYS = Declaration.__struct_fields__
"""Keys of a feed that describe its messages."""

MissingOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...",
        help="Columns of which a value may be missing: it is published as NaN, or null in JSON. "
        "* is all columns.",
        show_default="none",
    ),
]

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
    allow_missing: MissingOption = None,
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
    file, _ = look_over(
        source.input(), used=None if columns is None else _names(columns), warn=warn, detail=detail
    )
    publication = Publication(
        file=msgspec.structs.replace(file, optional=_names(allow_missing)),
        bind=sockets.bind,
        columns=None if columns is None else _names(columns),
        speed=_speed(speed, source.named_time),
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


def _names(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(name.strip() for name in text.split(","))


def _cut(record: dict[str, Any]) -> str:
    return ", stopped by a signal" if record["interrupted"] else ""


def _speed(text: str | None, time: str | None) -> Speed:
    if text is None:
        return Speed("max" if time is None else "recorded")
    speed = parse_speed(text)
    if speed.kind == "recorded" and time is None:
        raise UsageError(f"--speed {text} needs times: name their column with --time COLUMN")
    return speed


def _json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a bridge reads where neither a flag nor a file says it."""
    return {} if arguments.get("config") else {"payload": "json"}


@options("security", extra=FORM_KEYS, implied=_json)
def bridge(
    *,
    settings: Settings,
    url: Annotated[
        str,
        typer.Argument(
            help="ws://, wss://, kafka://HOST:PORT/TOPIC, mqtt(s)://HOST/FILTER, "
            "redis://HOST/STREAM, or tcp://HOST:PORT and udp://HOST:PORT for lines."
        ),
    ],
    subscribe: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Text to send to a WebSocket on connecting.")
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
    allow_missing: MissingOption = None,
    sockets: PublisherOptions,
    as_json: JsonOption = False,
) -> None:
    """Publish the messages of another transport as a feed, until the server ends it or a signal.

    Example: stream-lstm bridge wss://feed.example/quotes --columns bid,ask --stream-field symbol
    """
    from ..feed.publisher import Publisher
    from ..feed.security import Security, is_local
    from ..feed.sending import opening
    from ..interop.transports import MessageSource, transport_of
    from .results import peer_lines

    transport, feed = transport_of(url, subscribe), settings.config.feed
    if feed.payload in ("record", "auto"):
        raise UsageError("a bridge has to know the form of its messages: --payload json, text ...")
    if feed.payload in ("json", "msgpack") and not (feed.columns or feed.fields):
        raise UsageError("name the fields with the values of a tick in --columns")
    if url.startswith("udp://") and not (
        settings.config.security.insecure or is_local(url.replace("udp", "tcp", 1))
    ):
        raise UsageError(f"anybody could send to {url}: name 127.0.0.1, or use --insecure")
    if not feed.stream_name:
        name = "websocket" if url.startswith("ws") else url.partition(":")[0]
        feed = msgspec.structs.replace(feed, stream_name=name)
    security = Security(settings.config.security)
    optional = _names(allow_missing)
    source = MessageSource(
        url, transport, feed, optional=optional, silent_s=silent_after, say=warn
    )
    names = source.columns
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
            "skipped": dict(source.skipped),
            "connections": source.connections,
            "wall_s": time.monotonic() - began,
            "refused_peers": security.counts(),
            "interrupted": interrupted,
        }
    line = f"{source.ticks:,} ticks, {source.refused:,} messages refused{_cut(record)}"
    result(record, [line, *peer_lines(record["refused_peers"])], as_json=as_json)
    if source.refused and not source.ticks:
        raise DataError(f"no message of {url} contained a tick; the last: {source.last_refusal}")


def _forward(source: MessageSource, publisher: Publisher) -> bool:
    """Publish until the source ends or a signal comes; return whether one did."""
    from ..serve.signals import StopSwitch, stop_on_signals

    with StopSwitch() as stop, stop_on_signals(stop):
        # the default loop of Windows watches no sockets
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(_until(stop, source, publisher))
        if stop.requested:
            publisher.end()
        return stop.requested


async def _until(stop: StopSwitch, source: MessageSource, publisher: Publisher) -> None:
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
