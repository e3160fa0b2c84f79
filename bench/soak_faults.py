"""An hour of one daemon among faults, and what is left of it.

The daemon learns, keeps a store and serves metrics and a live page, which a client keeps open over
its WebSocket. A publisher of its own sends ticks one by one, and begins a new session at the same
endpoints every RESTART_S seconds. Every FAULT_S seconds one of `FAULTS` happens, chosen by a seed.
In the end `verify` replays the store's journal.

`unaccounted` ticks of the publisher were neither taken nor recorded as a gap; with `verify_exit`,
`unchecked`, `compilations`, `deaths` and `unanswered` (a page that does not answer) it must be 0.
`fifths_mb` are the medians of the daemon's memory in each fifth of the time, `growth` the last of
them over the second, less 1, and `slope_mb_h` is fitted to what follows the first fifth.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tornado.websocket import websocket_connect

from stream_lstm.feed.publisher import Publisher
from stream_lstm.store import schema

from .faults_peers import HERE, Served, accepted, attack, listening, reserved
from .rubbish import STREAM, frame, hands, kinds
from .soak import COMMAND, COMPILED, SAMPLES, WARM_UP, descriptors, resident

RESTART_S, FAULT_S, LASTS_S = 60.0, 5.0, 3.0
"""Between two starts of the publisher, between two faults, and of a fault that lasts."""

RUBBISH_ENDS = 3
"""Endpoints that the daemon dials beside the honest one, for ticks and for recovery each."""

CALM_S = 5.0
"""Before the end, for the last ticks to be taken."""


class Soaked(Served):
    """The daemon, its publisher, and the client of its page."""

    def __init__(self, folder: Path, rate: float, seed: int) -> None:
        self.store, self.rate = folder / "s.db", rate
        self.sent_of: dict[str, int] = {}
        self.calm = threading.Event()
        self.compilations = self.page_messages = self.page_connections = 0
        self._rng = np.random.default_rng(seed)
        self._held = [reserved() for _ in range(2 * (1 + RUBBISH_ENDS))]
        ports = [one.getsockname()[1] for one in self._held]
        ticks, recovery = ports[::2], ports[1::2]
        self.reserved = {"feed": ticks[1:], "recovery": recovery[1:]}
        self._ends = [f"tcp://{HERE}:{port}" for port in ports[:2]]
        self.flags = [
            *(word for port in ticks for word in ("--connect", f"tcp://{HERE}:{port}")),
            *(word for port in recovery for word in ("--recovery", f"tcp://{HERE}:{port}")),
            "--columns", "x", "--feature", "x", "--learn", "--store", str(self.store), "--watch",
            "--publish", f"tcp://{HERE}:*", "--metrics", f"{HERE}:0", "--max-streams", "50",
        ]  # fmt: skip
        self.environment = {"JAX_LOG_COMPILES": "1"}

    def __exit__(self, *given: object) -> None:
        super().__exit__(*given)
        self._watching.join(10)
        for one in self._held:
            one.close()

    def heard(self, line: str) -> None:
        """Count what is compiled after the start."""
        self.compilations += bool(self.told) and COMPILED in line

    def started(self) -> None:
        """Find the port of the predictions too."""
        super().started()
        self.doors = [
            *self.doors,
            int(re.findall(r"publishing on tcp://[^:]+:(\d+)", self.told)[0]),
        ]

    def work(self) -> None:
        """Publish, with a new session every minute; and keep the page open."""
        self._watching = threading.Thread(target=lambda: asyncio.run(self._watch()), daemon=True)
        self._watching.start()
        while not self._over.is_set():
            session = f"s{len(self.sent_of)}"
            with Publisher(
                self._ends[0],
                columns=("x",),
                run_id=session,
                recovery=self._ends[1],
                heartbeat_s=0.5,
            ) as out:
                self._publish(out, session)

    def _publish(self, out: Publisher, session: str) -> None:
        begun = time.monotonic()
        sent = 0
        while not self._over.is_set():
            now = time.monotonic() - begun
            if self.calm.is_set():
                now = min(now, sent / self.rate)
            elif now > RESTART_S:
                break
            for value in self._rng.standard_normal(max(0, int(now * self.rate) - sent)):
                out.publish(STREAM, time.time_ns(), [value])
                sent += 1
            self.sent_of[session] = sent
            out.heartbeat()
            time.sleep(0.002)

    async def _watch(self) -> None:
        """Keep the page's WebSocket open, as a browser does; open it again where it ends."""
        page = f"{HERE}:{self.doors[1]}"
        while not self._over.is_set():
            with contextlib.suppress(Exception):
                html = await asyncio.to_thread(_get, f"http://{page}/")
                token = re.findall(r'"token":"([^"]+)"', html)[0]
                client = await websocket_connect(f"ws://{page}/ws", subprotocols=["bokeh", token])
                self.page_connections += 1
                try:
                    while await client.read_message() is not None:
                        self.page_messages += 1
                finally:
                    client.close()
            await asyncio.sleep(1.0)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


# ---- what goes wrong ----------------------------------------------------------------------


def rubbish(where: str, only: str = "") -> Fault:
    """Return a fault: a kind of rubbish, by chance, is said to an endpoint."""
    known = [kind for kind in kinds(where) if only in kind.name]

    def fault(soaked: Soaked, chance: random.Random) -> None:
        kind = chance.choice(known)
        if where in soaked.reserved:
            with listening(chance.choice(soaked.reserved[where])) as listener:
                attack(kind, lambda _, seconds: accepted(listener, seconds), LASTS_S, chance)
        else:
            doors = soaked.doors if where == "http" else soaked.doors[2:]
            attack(kind._replace(door=doors[kind.door % len(doors)]), meet, LASTS_S, chance)

    return fault


def meet(port: int, seconds: float) -> socket.socket:
    return socket.create_connection((HERE, port), seconds)


def hang_up(soaked: Soaked, _: random.Random) -> None:
    """Have the daemon read its settings again."""
    soaked.process.send_signal(signal.SIGHUP)


def stall(soaked: Soaked, chance: random.Random) -> None:
    """Stop the daemon for up to two seconds."""
    soaked.process.send_signal(signal.SIGSTOP)
    time.sleep(chance.uniform(0.1, 2.0))
    soaked.process.send_signal(signal.SIGCONT)


def read_store(soaked: Soaked, _: random.Random) -> None:
    """Read the store within a transaction, and then hold up its checkpoint."""
    connection = schema.connect_reader(soaked.store)
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM predictions").fetchone()
        time.sleep(LASTS_S)
        connection.execute("ROLLBACK")
        with contextlib.suppress(sqlite3.Error):  # a reader may not; the attempt takes the locks
            connection.execute("PRAGMA wal_checkpoint(RESTART)")
    finally:
        connection.close()


def deaf(soaked: Soaked, _: random.Random) -> None:
    """Subscribe to everything and take nothing."""
    with meet(soaked.doors[2], 1.0) as connection:
        connection.sendall(hands(b"SUB") + frame(b"\1"))
        time.sleep(LASTS_S)


Fault = Callable[[Soaked, random.Random], None]
FAULTS: dict[str, Fault] = {
    "rubbish at the feed": rubbish("feed"),
    "hostile heartbeats": rubbish("feed", "heartbeat"),
    "rubbish at recovery": rubbish("recovery"),
    "rubbish of subscribers": rubbish("publisher", "SUB"),
    "rubbish over HTTP": rubbish("http"),
    "SIGHUP": hang_up,
    "a stall": stall,
    "a reader of the store": read_store,
    "a deaf subscriber": deaf,
}


# ---- the run ------------------------------------------------------------------------------


def soak(seconds: float, rate: float, seed: int = 0) -> dict[str, Any]:
    """Run for so long at so many ticks a second; return figures."""
    chance, said = random.Random(seed), Counter[str]()
    samples: list[tuple[float, float, int]] = []
    with tempfile.TemporaryDirectory(prefix="sl") as folder:
        with Soaked(Path(folder), rate, seed) as soaked:
            pid, begun = soaked.process.pid, time.monotonic()
            page = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
            with ThreadPoolExecutor(4) as pool:
                jobs: list[Future[None]] = []
                told_at = 0.0
                while (now := time.monotonic() - begun) < seconds and soaked.alive:
                    if now >= FAULT_S * (len(jobs) + 1) and now < seconds - FAULT_S:
                        name = chance.choice([*FAULTS])
                        said[name] += 1
                        own = random.Random(f"{seed}/{len(jobs)}")
                        jobs.append(pool.submit(FAULTS[name], soaked, own))
                    samples.append((now, resident(pid) / 1e6, descriptors(pid)))
                    if now >= told_at:
                        told_at += RESTART_S
                        print(f"bench: soak: {now:.0f} s, {samples[-1][1]:.1f} MB, {dict(said)}",
                              file=sys.stderr, flush=True)  # fmt: skip
                    time.sleep(min(1.0, seconds / SAMPLES))
            failed = [repr(job.exception()) for job in jobs if job.exception()]
            soaked.calm.set()
            time.sleep(CALM_S)
            deaths, unanswered = int(not soaked.alive), 2 - soaked.pages()
            page_mb = 0.0 if deaths else resident(page) / 1e6
        found = verified(soaked.store)
        known = accounted(soaked.store, soaked.sent_of)
        size = soaked.store.stat().st_size / 1e6
    return {
        "seconds": seconds, "faults": dict(said), "faults_failed": failed[:3],
        "sessions": len(soaked.sent_of), **known, **found, "deaths": deaths,
        "compilations": soaked.compilations, "unanswered": unanswered,
        **growth(samples), "page_mb": round(page_mb, 1), "page_messages": soaked.page_messages,
        "page_connections": soaked.page_connections, "store_mb": round(size, 1),
        "last_words": soaked.last_words() if deaths else "",
    }  # fmt: skip


def growth(samples: list[tuple[float, float, int]]) -> dict[str, Any]:
    """Return how memory went, from (seconds, MB, descriptors)."""
    seconds, mb, open_ = np.array(samples).T
    fifths = [float(np.median(part)) for part in np.array_split(mb, 5)]
    late = seconds >= WARM_UP * seconds[-1]
    slope = np.polyfit(seconds[late] / 3600, mb[late], 1)[0]
    return {
        "fifths_mb": [round(one, 1) for one in fifths],
        "growth": round(fifths[4] / fifths[1] - 1, 4),
        "slope_mb_h": round(float(slope), 2),
        "descriptors_max": int(open_.max()),
    }


def verified(store: Path) -> dict[str, Any]:
    """Return what `stream-lstm verify` finds."""
    command = [sys.executable, "-c", COMMAND, "verify", str(store), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = msgspec.json.decode(done.stdout) if done.stdout else {}
    return {
        "verify_exit": done.returncode,
        "checked": told.get("checked", 0),
        "unchecked": told.get("unchecked", -1),
        "verify_said": done.stderr[-300:] if done.returncode else "",
    }


def accounted(store: Path, sent_of: dict[str, int]) -> dict[str, int]:
    """Return how many ticks of the publisher were taken, and known or not known to be missing."""
    connection = schema.connect_reader(store)
    rows = connection.execute(
        "SELECT session, seq, count FROM ticks WHERE stream = ? ORDER BY pos", (STREAM,)
    ).fetchall()
    gaps = connection.execute(
        "SELECT seq, count FROM events WHERE kind = 'gap' AND stream = ?", (STREAM,)
    ).fetchall()
    connection.close()
    taken = missing = unaccounted = 0
    known = {(seq - count, seq) for seq, count in gaps}
    for session, sent in sent_of.items():
        due = 1
        parts = sorted((seq, seq + count) for name, seq, count in rows if name == session)
        for first, end in [*parts, (sent + 1, sent + 1)]:
            if first > due:
                covered = any(low <= due and first <= high for low, high in known)
                missing += first - due
                unaccounted += 0 if covered else first - due
            taken += end - max(first, due)
            due = max(due, end)
    return {"sent": sum(sent_of.values()), "taken": taken, "gaps": missing - unaccounted,
            "unaccounted": unaccounted}  # fmt: skip
