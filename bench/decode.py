"""Messages of any publisher into rows: microseconds a message, and what each is of another.

`blocks` are 1,024 values in a message: our record, float32, and packed structs. `singles` are one
tick in a message: our record, JSON, JSON with a time and a stream in it, MessagePack, and text.
`foreign JSON` is the decoder of flat objects alone. All of a process take turns, and give arrays.

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


def blocks() -> dict[str, Call]:
    from stream_lstm.feed.decode import Declaration, compile_decoder
    from stream_lstm.feed.protocol import encode_ticks
    from stream_lstm.feed.wire import MessageDecoder

    values = np.random.default_rng(0).normal(size=(ROWS, 1))
    times = T_NS + np.arange(ROWS)
    record, frames = MessageDecoder(("x",)).decode, encode_ticks("A", times, values)
    samples = compile_decoder(Declaration("array", columns=("x",), dtype="f4"))
    message = [b"A", values.astype("<f4").tobytes()]
    struct = compile_decoder(Declaration("struct", dtype="t:i8,x:f8"))
    table = np.zeros(ROWS, [("t", "<i8"), ("x", "<f8")])
    table["t"], table["x"] = times, values[:, 0]
    packed = [b"A", table.tobytes()]
    return {
        "record": lambda: record(*frames),
        "float32": lambda: samples(message),
        "struct with times": lambda: struct(packed),
    }


def singles() -> dict[str, Call]:
    import msgspec

    from stream_lstm.feed.decode import Declaration, compile_decoder
    from stream_lstm.feed.foreign import ForeignDecoder
    from stream_lstm.feed.protocol import encode_ticks
    from stream_lstm.feed.wire import MessageDecoder
    from stream_lstm.schema import FeedConfig

    tick = {"bid": 1.10123, "ask": 1.10133}
    full = tick | {"symbol": "EURUSD", "ts": T_NS // 10**6}
    foreign = ForeignDecoder(FeedConfig(columns=COLUMNS, payload="json", topic="md/")).decode
    record = MessageDecoder(COLUMNS).decode
    plain = [b"md/EURUSD", json.dumps(tick).encode()]
    flat = compile_decoder(Declaration("json", columns=COLUMNS, topic="md/"))
    roles: Any = {"stream_field": "symbol", "time_field": "ts"}
    timed_json = compile_decoder(Declaration("json", columns=COLUMNS, **roles))
    packed = compile_decoder(Declaration("msgpack", columns=COLUMNS))
    text = compile_decoder(Declaration("text", fields=("symbol", *COLUMNS)))
    one = encode_ticks("EURUSD", T_NS, list(tick.values()))
    with_roles, in_msgpack = [json.dumps(full).encode()], [b"EURUSD", msgspec.msgpack.encode(tick)]
    line = [b"EURUSD 1.10123 1.10133"]
    return {
        "JSON": lambda: flat(plain),
        "foreign JSON": lambda: foreign(plain),
        "JSON with time and stream": lambda: timed_json(with_roles),
        "MessagePack": lambda: packed(in_msgpack),
        "text": lambda: text(line),
        "record": lambda: record(*one),
    }


SUBJECTS = {"blocks": blocks, "singles": singles}

if __name__ == "__main__":
    subject, messages = sys.argv[1:]
    print(json.dumps(timed(SUBJECTS[subject](), int(messages))))
