"""Faults of peers, counted: keys that are refused, and floods that are cut off.

Each function takes how often, and returns a dict of figures. Floods come from processes of their
own, over loopback, and the memory is that of the process that is flooded.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.security import KeyPair, Security, make_keys, read_pair, read_public
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig, SecurityConfig

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 30.0
PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 2**20

FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_DISCONNECTED
)


def resident_mib() -> float:
    """Return the memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / MIB


# ---- keys ---------------------------------------------------------------------------------


def keys_refused(count: int) -> dict[str, Any]:
    """Try `count` intruders of each kind; figures: refused by reason, `let_in`, received."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "keys"
        make_keys(folder)
        security = Security(SecurityConfig(curve_dir=str(folder)))
        server, client = read_public(folder / "server.key"), read_pair(folder, "client")
        let_in = received = 0
        with Publisher(ANY_PORT, columns=["x"], security=security) as out:
            for _ in range(count):
                fresh = KeyPair(*zmq.curve_keypair())
                for who in (
                    None,
                    (server, fresh),
                    (server, KeyPair(client.public, fresh.secret)),
                    (fresh.public, client),
                ):
                    entered, got = _try(out, who)
                    let_in += entered
                    received += got
            tried = 4 * count
            deadline = time.monotonic() + WAIT_S
            while sum(security.counts().values()) < tried and time.monotonic() < deadline:
                time.sleep(0.01)
        counts = security.counts()
        return {"tried": tried, "let_in": let_in, "messages_received": received, "refused": counts}


def _try(out: Publisher, who: tuple[bytes, KeyPair] | None) -> tuple[int, int]:
    """Connect as `who`; return whether that was let in, and how many messages came."""
    context: zmq.Context[Any] = zmq.Context()
    intruder = context.socket(zmq.SUB)
    intruder.setsockopt(zmq.RECONNECT_IVL, -1)
    if who is not None:
        intruder.setsockopt(zmq.CURVE_SERVERKEY, who[0])
        intruder.setsockopt(zmq.CURVE_PUBLICKEY, who[1].public)
        intruder.setsockopt(zmq.CURVE_SECRETKEY, who[1].secret)
    monitor = intruder.get_monitor_socket(FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
    intruder.setsockopt(zmq.SUBSCRIBE, b"")
    intruder.connect(out.endpoint)
    if not monitor.poll(int(WAIT_S * 1000)):
        raise RuntimeError("an intruder was neither accepted nor refused")
    entered = recv_monitor_message(monitor)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
    out.publish("a", 0, [1.0])
    got = bool(intruder.poll(0))
    intruder.disable_monitor()
    context.destroy(linger=0)
    return int(entered), int(got)


# ---- floods -------------------------------------------------------------------------------


def greet(connection: socket.socket, kind: bytes) -> None:
    """Say ZMTP's greeting without keys on a raw connection, and hear the other side's."""
    connection.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    _receive(connection, 64)
    ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    connection.sendall(b"\x04" + bytes([len(ready)]) + ready)
    _receive(connection, _receive(connection, 2)[1])


def _receive(connection: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        more = connection.recv(count - len(got))
        if not more:
            raise ConnectionError("closed by the other side")
        got += more
    return got


def send_subscriptions(port: int, seconds: float) -> None:
    """Send subscriptions to 200 random bytes each for `seconds`, or until we are cut off."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        greet(connection, b"SUB")
        connection.settimeout(1.0)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            many = (b"\0\xc9\x01" + os.urandom(200) for _ in range(200))
            connection.sendall(b"".join(many))


def send_endless(port: int, seconds: float) -> None:
    """Take one connection at a port of ours and send it 64 KiB parts of a message without end."""
    with socket.create_server(("127.0.0.1", port)) as server:
        print(server.getsockname()[1], flush=True)
        connection, _ = server.accept()
        with connection:
            greet(connection, b"PUB")
            connection.settimeout(1.0)
            part = b"\x03" + (65_536).to_bytes(8, "big") + bytes(65_536)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                connection.sendall(part * 16)


def _attack(name: str, *arguments: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "bench.faults_security", name, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def subscription_flood(count: int, *, seconds: float = 5.0) -> dict[str, Any]:
    """Flood a publisher from `count` connections; figures: growth in MiB, disconnected peers."""
    security = Security()
    with Publisher(ANY_PORT, columns=["x"], security=security) as out:
        before = peak = resident_mib()
        longest_s, published = 0.0, 0
        port = out.endpoint.rpartition(":")[2]
        attacks = [_attack("subscriptions", port, seconds) for _ in range(count)]
        while any(attack.poll() is None for attack in attacks):
            began = time.monotonic()
            out.publish("a", 0, [1.0])
            longest_s = max(longest_s, time.monotonic() - began)
            published += 1
            peak = max(peak, resident_mib())
            time.sleep(0.001)
        for attack in attacks:
            attack.communicate()
    return {
        "attackers": count,
        "cut_off": security.counts().get("too_many_subscriptions", 0),
        "grown_mib": round(peak - before, 1),
        "published": published,
        "longest_publish_s": round(longest_s, 3),
    }


def endless_multipart(count: int, *, seconds: float = 5.0) -> dict[str, Any]:
    """Send a subscriber `count` messages without end; figures: MiB grown, who was cut off."""
    grown: list[float] = []
    cut = 0
    for _ in range(count):
        attack = _attack("endless", 0, seconds)
        assert attack.stdout is not None
        port = attack.stdout.readline().strip()
        security = Security()
        config = FeedConfig(connect=(f"tcp://127.0.0.1:{port}",), columns=("x",))
        before = peak = resident_mib()
        with Subscriber(config, security=security) as into:
            while attack.poll() is None:
                into.receive(0.01)
                peak = max(peak, resident_mib())
        attack.communicate()
        cut += security.counts().get("endless_message", 0)
        grown.append(peak - before)
    return {"attacks": count, "cut_off": cut, "grown_mib": round(max(grown), 1)}


if __name__ == "__main__":
    attacks = {"subscriptions": send_subscriptions, "endless": send_endless}
    with contextlib.suppress(OSError):  # cut off, which is what is measured
        attacks[sys.argv[1]](int(sys.argv[2]), float(sys.argv[3]))
