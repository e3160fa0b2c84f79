"""A plain ZeroMQ echo, the least that any Python service can cost.

It sends back the messages after which the daemon publishes, undecoded and by count alone: every
tenth tick from the hundred and first on, or every message where they hold blocks.
"""

from __future__ import annotations

import sys

import zmq

from .schedule import STRIDE, WINDOW


def main(connect: str, block: str) -> None:
    context = zmq.Context()
    incoming, outgoing = context.socket(zmq.SUB), context.socket(zmq.PUB)
    incoming.setsockopt(zmq.RCVHWM, 0)
    outgoing.setsockopt(zmq.SNDHWM, 0)
    port = outgoing.bind_to_random_port("tcp://127.0.0.1")
    incoming.subscribe(b"tick/")
    incoming.connect(connect)
    print(f"ready: publishing on tcp://127.0.0.1:{port},", file=sys.stderr, flush=True)
    count, single = 0, block == "1"
    while True:
        topic, payload = incoming.recv_multipart()
        if not payload:
            outgoing.send_multipart([topic, payload])
            break
        if not single or (count >= WINDOW and (count - WINDOW) % STRIDE == 0):
            outgoing.send_multipart([topic, payload])
        count += 1
    context.destroy(linger=2000)


if __name__ == "__main__":
    main(*sys.argv[1:])
