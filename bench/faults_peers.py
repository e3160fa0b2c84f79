"""Rubbish from peers, and honest traffic beside it and after it.

Kinds of `rubbish` are said for some seconds each to the sockets of a process of its own: to a
daemon's feed or its recovery by an endpoint that it dials, or to what a publisher or a daemon has
bound. LANES such processes run at the same time, each with its share of the kinds. All along
honest ticks come, and after each kind all of them must be taken: `lost` are those that were not
within PATIENCE_S, or requests over HTTP without a good answer; `deaths` are processes that ended.
`grown_mib` is by how much the memory of a process grew over one kind, at most, and that was
`grown_by`; it must be below 50.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import msgspec
import zmq

from stream_lstm.events import Run, Ticks
from stream_lstm.feed.protocol import encode_ticks
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig

from .faults_security import MIB, PAGE
from .rubbish import STREAM, Kind, Reset, kinds
from .soak import COMMAND

SECONDS = 5.0
"""Of each kind."""

LANES = 6
"""Processes; half as many over HTTP, each of which has a page that keeps a core busy."""

RATE = 200.0
"""Honest ticks a second."""

LOST_EVERY = 50
"""Of the ticks of which a daemon with recovery is to ask for some."""

WARM_UP, AFTER = 200, 50
"""Honest ticks before the first kind, and after each."""

PATIENCE_S = 30.0
SETTLE_S, FLAT_MIB = 5.0, 30.0
"""For freed memory to be handed back, and growth that need not be waited for."""

HERE = "127.0.0.1"
WINDOW = 5


def peers(where: str) -> Callable[[int], dict[str, Any]]:
    """Return the part of `faults` for an endpoint; see `rubbish.kinds`."""
    lanes = LANES // 2 if where == "http" else LANES
    return lambda count: rubbish(where, count, lanes=lanes)


def rubbish(where: str, count: int, *, seconds: float = SECONDS, lanes: int = LANES,
            seed: int = 0) -> dict[str, Any]:  # fmt: skip
    """Say `count` kinds, spread over all there are; return figures."""
    every = kinds(where)
    count = min(count, len(every))
    chosen = [every[k * len(every) // count] for k in range(count)]
    with ThreadPoolExecutor(lanes) as pool:
        work = [pool.submit(_lane, where, chosen[k::lanes], seconds, seed) for k in range(lanes)]
    found: dict[str, Any] = dict.fromkeys(KEYS, 0)
    grown: list[tuple[float, str]] = []
    worst = []
    for lane in work:
        for one in lane.result():
            found = {key: found[key] + getattr(one, key) for key in found}
            grown.append((one.grown_mib, one.kind))
            worst += [f"{one.kind}: {one.told}"] * bool(one.lost or one.deaths)
    most, by = max(grown)
    return found | {"grown_mib": round(most, 1), "grown_by": by, "worst": worst[:3]}


KEYS = ("kinds", "connections", "unmet", "sent", "taken", "lost", "deaths")


class Outcome(NamedTuple):
    """What a kind did."""

    kind: str
    connections: int
    sent: int
    taken: int
    lost: int
    deaths: int
    grown_mib: float
    told: str
    kinds: int = 1

    @property
    def unmet(self) -> bool:
        """Whether the process never came, so that nothing was said."""
        return not self.connections


def _lane(where: str, rest: Sequence[Kind], seconds: float, seed: int) -> list[Outcome]:
    """Say kinds to one process, and to a new one where it ends."""
    done: list[Outcome] = []
    while len(done) < len(rest):
        todo = rest[len(done) :]
        with TARGETS[where](len(todo)) as target:
            target.honest(WARM_UP)
            for kind in todo:
                target.turn()
                before = resident_mib(target.process.pid)
                chance = random.Random(f"{seed}/{kind.name}")
                met = attack(kind, target.meet, seconds, chance)
                counts = target.honest(AFTER)
                dead = not target.alive
                grown = 0.0 if dead else settled_mib(target.process.pid, before) - before
                told = target.last_words()
                done.append(
                    Outcome(f"{kind.name} at {kind.door}", met, *counts, dead, grown, told)
                )
                if dead:
                    break
    return done


# ---- to say rubbish -----------------------------------------------------------------------

Meet = Callable[[int, float], socket.socket]
"""Returns a connection to a door, or raises OSError when there is none within some seconds."""


def attack(kind: Kind, meet: Meet, seconds: float, chance: random.Random) -> int:
    """Say a kind for so long, on a new connection wherever one ends; return on how many."""
    until, met = time.monotonic() + seconds, 0
    while (left := until - time.monotonic()) > 0:
        with contextlib.suppress(OSError), meet(kind.door, left) as connection:
            met += 1
            connection.settimeout(0.2)
            converse(connection, kind, until, chance)
        time.sleep(0.02)
    return met


def converse(connection: socket.socket, kind: Kind, until: float, chance: random.Random) -> None:
    """Say a kind on one connection until the end of the time, or until the other side ends it."""
    for item in kind.script(chance):
        left = until - time.monotonic()
        if left <= 0:
            return
        if item is Reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if isinstance(item, bytes):
            with contextlib.suppress(TimeoutError):
                connection.sendall(item)
        else:
            assert not isinstance(item, type)
            listen(connection, left if item is None else min(item, left))
    listen(connection, until - time.monotonic())


def listen(connection: socket.socket, seconds: float) -> None:
    """Take what comes; raises ConnectionError at its end."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            if not connection.recv(65_536):
                raise ConnectionError("ended by the other side")
        except TimeoutError:
            break
    connection.settimeout(0.2)


def resident_mib(pid: int) -> float:
    """Return the memory of a process and its children, in use now."""
    task = Path(f"/proc/{pid}/task/{pid}/children")
    own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / MIB
    return own + sum(resident_mib(int(child)) for child in task.read_text().split())


def reserved() -> socket.socket:
    """Return a socket that holds a port at which nobody listens yet."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind((HERE, 0))
    return one


def listening(port: int) -> socket.socket:
    """Return a socket that listens at a port that is reserved."""
    return socket.create_server((HERE, port))


def accepted(listener: socket.socket, seconds: float) -> socket.socket:
    listener.settimeout(seconds)
    return listener.accept()[0]


def settled_mib(pid: int, before: float) -> float:
    """Return the memory in use once the process has handed back what it freed."""
    until = time.monotonic() + SETTLE_S
    while (now := resident_mib(pid)) > before + FLAT_MIB and time.monotonic() < until:
        time.sleep(0.1)
    return now


# ---- what it is said to -------------------------------------------------------------------


class Target:
    """A process, and the honest traffic that it takes; a context manager.

    doors: ports that it has bound. `sent` and `taken` count honest ticks, and `work` is the thread
    that sends and counts them.
    """

    command: str
    ready = "ready:"
    flags: list[str]
    doors: Sequence[int] = ()
    environment: Mapping[str, str] = MappingProxyType({})

    def __enter__(self) -> Self:
        self.lines: deque[str] = deque(maxlen=20)
        self.told = ""
        self.sent = self.taken = self._lost = 0
        self._seen, self.resting = (0, 0), False
        self._over, self._ready = threading.Event(), threading.Event()
        command = [sys.executable, "-c", COMMAND, self.command, *self.flags]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | self.environment,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self._ready.wait(120)
        if not self.told:
            self.process.kill()
            raise SystemExit(f"bench: the process did not start: {self.last_words()}")
        self._thread = threading.Thread(target=self.work, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)
        if self.alive:
            self.process.terminate()
        try:
            self.summary = self.process.communicate(timeout=30)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            self.heard(line)
            if not self.told and line.startswith(self.ready):
                self.told = "".join(self.lines)
                self.started()
                self._ready.set()
        self._ready.set()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def last_words(self) -> str:
        """Return the exit code and the last lines of standard error."""
        return f"{self.process.poll()}, {''.join(self.lines)[-300:]!r}"

    def honest(self, more: int) -> tuple[int, int, int]:
        """Wait until so many more ticks were sent and all taken; return sent, taken, lost."""
        (before, had), aim = self._seen, self.sent + more
        self._until(lambda: self.sent >= aim)
        self.resting = True
        self._until(lambda: self.taken + self._lost >= self.sent)
        self._seen = sent, taken = max(self.sent, aim), self.taken
        lost, self._lost = max(0, sent - taken - self._lost), max(0, sent - taken)
        self.resting = False
        return sent - before, taken - had, lost

    def _until(self, true: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_S
        while self.alive and not true() and time.monotonic() < until:
            time.sleep(0.01)

    def turn(self) -> None:
        """Get ready for the next kind."""

    def meet(self, door: int, seconds: float) -> socket.socket:
        """Connect to what the process has bound."""
        return socket.create_connection((HERE, self.doors[door]), seconds)

    def started(self) -> None:
        """Read the output up to the line `ready`."""

    def heard(self, line: str) -> None:
        """Take a line of standard error."""

    def work(self) -> None:
        """Send and take honest ticks until `_over`."""
        raise NotImplementedError


class Daemon(Target):
    """A daemon on an honest feed, whose every tick brings a prediction."""

    command = "run"

    def __init__(self, *flags: str, lossy: bool = False) -> None:
        self._lossy = lossy
        self._context: zmq.Context[Any] = zmq.Context()
        self._feed, self._answers = self._context.socket(zmq.PUB), self._context.socket(zmq.SUB)
        port = self._feed.bind_to_random_port(f"tcp://{HERE}")
        self.flags = [
            "--connect", f"tcp://{HERE}:{port}", "--publish", f"tcp://{HERE}:*", "--columns", "x",
            "--feature", "x", "--window", str(WINDOW), "--stride", "1", "--hidden", "4",
            "--max-streams", "1000", *flags,
        ]  # fmt: skip

    def work(self) -> None:
        """Send ticks, and hear how far the daemon is."""
        self._answers.subscribe(f"prediction/{STREAM}/".encode())
        self._answers.connect(re.findall(r"publishing on (\S+?),", self.told)[0])
        self._over.wait(1.0)  # for both subscriptions to arrive
        due, seq = time.monotonic(), 0
        while not self._over.is_set():
            now = time.monotonic()
            due = now if self.resting else due
            while due < now:
                due += 1 / RATE
                seq += 2 if self._lossy and self.sent % LOST_EVERY == LOST_EVERY - 1 else 1
                frames = encode_ticks(STREAM, seq, [float(seq % 7)], run_id=STREAM, seq=seq)
                self._feed.send_multipart(frames)
                self.sent += 1
            if self._answers.poll(5):
                self.taken = msgspec.msgpack.decode(self._answers.recv_multipart()[1])["n"]
        self._context.destroy(linger=0)


class Dialling(Daemon):
    """A daemon that dials an endpoint more for each kind, where nobody listens before its turn."""

    def __init__(self, flag: str, count: int) -> None:
        self._held = [reserved() for _ in range(count)]
        self._ports = [one.getsockname()[1] for one in self._held]
        flags = [word for port in self._ports for word in (flag, f"tcp://{HERE}:{port}")]
        super().__init__(*flags, lossy=flag == "--recovery")
        self._listener = socket.socket()

    def turn(self) -> None:
        """Close the endpoint of the turn before, and listen at the next."""
        self._listener.close()
        self._listener = listening(self._ports.pop(0))

    def meet(self, _door: int, seconds: float) -> socket.socket:
        """Accept a connection at the endpoint of this turn."""
        return accepted(self._listener, seconds)

    def __exit__(self, *given: object) -> None:
        super().__exit__(*given)
        for one in (*self._held, self._listener):
            one.close()


class Served(Daemon):
    """A daemon whose metrics and live page are asked for over HTTP."""

    def __init__(self) -> None:
        super().__init__("--metrics", f"{HERE}:0", "--watch")

    def started(self) -> None:
        """Find the ports of both."""
        ways = rf"metrics at http://{HERE}:(\d+)/", rf"live page: http://{HERE}:(\d+)/"
        self.doors = [int(re.findall(way, self.told)[0]) for way in ways]

    def honest(self, more: int) -> tuple[int, int, int]:
        """Ask for both pages too."""
        sent, taken, lost = super().honest(more)
        good = self.pages()
        return sent + 2, taken + good, lost + 2 - good

    def pages(self) -> int:
        """Return how many of the two pages answer as they should."""
        return sum(map(self._answers_well, self.doors, ("/metrics", "/")))

    def _answers_well(self, port: int, path: str) -> bool:
        until = time.monotonic() + PATIENCE_S
        while self.alive and time.monotonic() < until:
            url = f"http://{HERE}:{port}{path}"
            left = max(0.1, until - time.monotonic())  # asked again, a page would be made again
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=left) as answer:
                return bool(answer.status == 200)
            time.sleep(0.5)
        return False


class Published(Target):
    """A publisher that is heard by an honest subscriber with recovery."""

    command, ready = "publish", ""

    def __init__(self) -> None:
        self.flags = [
            "--synthetic", "hidden-level", "--limit", "10000000", "--speed", f"{RATE:g}/s",
            "--stream", STREAM, "--bind", f"tcp://{HERE}:*", "--recovery", f"tcp://{HERE}:*",
        ]  # fmt: skip

    def started(self) -> None:
        """Find both ports."""
        self.doors = [int(port) for port in re.findall(rf"at tcp://{HERE}:(\d+)", self.told)]

    def work(self) -> None:
        """Hear all ticks from the first on; those that are lost show in their numbers."""
        ends = [f"tcp://{HERE}:{port}" for port in self.doors]
        config = FeedConfig(connect=(ends[0],), recovery=(ends[1],), columns=("x",))
        with Subscriber(config) as into:
            while not self._over.is_set():
                for event in into.receive(0.01):
                    ticks = event.block() if isinstance(event, Run) else event
                    if isinstance(ticks, Ticks):
                        assert ticks.seq is not None
                        self.taken += len(ticks.values)
                        self.sent = ticks.seq + len(ticks.values) - 1


TARGETS: dict[str, Callable[[int], Target]] = {
    "feed": lambda count: Dialling("--connect", count),
    "recovery": lambda count: Dialling("--recovery", count),
    "publisher": lambda _: Published(),
    "http": lambda _: Served(),
}
