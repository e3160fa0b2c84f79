"""A plain ZeroMQ echo, the least that any Python service can cost: every message goes back."""

from __future__ import annotations

import sys

import zmq


def main(connect: str, bind: str) -> None:
    context = zmq.Context()
    incoming, outgoing = context.socket(zmq.SUB), context.socket(zmq.PUB)
    outgoing.bind(bind)
    incoming.subscribe(b"tick/")
    incoming.connect(connect)
    print("ready", file=sys.stderr, flush=True)
    while True:
        topic, payload = incoming.recv_multipart()
        if not payload:
            return
        outgoing.send_multipart([topic, payload])


if __name__ == "__main__":
    main(*sys.argv[1:])
