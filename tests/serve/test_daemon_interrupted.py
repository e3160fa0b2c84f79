"""An exception at any line of the daemon's loop: its store holds the state of some tick."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np
import pytest

from stream_lstm.config import StoreConfig
from stream_lstm.core.snapshot import take
from stream_lstm.feed import subscriber
from stream_lstm.feed.protocol import encode_ticks
from stream_lstm.feed.publisher import Publisher
from stream_lstm.serve import daemon
from stream_lstm.serve.daemon import Daemon
from stream_lstm.serve.signals import StopSwitch
from stream_lstm.store.reading import Setup
from stream_lstm.store.store import Store

from ..engines import SMALL_BANK, engine_for, settings
from ..injecting import Injected, Injector
from ..store.stores import COLUMNS, StoredSession, series, ticks

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S, LATE_S = 30.0, 120.0
COUNT = 36
OPTIONS = StoreConfig(snapshot_every=12)

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "learning": {"learn": True},
    "bank": {"learn": True, "bank": "small.toml", "share": 0.01},
}
PARTS = {
    "all of the loop": ("serve/daemon.py", "stream_lstm/core/", "store/store.py"),
    "the session": ("stream_lstm/core/",),
}
"""Where the lines are that are counted."""


def members(kind):
    return SMALL_BANK if kind == "bank" else None


def interrupted(path, kind, part, at):
    """Run a daemon over the ticks with an exception at a line; return whether it came to it."""
    values = series(COUNT)
    times = np.arange(1, COUNT + 1) * 10**9
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopSwitch())
        feed = stack.enter_context(
            Publisher(ANY_PORT, heartbeats=False, columns=COLUMNS, run_id="s1")
        )
        config = settings(connect=[feed.endpoint], **KINDS[kind])
        setup = Setup(config, COLUMNS, members=members(kind))
        store = Store(path, setup, OPTIONS, command="run", blocking=False)
        engine = engine_for(config, 1, members(kind))
        served = Daemon(
            config, COLUMNS, stop=stop, store=store, members=members(kind), engine=engine
        )
        traced = sys.gettrace()
        try:
            with served:
                feed.wait_for_subscribers(1, WAIT_S)
                for k in range(COUNT):
                    one = slice(k, k + 1)
                    frames = encode_ticks("a", times[one], values[one], run_id="s1", seq=k + 1)
                    feed._socket.send_multipart(frames)
                served.every(LATE_S, stop.set)
                served.every(0.0, lambda: served.session.table.ints[0, 0] >= COUNT and stop.set())
                sys.settrace(Injector(at, PARTS[part]))
                served.run()
        except Injected:
            return True
        finally:
            sys.settrace(traced)
            store.close(whole=False)
    return False


CASES = [("plain", "all of the loop"), ("plain", "the session"), ("learning", "all of the loop"),
         ("bank", "the session")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "part"), CASES)
def test_the_store_continues_from_the_state_of_some_tick(kind, part, tmp_path, monkeypatch):
    # a few ticks at a time, so that some are stored before the exception
    monkeypatch.setattr(subscriber, "MAX_MESSAGES", 4)
    monkeypatch.setattr(daemon, "MAX_WAITING", 4)
    config = settings(**KINDS[kind])
    values = series(COUNT)
    states = []
    with StoredSession(tmp_path / "whole.db", config, OPTIONS, members=members(kind)) as whole:
        states.append(take(whole.session))
        for k in range(COUNT):
            whole.feed(ticks(values[k : k + 1], k + 1))
            states.append(take(whole.session))
    reached, at = set(), 40
    for round_ in range(100):
        path = tmp_path / f"{round_}.db"
        if not interrupted(path, kind, part, at):
            break
        with StoredSession(path, config, OPTIONS, members=members(kind)) as again:
            known = again.session.streams.get("a")
            n = 0 if known is None else known.n
            assert take(again.session) == states[n]
            for k in range(n, COUNT):
                again.feed(ticks(values[k : k + 1], k + 1))
            assert take(again.session) == states[COUNT]
        reached.add(n)
        at += at + 17
    assert round_ > 5
    assert len(reached) > 2
