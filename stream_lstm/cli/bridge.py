"""`stream-lstm bridge`: a WebSocket as a feed for `stream-lstm run`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from .settings import split_list


def command(
    url: Annotated[str, typer.Argument(help="What to connect to, ws:// or wss://.")],
    *,
    columns: Annotated[
        str, typer.Option(metavar="A,B,...", help="Names of the values in a message, in order.")
    ],
    bind: Annotated[
        str, typer.Option(help="ZeroMQ endpoint to publish at.")
    ] = "tcp://127.0.0.1:5555",
    stream_field: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the stream's name in a message.")
    ] = None,
    time_field: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the time in a message.")
    ] = None,
    subscribe: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Text to send on connecting.")
    ] = None,
) -> None:
    """Publish the JSON messages of a WebSocket as a feed.

    Example: stream-lstm bridge wss://feed.example/quotes --columns bid,ask --stream-field symbol
    """
    from ..feed.bridge import bridge
    from ..feed.publisher import Publisher
    from ..interop.websocket_bridge import WebSocketSource

    names = split_list(columns)
    source = WebSocketSource(
        url, names, stream_field=stream_field, time_field=time_field, subscribe=subscribe
    )
    with Publisher(bind, columns=names) as publisher:
        told = f"stream-lstm: publishing {url} ({', '.join(names)}) at {publisher.endpoint}"
        typer.echo(told, err=True)
        count = asyncio.run(bridge(source, publisher))
    typer.echo(f"{count:,} ticks, {source.refused:,} messages refused")
