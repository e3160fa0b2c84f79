"""What the tests of the command line share: processes, feeds, and files of columns."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import zmq

COMMAND = (sys.executable, "-m", "stream_lstm")
ANY_PORT = "tcp://127.0.0.1:*"
NOWHERE = ("--connect", "tcp://127.0.0.1:1")
WAIT_S = 120.0
COUNT = 300
"""Messages of `sending`."""


def started(*arguments, **options) -> subprocess.Popen[str]:
    """The command in a process of its own, its streams piped."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    return subprocess.Popen([*COMMAND, *map(str, arguments)], **pipes | options)


def ran(*arguments, **options) -> subprocess.CompletedProcess[str]:
    """The command run to its end in a process of its own."""
    line = [*COMMAND, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, encoding="utf-8", check=False, **options)


def until(lines, words) -> str:
    """The first line with `words`."""
    return next(line for line in lines if words in line)


def write_csv(path: Path, **columns) -> Path:
    rows = zip(*columns.values(), strict=True)
    lines = (",".join(map(str, row)) for row in (columns, *rows))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@contextlib.contextmanager
def sending(message):
    """The endpoint of a socket that sends COUNT messages as soon as somebody subscribes."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as out:
        out.linger = 0
        port = out.bind_to_random_port("tcp://127.0.0.1")

        def work():
            if out.poll(WAIT_S * 1000):
                out.recv()
                for k in range(COUNT):
                    out.send_multipart(message(k))

        thread = threading.Thread(target=work)
        thread.start()
        yield f"tcp://127.0.0.1:{port}"
        thread.join()
