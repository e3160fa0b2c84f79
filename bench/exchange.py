"""One run of a sender, a subject and the receiver, which is this process.

The subject is the daemon or the echo. The receiver takes answers as they come and reads the clock
at each, and decodes them when all is over. On two cores these three, and the threads of ZeroMQ
in each, share what a service alone would have: the sender spins for up to 80 us before each tick,
and the receiver wakes with each answer. So the delays are those of a busy machine, for the echo as
for the daemon, and their ratio is what is to be looked at.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import zmq

from stream_lstm.feed.security import Security
from stream_lstm.schema import SecurityConfig

from .schedule import Ns, delays, due_messages, due_ticks
from .sender import offsets

PATIENCE_MS = 20_000

ANSWERS = (b"tick/", b"prediction/")
"""Topics of what the echo and the daemon answer."""

COMMAND = "from stream_lstm.cli.main import main; main()"


class Run(NamedTuple):
    """The result of a plan: intended times and delays of the answers (ns), and the rest.

    `lost` answers never came; `rate` is how many ticks a second were answered, from the second
    quarter of the answers on; `late_p99_us` tells how late the sender was itself.
    """

    intended: Ns
    delays: Ns
    lost: int
    rate: float
    late_p99_us: float
    sender_s: float


class Subject(NamedTuple):
    """Where a subject publishes, its process, and the line by which it said that it is ready."""

    answers: str
    pid: int
    ready: str


Beside: TypeAlias = Callable[[Subject], AbstractContextManager[object]]


def _nothing(_subject: Subject) -> AbstractContextManager[None]:
    return nullcontext()


def exchange(
    plan: dict[str, Any],
    subject: Sequence[str] | None,
    *,
    beside: Beside = _nothing,
    keys: str = "",
) -> Run:
    """Run a plan: of the daemon with the flags `subject`, of the echo where that is None.

    beside: what is entered for the time of the run, given the subject. keys: folder of those that
    the sender and the receiver have.
    """
    plan = plan | {"echo": subject is None, "keys": keys}
    when, block = offsets(plan), plan["block"]
    with (
        _sender(plan) as sender,
        _subject(_line(sender), subject, block) as started,
        beside(started),
    ):
        answers = started.answers
        if plan["way"] == "closed":
            _tell(sender, answers)
            told = json.loads(_line(sender))
            found = np.array(told["delays"], np.int64)
            return Run(np.zeros_like(found), found, 0, 0.0, 0.0, 0.0)
        context = zmq.Context()
        try:
            back = _connected(context, answers, keys)
            _tell(sender, answers)
            begin = int(_line(sender))
            payloads, arrivals = _received(back)
            told = json.loads(_line(sender))
        finally:
            context.destroy(linger=0)
    key = "seq" if subject is None else "n"
    numbers = np.array([msgspec.msgpack.decode(payload)[key] for payload in payloads], np.int64)
    # Element n comes with tick n + 1; a message's `seq` is the number of its first tick.
    answered = (numbers - 1 if subject is None else numbers) // block
    stamps = np.array(arrivals, np.int64)
    rate = _rate(answered * block, stamps)
    due = due_messages(len(when), block) if subject is None else due_ticks(len(when) * block)
    lost = len(due) - len(payloads)
    found = delays(when, begin, answered, stamps)
    return Run(*found, lost, rate, told["late_p99_us"], told["seconds"])


def _rate(ticks: Ns, arrivals: Ns) -> float:
    quarter = len(ticks) // 4
    seconds = (arrivals[-1] - arrivals[quarter]) / 1e9
    return float((ticks[-1] - ticks[quarter]) / max(seconds, 1e-9))


def _received(back: zmq.Socket[Any]) -> tuple[list[bytes], list[int]]:
    """Return the payloads of answers and when they came, until the subject says that it ends."""
    clock, receive = time.perf_counter_ns, back.recv_multipart
    payloads, arrivals = [], []
    while True:
        topic, payload = receive()
        now = clock()
        if topic.startswith(ANSWERS) and payload:
            payloads.append(payload)
            arrivals.append(now)
        elif not payload or msgspec.msgpack.decode(payload).get("end"):
            break
    if not payloads:
        raise RuntimeError("no answer came")
    return payloads, arrivals


def _connected(context: zmq.Context[Any], answers: str, keys: str) -> zmq.Socket[Any]:
    back = context.socket(zmq.SUB)
    if keys:
        Security(SecurityConfig(curve_dir=keys)).connect(back, answers)
    back.setsockopt(zmq.RCVHWM, 0)
    back.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
    for topic in (*ANSWERS, b"heartbeat/"):
        back.subscribe(topic)
    monitor = back.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    back.connect(answers)
    if not monitor.poll(PATIENCE_MS):
        raise RuntimeError("the subject does not answer")
    back.disable_monitor()
    monitor.close()
    # Our subscription travels to the subject behind the handshake; a moment is enough for it.
    back.poll(200)
    return back


@contextmanager
def _process(command: Sequence[str], **pipes: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, *command], text=True, **pipes)
    try:
        yield process
        process.wait(30)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextmanager
def _sender(plan: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    command = "-m", "bench.sender", json.dumps(plan)
    with _process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process


@contextmanager
def _subject(connect: str, flags: Sequence[str] | None, block: int) -> Iterator[Subject]:
    """Start the daemon or the echo, and yield it once it is ready."""
    if flags is None:
        command = ["-m", "bench.echo", connect, str(block)]
    else:
        command = ["-c", COMMAND, "run", "--connect", connect, "--columns", "bid,ask"]
        command += ["--publish", "tcp://127.0.0.1:*", "--until-end", "--json"]
        command += ["--feature", "log_return(mid(bid, ask))", *flags]
    with _process(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = ""
        while not (found := re.search(r"ready: .*publishing on (\S+?),", said)):
            said = process.stderr.readline()
            if not said:
                raise RuntimeError("the subject ended before it was ready")
        yield Subject(found[1], process.pid, said)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError("the sender ended early")
    return line


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
