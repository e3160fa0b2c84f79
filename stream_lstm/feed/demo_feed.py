"""A publisher of a synthetic series in its own process: the feed of `stream-lstm demo`.

`python -m stream_lstm.feed.demo_feed` binds a port that the system chooses, prints the endpoint
as its only line, waits for a subscriber, sends single ticks at the given speed and then END. It
also exits when its standard input is closed, so it never outlives the process that started it,
however that one ended.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Sequence

from .pace import Pacer, Speed
from .publisher import Publisher
from .synthetic import HiddenLevel

STDIN = 0

ENDPOINT = "tcp://127.0.0.1:*"

WAIT_S = 120.0
"""For the subscriber, which compiles first; longer than a slow machine takes."""


def leave_with_parent() -> None:
    """Exit this process as soon as its standard input is closed."""
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()


def _exit_at_end_of_input() -> None:
    # not through sys.stdin, whose lock would be held when the interpreter ends
    while os.read(STDIN, 1):
        pass
    os._exit(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Publish as the command line says."""
    parser = argparse.ArgumentParser(prog="demo_feed", description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="of the series")
    parser.add_argument("--speed", type=float, required=True, help="elements a second")
    parser.add_argument("--count", type=int, required=True, help="elements in all")
    options = parser.parse_args(arguments)
    leave_with_parent()
    publish(HiddenLevel(options.seed), options.speed, options.count)


def publish(source: HiddenLevel, speed: float, count: int) -> None:
    """Send `count` elements of `source` as single ticks, `speed` a second, and an END."""
    values = source.block(count)
    with Publisher(ENDPOINT, columns=source.columns) as publisher:
        print(publisher.endpoint, flush=True)  # noqa: T201 - the parent reads it
        publisher.wait_for_subscribers(1, WAIT_S)
        pacer = Pacer(
            Speed("rate", speed), clock=time.monotonic, nap=time.sleep, idle=lambda: False
        )
        for k in range(count):
            pacer.wait(k, 0)
            publisher.publish(source.name, time.time_ns(), values[k])
        publisher.end()


if __name__ == "__main__":
    main()
