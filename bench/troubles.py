"""What may go wrong around a daemon and no tick should notice, and keys, which every tick does.

Each trouble is entered beside a run of `bench.exchange`, once the subject is ready:

* `dead clients`: of its page of metrics, some that ask and never read the answer, some that stop
  in the middle of asking and some that only connect;
* `full log`: its log is JSON and goes into a pipe that is full, while a second publisher sends
  what it refuses, and would say so, `RUBBISH_S` apart;
* `dead watchers`: of two more subscribers, one is killed and one stopped once they hear it;
* `keys`: every message on the wire is encrypted (CURVE).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from stream_lstm.feed.security import make_keys

from .exchange import Subject

CLIENTS = 8
"""Of the page of metrics, of each kind; three kinds together stay below its limit."""

ASKED = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

RUBBISH_S = 0.01

HEAR = """
import sys, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.subscribe(b"")
socket.connect(sys.argv[1])
print("connected", flush=True)
socket.recv()
print("heard", flush=True)
while True:
    socket.recv()
"""

SEND = """
import sys, time, zmq
socket = zmq.Context().socket(zmq.PUB)
socket.bind(sys.argv[1])
print("bound", flush=True)
while True:
    socket.send_multipart([b"tick/bench/", b"rubbish"])
    time.sleep(float(sys.argv[2]))
"""


class Trouble(NamedTuple):
    """Flags of the daemon, what is entered beside it, and the folder of its keys."""

    flags: tuple[str, ...] = ()
    beside: Callable[[Subject], AbstractContextManager[object]] = lambda _: nullcontext()
    keys: str = ""


def make(name: str, folder: Path) -> Trouble:
    """Return the trouble of that name, for which `folder` is a new one."""
    folder.mkdir()
    if name == "dead clients":
        return Trouble(("--metrics", "127.0.0.1:0"), dead_clients)
    if name == "full log":
        rubbish = f"ipc://{folder}/rubbish"
        flags = ("--log-format", "json", "--connect", rubbish)
        return Trouble(flags, lambda subject: full_log(subject, rubbish))
    if name == "dead watchers":
        return Trouble(beside=dead_watchers)
    make_keys(folder)
    return Trouble(("--curve-dir", str(folder)), keys=str(folder))


NAMES = ("dead clients", "full log", "dead watchers", "keys")


@contextmanager
def dead_clients(subject: Subject) -> Iterator[list[socket.socket]]:
    """Connect clients to the page of metrics, none of which does what a client should."""
    found = re.search(r"metrics at http://(\S+?):(\d+)/", subject.ready)
    assert found is not None
    with ExitStack() as stack:
        clients = []
        for said in (ASKED, ASKED[:12], b"") * CLIENTS:
            client = socket.create_connection((found[1], int(found[2])))
            stack.callback(client.close)
            client.sendall(said)
            clients.append(client)
        yield clients


def log_of(pid: int) -> str:
    """Return the path of the pipe into which a child of this process writes its log.

    With a log of JSON, descriptor 2 leads into the child itself.
    """
    ours = {_link(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
    for name in sorted(os.listdir(f"/proc/{pid}/fd"), key=int):
        path = f"/proc/{pid}/fd/{name}"
        if int(name) > 1 and _link(path).startswith("pipe:") and _link(path) in ours:
            return path
    raise RuntimeError(f"process {pid} has no pipe that this process reads")


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:  # of the listing itself
        return ""


@contextmanager
def full_log(subject: Subject, rubbish: str) -> Iterator[None]:
    """Fill the pipe that is the subject's standard error, and have it sent what it refuses."""
    # opened anew, so that it is our end alone that does not wait
    pipe = os.open(log_of(subject.pid), os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 4096)
    os.close(pipe)
    with script(SEND, rubbish, str(RUBBISH_S)):
        yield


@contextmanager
def dead_watchers(subject: Subject) -> Iterator[Sequence[subprocess.Popen[str]]]:
    """Have two more subscribers hear the subject; then one is killed, and one is stopped."""
    with script(HEAR, subject.answers) as killed, script(HEAR, subject.answers) as stopped:

        def end() -> None:
            for process, how in ((killed, signal.SIGKILL), (stopped, signal.SIGSTOP)):
                if line(process):
                    process.send_signal(how)

        thread = threading.Thread(target=end, daemon=True)
        thread.start()
        yield killed, stopped
    thread.join(5)


@contextmanager
def script(text: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script that says a line once it has started, and kill it in the end."""
    command = [sys.executable, "-c", text, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line(process)
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process says, or nothing at its end."""
    assert process.stdout is not None
    return process.stdout.readline()
