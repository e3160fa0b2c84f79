"""`stream-lstm bridge`: a WebSocket as a feed for `stream-lstm run`."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__
from ..errors import DataError, UsageError
from ..schema import Encoding
from .input_file import JsonOption, one_of
from .options import configured
from .peers import PERIOD_S, PeerLog, print_refused_peers
from .process import say, say_json, warn
from .publish import RING, EncodingOption, RecoveryOption, RingOption
from .settings import Settings, split_list

if TYPE_CHECKING:
    from ..feed.publisher import Publisher
    from ..interop.websocket_bridge import WebSocketSource
    from ..serve.signals import StopSwitch


@configured(("security",))
def command(
    url: Annotated[str, typer.Argument(help="What to connect to, ws:// or wss://.")],
    columns: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="Fields with the values of a tick, in order; data.bid is the field bid of the "
            "object data.",
        ),
    ],
    bind: Annotated[
        str, typer.Option(metavar="ENDPOINT", help="ZeroMQ endpoint to publish at.")
    ] = "tcp://127.0.0.1:5555",
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
            help="Connect anew where nothing comes for S seconds; until something does, "
            "the daemon sees a silent feed.",
            show_default="never",
        ),
    ] = None,
    encoding: EncodingOption = "msgpack",
    recovery: RecoveryOption = None,
    ring: RingOption = RING,
    as_json: JsonOption = False,
    *,
    settings: Settings,
) -> None:
    """Publish the JSON messages of a WebSocket as a feed, until its server is done or a signal.

    Example: stream-lstm bridge wss://feed.example/quotes --columns bid,ask --stream-field symbol
    """
    if not url.startswith(("ws://", "wss://")):
        raise UsageError(f"{url}: a WebSocket's address begins with ws:// or wss://")
    from ..feed.publisher import Publisher
    from ..feed.security import Security
    from ..interop.websocket_bridge import WebSocketSource
    from .sending import opening

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
        bind,
        columns=names,
        encoding=one_of("--encoding", encoding, Encoding),
        recovery=recovery,
        ring=ring,
        security=security,
    ) as publisher:
        warn(opening(url, publisher))
        interrupted = _carry(source, publisher)
        told: dict[str, Any] = {
            "version": __version__,
            "url": url,
            "session": publisher.session,
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
    if as_json:
        say_json(told)
    else:
        say(_sentence(told))
        print_refused_peers(told["refused_peers"])
    if source.refused and not source.ticks:
        raise DataError(f"no message of {url} held a tick; the last: {source.last_refusal}")


def _sentence(told: dict[str, Any]) -> str:
    cut = ", stopped by a signal" if told["interrupted"] else ""
    ticks, refused = told["ticks"], told["refused_messages"]
    return f"{ticks:,} ticks, {refused:,} messages refused{cut}"


def _carry(source: WebSocketSource, publisher: Publisher) -> bool:
    """Publish until the source ends, or a signal comes; return whether one did."""
    from ..serve.signals import StopSwitch, stop_on_signals

    with StopSwitch() as stop, stop_on_signals(stop):
        asyncio.run(_until(stop, source, publisher))
        if stop.requested:
            publisher.end()
        return stop.requested


async def _until(stop: StopSwitch, source: WebSocketSource, publisher: Publisher) -> None:
    from ..feed.bridge import bridge

    carrying = asyncio.ensure_future(bridge(source, publisher))
    telling = asyncio.ensure_future(_tell(PeerLog(publisher.security, warn)))

    def look() -> None:
        if stop.requested:
            carrying.cancel()

    asyncio.get_running_loop().add_reader(stop.fileno(), look)
    try:
        await carrying
    except asyncio.CancelledError:
        if not stop.requested:
            raise
    finally:
        telling.cancel()
        asyncio.get_running_loop().remove_reader(stop.fileno())


async def _tell(peers: PeerLog) -> None:
    """Say now and then who was refused."""
    while True:
        await asyncio.sleep(PERIOD_S)
        peers.tend()
