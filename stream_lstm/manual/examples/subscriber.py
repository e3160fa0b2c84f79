"""A subscriber with pyzmq and msgpack alone: python subscriber.py [PORT].

Feed it by: stream-lstm run --connect ... --publish tcp://127.0.0.1:5556
"""

import sys

import msgpack
import zmq

port = int(sys.argv[1]) if len(sys.argv) > 1 else 5556
ended = False

with zmq.Context() as context, context.socket(zmq.SUB) as feed:
    feed.connect(f"tcp://127.0.0.1:{port}")
    for topic in (b"prediction/", b"heartbeat/"):
        feed.subscribe(topic)
    while not ended:
        topic, payload = feed.recv_multipart()
        kind, stream, _ = topic.decode().split("/")
        record = msgpack.unpackb(payload)
        if kind == "prediction":
            print(stream, record["n"], f"{record['p']:.4f}", flush=True)  # noqa: T201
        ended = record.get("end", False)  # of the one stream
