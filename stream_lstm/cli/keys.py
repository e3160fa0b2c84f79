"""`stream-lstm keys`: CURVE keys for the sockets, in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigurationError
from .input_file import JsonOption
from .process import say, say_json


def command(
    folder: Annotated[
        Path,
        typer.Argument(help="Where the keys are to lie; made if it is not there.", metavar="DIR"),
    ],
    as_json: JsonOption = False,
) -> None:
    """Make CURVE keys for a server and a client, for --curve-dir. Keys are never overwritten.

    Example: stream-lstm keys /etc/stream-lstm/keys
    """
    import zmq

    from ..feed.security import make_keys

    if not zmq.has("curve"):
        raise ConfigurationError("this libzmq was built without CURVE and cannot make keys")
    files = [str(path) for path in make_keys(folder)]
    if as_json:
        say_json({"files": files})
        return
    for path in files:
        say(path)
    say(
        "",
        f"Take it with --curve-dir {folder}. A peer elsewhere needs its own folder: give it "
        "server.key, and put its client.key into clients.",
        err=True,
    )
