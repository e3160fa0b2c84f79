"""Recovery of what a feed has lost, under faults that are injected and counted.

`schedules` runs a publisher, a network and a subscriber in memory (see `faults_schedule`) and
counts wrong results. In `late_joins` subscribers on real sockets join at random instants; what
they received is compared with everything that was sent.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from stream_lstm.events import End, Run, Ticks
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig

from .faults_schedule import COLUMNS, COMPARED, PATIENCE, Schedule


def schedules(count: int, seed: int, *, steps: int = 150) -> dict[str, Any]:
    """Run `count` schedules; return what was injected, what was counted and how many differed."""
    injected: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    differing = 0
    for k in range(count):
        done = Schedule(random.Random(f"{seed}/{k}")).run(steps)
        injected.update(done.injected)
        counted.update({name: getattr(done.intake.counters, name) for name in COMPARED})
        differing += bool(done.differences())
    return {
        "schedules": count,
        "injected": dict(injected),
        "counted": dict(counted),
        "differing": differing,
    }


def late_joins(count: int, seed: int, *, ticks: int = 400) -> dict[str, Any]:
    """Let `count` subscribers on real sockets join at random instants; return how many differ."""
    chance = random.Random(seed)
    recovered = differing = 0
    for _ in range(count):
        got, counters = late_join(chance.randrange(ticks + 1), ticks, chance)
        recovered += counters.recovered
        differing += got != list(range(1, ticks + 1)) or counters.gaps > 0
    return {"joins": count, "ticks": ticks, "recovered": recovered, "differing": differing}


def late_join(instant: int, ticks: int, chance: random.Random) -> tuple[list[int], Any]:
    """Return the numbers of the ticks that a subscriber got who came after tick `instant`."""
    here = "tcp://127.0.0.1:*"
    with Publisher(here, columns=COLUMNS, recovery=here, heartbeats=False) as out:
        assert out.recovery_endpoint is not None
        for k in range(1, instant + 1):
            out.publish("A", k, [float(k)])
        config = FeedConfig(
            connect=(out.endpoint,), recovery=(out.recovery_endpoint,), columns=COLUMNS
        )
        with Subscriber(config) as into:
            got: list[int] = []
            sent, ended = instant, False
            for _ in range(PATIENCE):
                until = min(sent + chance.randrange(20), ticks)
                for k in range(sent + 1, until + 1):
                    out.publish("A", k, [float(k)])
                sent = until
                if sent == ticks:
                    out.end()
                for event in into.receive(0.01):
                    if isinstance(event, Ticks | Run):
                        ticks_ = event.block() if isinstance(event, Run) else event
                        got += [int(x) for x in ticks_.values[:, 0]]
                    ended = ended or isinstance(event, End)
                if ended:
                    break
            return got, into.counters
