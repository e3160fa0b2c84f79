"""Messages of any publisher into rows: microseconds a message, and what each is of another.

`blocks` are 1,024 values in a message: our record, float32, and packed structs. `singles` are one
tick in a message: JSON, JSON with a time and a stream in it, MessagePack, text, and our record.
All of a process take turns, and each message becomes an event.

    python -m bench decode
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .report import fresh, medians

MESSAGES = 4000
TURN = 100
ROWS = 1024
COLUMNS = ("bid", "ask")
T_NS = 1_700_000_000_000_000_000

Call = Callable[[], object]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument("--messages", type=int, default=MESSAGES, help=f"of decode ({MESSAGES})")


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {subject: figures}; `of` is the time over that of the first of its kind."""
    rows: dict[str, dict[str, Any]] = {}
    for kind in SUBJECTS:
        runs = [fresh("bench.decode", kind, str(options.messages)) for _ in range(options.repeats)]
        for name in runs[0]:
            first = next(iter(runs[0]))
            told = [{"us": run[name], "of": run[name] / run[first]} for run in runs]
            rows[f"{kind}: {name}"] = medians(told)
    return rows


def timed(calls: dict[str, Call], messages: int) -> dict[str, float]:
    """Return the median microseconds of each call, a tenth of them in front as warm-up."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(messages // TURN + messages // TURN // 10 + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(TURN):
                call()
            if turn > messages // TURN // 10:
                spent[name].append((time.perf_counter() - start) / TURN * 1e6)
    return {name: round(statistics.median(times), 3) for name, times in spent.items()}


def taking(form: dict[str, Any], frames: list[bytes]) -> Call:
    """Return what takes one message as the daemon does: decoded, numbered, and as an event."""
    from stream_lstm.feed.declared import EventBatch
    from stream_lstm.feed.intake import Intake
    from stream_lstm.schema import FeedConfig

    intake = Intake(FeedConfig(**form))

    def take() -> None:
        batch = EventBatch(independent=True)
        intake.take(frames, batch)
        batch.finish()

    take()
    assert intake.counters.ticks, f"{form} does not read {frames!r:.80}"
    return take


def blocks() -> dict[str, Call]:
    from stream_lstm.feed.protocol import encode_ticks

    values = np.random.default_rng(0).normal(size=(ROWS, 1))
    times = T_NS + np.arange(ROWS)
    table = np.zeros(ROWS, [("t", "<i8"), ("x", "<f8")])
    table["t"], table["x"] = times, values[:, 0]
    array = {"payload": "array", "columns": ("x",), "dtype": "f4"}
    return {
        "record": taking({"columns": ("x",)}, list(encode_ticks("A", times, values))),
        "float32": taking(array, [b"A", values.astype("<f4").tobytes()]),
        "struct with times": taking(
            {"payload": "struct", "columns": ("x",), "dtype": "t:i8,x:f8"}, [b"A", table.tobytes()]
        ),
    }


def singles() -> dict[str, Call]:
    import msgspec

    from stream_lstm.feed.protocol import encode_ticks

    tick = {"bid": 1.10123, "ask": 1.10133}
    full = tick | {"symbol": "EURUSD", "ts": T_NS // 10**6}
    names: dict[str, Any] = {"columns": COLUMNS}
    bare = names | {"payload": "json"}
    roles = {"stream_field": "symbol", "time_field": "ts"}
    lines = names | {"payload": "text", "fields": ("symbol", *COLUMNS)}
    packed = [b"EURUSD", msgspec.msgpack.encode(tick)]
    return {
        "JSON": taking(bare | {"topic": "md/"}, [b"md/EURUSD", json.dumps(tick).encode()]),
        "JSON with time and stream": taking(bare | roles, [json.dumps(full).encode()]),
        "MessagePack": taking(names | {"payload": "msgpack"}, packed),
        "text": taking(lines, [b"EURUSD 1.10123 1.10133"]),
        "record": taking(names, list(encode_ticks("EURUSD", T_NS, list(tick.values())))),
    }


SUBJECTS = {"blocks": blocks, "singles": singles}

if __name__ == "__main__":
    subject, messages = sys.argv[1:]
    print(json.dumps(timed(SUBJECTS[subject](), int(messages))))
