"""The sender of a round trip, a process of its own: `python -m bench.sender PLAN`.

PLAN is a JSON object. The sender makes all messages first, binds and prints where; on a line of
standard input it begins, says when (the clock is the machine's monotonic one, which the receiver
reads too), sends each message at its intended time, or immediately if that has passed, and ends by
reporting how late it was itself.

It sleeps until shortly before a message is due and spins the rest, `SPIN_NS` at most.

`closed` is the other way of sending, back to back: the ten ticks of a stride together, the next
ten when their prediction has come. There the sender takes the answers itself, and the delay is
that from the tenth tick.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq

from stream_lstm.feed.protocol import encode_ticks
from stream_lstm.feed.security import Security, read_pair
from stream_lstm.schema import SecurityConfig

from .schedule import STRIDE, WARM_UP, WINDOW, constant, recorded

STREAM, SESSION, SEED = "bench", "bench", 11
PATIENCE_MS = 60_000
SPIN_NS = 80_000
AHEAD_NS = 20_000_000
"""From saying when it begins to the first message."""

Message = tuple[bytes, bytes]


def quotes() -> tuple[np.ndarray, np.ndarray]:
    """Return times (ns) and quotes: real ones where they are, else bursts of a random walk."""
    folder = Path(os.environ.get("STREAM_LSTM_DATA", Path(__file__).parents[2] / "shared/data"))
    path = folder / "btcusdt_book.csv.gz"
    if path.exists():
        from pyarrow import csv

        read = csv.read_csv(path)
        columns = [read[name].to_numpy() for name in ("bid_px", "ask_px")]
        return read["time_ns"].to_numpy(), np.stack(columns, axis=1).astype(np.float64)
    rng = np.random.default_rng(SEED)
    mid = 100.0 * np.exp(np.cumsum(rng.normal(size=60_000)) * 1e-5)
    gaps = rng.lognormal(mean=-7.0, sigma=2.0, size=60_000)
    return (np.cumsum(gaps) * 1e9).astype(np.int64), np.stack([mid - 0.01, mid + 0.01], axis=1)


def offsets(plan: dict[str, Any]) -> np.ndarray:
    """Return when each message of a plan is meant to be sent, ns from the beginning."""
    if "speed" in plan:
        times, _ = quotes()
        return recorded(times, speed=plan["speed"], seconds=plan["seconds"])
    if "rate" in plan:
        return constant(plan["rate"], seconds=plan["seconds"], block=plan["block"])
    return np.zeros(plan["messages"], np.int64)


def messages(count: int, block: int) -> list[Message]:
    """Return `count` messages of `block` ticks, the quotes repeated as often as needed."""
    _, values = quotes()
    rows = np.arange(count * block) % len(values)
    stamps = np.arange(count * block, dtype=np.int64)
    out = []
    for k in range(0, count * block, block):
        at = rows[k : k + block]
        one = values[at] if block > 1 else values[at[0]]
        when = stamps[k : k + block] if block > 1 else int(stamps[k])
        out.append(encode_ticks(STREAM, when, one, run_id=SESSION, seq=k + 1))
    return out


def end(count: int, *, echo: bool) -> Message:
    """Return the message that says that nothing more will come after `count` ticks."""
    if echo:
        return b"tick/end/", b""
    record = {"v": 1, "session": SESSION, "seq": count + 1, "t_ns": 0, "end": True}
    return f"heartbeat/{STREAM}/".encode(), msgspec.msgpack.encode(record)


def send_all(
    send: Callable[[Message], object], sent: Sequence[Message], due: list[int]
) -> list[int]:
    """Send each message when it is due, a time on the clock; return how late each was, ns."""
    clock, late = time.perf_counter_ns, []
    for message, at in zip(sent, due, strict=True):
        left = at - clock()
        if left > SPIN_NS:
            time.sleep((left - SPIN_NS) / 1e9)
        while (now := clock()) < at:
            pass
        send(message)
        late.append(now - at)
    return late


def closed(
    send: Callable[[Message], object], sent: Sequence[Message], answers: str, keys: str
) -> dict[str, Any]:
    """Send strides back to back; return the delays (ns) from each one's last tick."""
    back = zmq.Context.instance().socket(zmq.SUB)
    back.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
    if keys:
        Security(SecurityConfig(curve_dir=keys)).connect(back, answers)
    for topic in (b"tick/", b"prediction/"):
        back.subscribe(topic)
    back.connect(answers)
    back.poll(300)  # for our subscription to travel
    clock, found = time.perf_counter_ns, []
    for k, message in enumerate(sent):
        begin = clock()
        send(message)
        if k >= WINDOW and (k - WINDOW) % STRIDE == 0:
            back.recv_multipart()
            found.append(clock() - begin)
    return {"delays": found[int(WARM_UP * len(found)) :]}


def main(plan: dict[str, Any]) -> None:
    when = offsets(plan)
    sent = messages(len(when), plan["block"])
    context = zmq.Context.instance()
    out = context.socket(zmq.XPUB)
    out.setsockopt(zmq.SNDHWM, 0)  # what cannot be taken waits here, and is late
    if plan["keys"]:
        pair = read_pair(Path(plan["keys"]), "server")
        out.setsockopt(zmq.CURVE_SERVER, 1)
        out.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
        out.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
    port = out.bind_to_random_port("tcp://127.0.0.1")
    print(f"tcp://127.0.0.1:{port}", flush=True)
    answers = sys.stdin.readline().strip()
    if not out.poll(PATIENCE_MS):
        raise SystemExit("the subject did not subscribe")
    gc.collect()
    gc.disable()
    if plan["way"] == "closed":
        told = closed(out.send_multipart, sent, answers, plan["keys"])
    else:
        begin = time.perf_counter_ns() + AHEAD_NS
        print(begin, flush=True)
        late = send_all(out.send_multipart, sent, (when + begin).tolist())
        told = {"late_p99_us": round(float(np.percentile(late, 99)) / 1e3, 1)}
        told["seconds"] = (time.perf_counter_ns() - begin) / 1e9
    out.send_multipart(end(len(sent) * plan["block"], echo=plan["echo"]))
    print(json.dumps(told), flush=True)
    context.destroy(linger=PATIENCE_MS)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
