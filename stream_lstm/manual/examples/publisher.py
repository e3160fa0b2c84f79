"""A publisher with pyzmq and msgpack alone: python publisher.py [PORT [TICKS]].

Read it by: stream-lstm run --connect tcp://127.0.0.1:5555 --feature price --until-end
"""

import math
import sys
import time
import uuid

import msgpack
import zmq

port, ticks = (int(word) for word in (*sys.argv[1:], *("5555", "1000")[len(sys.argv) - 1 :]))
session = uuid.uuid4().hex  # new at each start

with zmq.Context() as context, context.socket(zmq.XPUB) as out:
    out.bind(f"tcp://127.0.0.1:{port}")
    out.recv()  # an XPUB socket hears of subscriptions: what is sent before the first is lost
    while out.poll(100):
        out.recv()  # the other subscriptions come in the same moment
    for seq in range(1, ticks + 1):
        tick = {"v": 1, "session": session, "seq": seq, "t_ns": time.time_ns()}
        tick["values"] = {"price": math.sin(seq)}
        out.send_multipart([b"tick/PRICE/", msgpack.packb(tick)])
    end = {"v": 1, "session": session, "seq": ticks + 1, "end": True}
    out.send_multipart([b"heartbeat/PRICE/", msgpack.packb(end)])  # nothing more follows
    out.linger = 2000
