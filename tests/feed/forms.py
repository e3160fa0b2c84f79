"""Messages in the forms that public code publishes, with made-up numbers."""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from stream_lstm.schema import Declaration

Row = tuple[str, list[list[float]], int | None, int | None]
MS = 1_700_000_000_000


class Form(NamedTuple):
    """A publisher's form: its message of (i, bid, ask), what it says, and what reads it.

    `sent` is the stream, the rows, the time of all rows and the sequence number.
    """

    message: Callable[[int, float, float], list[bytes]]
    sent: Callable[[int, float, float], Row]
    declaration: Declaration | None


def _quote(stream: str, time: int = 0) -> Callable[[int, float, float], Row]:
    return lambda i, b, a: (stream, [[b, a]], (MS + i) * 10**6 if time else None, None)


def _two(form: Any, **more: Any) -> Declaration:
    return Declaration(form, columns=("bid", "ask"), **more)


def _js(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


SAMPLES = 8

FORMS: dict[str, Form] = {
    "text: symbol and price": Form(
        lambda i, b, a: [f"AAPL {b}".encode()],
        lambda i, b, a: ("AAPL", [[b]], None, None),
        Declaration("text", fields=("symbol", "price")),
    ),
    # darwinex/dwx-zeromq-connector v2.0.1/mql4/DWX_ZeroMQ_Server_v2.0.1_RC8.mq4
    "text: two separators": Form(
        lambda i, b, a: [f"EURUSD:|:{b};{a}".encode()],
        _quote("EURUSD"),
        Declaration("text", fields=("symbol", "bid", "ask")),
    ),
    "topic and JSON in one frame": Form(
        lambda i, b, a: [b"EURUSD " + _js(bid=b, ask=a)], _quote("EURUSD"), _two("json")
    ),
    "JSON with a book of texts": Form(
        lambda i, b, a: [
            _js(
                topic="ORDERBOOK",
                data={"symbol": "T", "bids": [[str(b), "1"]], "asks": [[str(a), "1"]]},
            )
        ],
        _quote("T"),
        Declaration(
            "json", columns=("data.bids.0.0", "data.asks.0.0"), stream_field="data.symbol"
        ),
    ),
    "topic with slashes": Form(
        lambda i, b, a: [b"md/l1/EURUSD", _js(bid=b, ask=a)],
        _quote("EURUSD"),
        _two("json", topic="md/l1/"),
    ),
    "msgpack map": Form(
        lambda i, b, a: [b"EURUSD", msgspec.msgpack.encode({"bid": b, "ask": a, "ts": MS + i})],
        _quote("EURUSD", 1),
        _two("msgpack", time_field="ts"),
    ),
    # zeromq/pyzmq zmq/sugar/socket.py: send_pyobj; yhilpisch/epatcode live/tick_print.py
    "pickle": Form(lambda i, b, a: [pickle.dumps({"bid": b, "ask": a})], _quote(""), None),
    # gnuradio/gnuradio gr-zeromq/lib/pub_sink_impl.cc
    "float32 samples": Form(
        lambda i, b, a: [np.full(SAMPLES, b, np.float32).tobytes()],
        lambda i, b, a: ("stream", [[b]] * SAMPLES, None, None),
        Declaration("array", columns=("x",), dtype="f4"),
    ),
    # zeromq/pyzmq examples/serialization/serialsocket.py: send_array
    "array after a JSON header": Form(
        lambda i, b, a: [
            _js(dtype="float32", shape=[SAMPLES, 1]),
            np.full(SAMPLES, b, "f4").tobytes(),
        ],
        lambda i, b, a: ("stream", [[b]] * SAMPLES, None, None),
        Declaration("array", columns=("x",), dtype="header"),
    ),
    "C struct with a time": Form(
        lambda i, b, a: [b"EURUSD", struct.pack("<qdd", (MS + i) * 10**6, b, a)],
        _quote("EURUSD", 1),
        Declaration("struct", dtype="t:i8,bid:f8,ask:f8"),
    ),
    "JSON with numbers as text": Form(
        lambda i, b, a: [b"EURUSD", _js(bid=str(b), ask=str(a))], _quote("EURUSD"), _two("json")
    ),
    "JSON list of ticks": Form(
        lambda i, b, a: [
            b"EURUSD",
            json.dumps([{"bid": b, "ask": a}, {"bid": a, "ask": b}]).encode(),
        ],
        lambda i, b, a: ("EURUSD", [[b, a], [a, b]], None, None),
        _two("json"),
    ),
    # bmoscon/cryptofeed cryptofeed/backends/zmq.py
    "exchange, channel and symbol before JSON": Form(
        lambda i, b, a: [
            b"COINBASE-ticker-BTC-USD "
            + _js(exchange="COINBASE", symbol="BTC-USD", bid=b, ask=a, timestamp=(MS + i) / 1000)
        ],
        _quote("BTC-USD", 1),
        _two("json", stream_field="symbol", time_field="timestamp"),
    ),
    # vtnerd/monero-lws docs/zmq.md
    "colon before JSON, nested": Form(
        lambda i, b, a: [
            b"json-full-payment_hook:" + _js(index=i, event={"tx_info": {"amount": b}})
        ],
        lambda i, b, a: ("json-full-payment_hook", [[b]], None, None),
        Declaration("json", columns=("event.tx_info.amount",)),
    ),
    # EDCD/EDDN src/eddn/Relay.py
    "JSON compressed with zlib": Form(
        lambda i, b, a: [
            zlib.compress(
                _js(**{"$schemaRef": "x/1", "message": {"StarPos": [b, a, 0.5], "event": "Scan"}})
            )
        ],
        lambda i, b, a: ("stream", [[b, a]], None, None),
        Declaration(
            "json", columns=("message.StarPos.0", "message.StarPos.1"), compression="zlib"
        ),
    ),
    # saltstack/salt salt/utils/event.py
    "tag, two line feeds and msgpack": Form(
        lambda i, b, a: [
            b"salt/beacon/web1/load/\n\n" + msgspec.msgpack.encode({"1m": b, "5m": a})
        ],
        lambda i, b, a: ("web1", [[b, a]], None, None),
        Declaration(
            "msgpack",
            columns=("1m", "5m"),
            frames=("topic+payload",),
            separator=("\\n\\n",),
            topic="salt/beacon/{}/load/",
        ),
    ),
    # pupil-labs/pupil-helpers pupil_remote/filter_gaze_on_surface.py
    "gaze in msgpack with an array": Form(
        lambda i, b, a: [
            b"gaze.3d.0.",
            msgspec.msgpack.encode(
                {"topic": "gaze.3d.0.", "norm_pos": [b, a], "timestamp": 0.5 + i}
            ),
        ],
        lambda i, b, a: ("gaze.3d.0.", [[b, a]], 500_000_000 + i * 10**9, None),
        Declaration(
            "msgpack", columns=("norm_pos.0", "norm_pos.1"), time_field="timestamp", time_unit="s"
        ),
    ),
    # xirhxq/zmq_ros_bridge JustZmqTalker.py
    "three float32": Form(
        lambda i, b, a: [struct.pack("fff", b, a, 0.5)],
        lambda i, b, a: ("stream", [[b, a, 0.5]], None, None),
        Declaration("array", dtype="f4", channels=3),
    ),
    # 0xB10C/bitcoin-zmq-mempool-chain-events PATCH.md
    "six frames with a time and a number": Form(
        lambda i, b, a: [
            b"mempooladded",
            struct.pack("<q", MS + i),
            b"\x11" * 32,
            b"\x01raw",
            struct.pack("<q", int(4 * b)),
            struct.pack("<I", 1000 + i),
        ],
        lambda i, b, a: ("mempooladded", [[int(4 * b)]], (MS + i) * 10**6, 1000 + i),
        Declaration(
            "array",
            columns=("fee",),
            dtype="i8",
            frames=("topic", "time", "skip", "skip", "payload", "seq"),
        ),
    ),
    # opendaylight/fpc zmqforwarder/forwarder_server.py
    "number, space and big-endian struct": Form(
        lambda i, b, a: [b"1 " + struct.pack("!BQBLLL", 1, 12345 + i, 9, 2130706433, 1234, 7)],
        lambda i, b, a: ("1", [[12345 + i, 1234]], None, None),
        Declaration(
            "struct",
            columns=("id", "port"),
            frames=("topic+payload",),
            separator=(" ",),
            dtype="v:u1,id:>u8,op:u1,ip:>u4,port:>u4,last:>u4",
        ),
    ),
    # trabbel/mu_interface Sensor/zmq_publisher.py
    "two JSON headers and an array": Form(
        lambda i, b, a: [
            _js(name="rpi0", msg_type=1),
            _js(dtype="float64", shape=[2]),
            np.array([b, a]).tobytes(),
        ],
        lambda i, b, a: ("stream", [[b, a]], None, None),
        Declaration(
            "array", columns=("x", "y"), dtype="header", frames=("skip", "header", "payload")
        ),
    ),
    # open-ephys/gui-docs source/User-Manual/Plugins/ZMQ-Interface.rst
    "envelope, header and float32 samples": Form(
        lambda i, b, a: [
            b"DATA",
            _js(stream="probe/A", sample_num=8 * i, num_samples=4),
            np.full(4, b, "f4").tobytes(),
        ],
        lambda i, b, a: ("probe-A", [[b]] * 4, None, 8 * i),
        Declaration(
            "array",
            columns=("x",),
            dtype="f4",
            frames=("topic", "header", "payload"),
            stream_field="header.stream",
            seq_field="header.sample_num",
        ),
    ),
    # booksbyus/zguide examples/C/wuserver.c
    "zip code, temperature and humidity": Form(
        lambda i, b, a: [f"10001 {b} {a}".encode()],
        _quote("10001"),
        Declaration("text", fields=("symbol", "temperature", "humidity")),
    ),
}
