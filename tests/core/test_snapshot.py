"""Snapshots: what ties them to settings, and that they are of one moment."""

import hashlib
from typing import Any

import msgspec
import numpy as np
import pytest

from stream_lstm.config import Config, build
from stream_lstm.core.snapshot import fingerprint, freeze, take
from stream_lstm.core.stream import DueUpdate
from stream_lstm.events import Gap, Label

from ..engines import settings
from .driving import REACHING_BACK, Tick, members_of, open_session, push

CHOSEN = {
    "features": ["x"],
    "stride": 20,
    "hidden": 8,
    "scaling": "zscore",
    "learn": True,
    "score_window": 50,
}


def of(**settings):
    return fingerprint(build(settings), ("x",))


@pytest.mark.parametrize("key", CHOSEN)
def test_a_setting_that_state_depends_on_changes_it(key):
    rest = {other: value for other, value in CHOSEN.items() if other != key}
    assert of(**CHOSEN) != of(**rest)


def test_what_is_said_and_is_the_default_does_not():
    assert of(stride=10, hidden=32, scaling="sd") == of()


def test_a_setting_that_came_later_leaves_what_was_there_before_it():
    """As if `clip` were new: without it, and with its default, the hash is of the same bytes."""
    before = msgspec.json.encode(({"hidden": 8}, None, ("x",)))
    assert of(hidden=8) == hashlib.sha256(before).hexdigest()


def test_where_data_come_from_and_go_to_does_not():
    assert of(connect=["tcp://127.0.0.1:1"], publish="tcp://127.0.0.1:2", store="s.db") == of()


def test_columns_count():
    assert fingerprint(Config(), ("x",)) != fingerprint(Config(), ("y",))


SERIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain, of their own": {"sharing": "per-stream"},
    "learning": {"learn": True},
    "learning, of their own": {"learn": True, "sharing": "per-stream"},
    "several strides": {"learn": True, "stride": 2, "horizon": 1},
    "compared and recalibrated": {
        "learn": True, "twins": ["frozen", "stateless"], "calibrate": True,
    },
    **{kind: values | {"learn": True} for kind, values in REACHING_BACK.items()},
}  # fmt: skip


def walk(rng, count):
    return [Tick(float(x), k * 10**9) for k, x in enumerate(rng.normal(size=count))]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SERIES)
def test_a_frozen_state_is_that_of_its_moment(kind):
    values = {"stride": 3, "horizon": 2, "window": 10} | SERIES[kind]
    session = open_session(settings(**values), print, members=members_of(values))
    session.emit = None
    rng = np.random.default_rng(1)
    for stream in ("a", "b"):
        push(session, walk(rng, 150), stream)
    wanted, frozen, other = take(session), freeze(session), freeze(session)
    begun = other.chunks()
    begin = [bytes(next(begun)) for _ in range(3)]  # the head, and what comes before `learned`
    for stream in ("a", "b", "c"):
        push(session, walk(rng, 7), stream)  # updates, and entries of the tape
        push(session, walk(rng, 200), stream)  # the tape is moved
    session.gap(Gap("a", 400, 3))
    assert b"".join(frozen.chunks()) == wanted
    assert b"".join(begin) + b"".join(begun) == wanted
    push(session, walk(rng, 50), "a")
    assert b"".join(frozen.chunks()) == wanted, "a second reading differs"
    assert take(session) != wanted


def test_a_frozen_state_keeps_the_labels_of_its_moment():
    values = {"labels": "external", "revisions": "last", "label_hold": 40, "learn": True}
    config = settings(**values, stride=3, horizon=2, window=10, sharing="per-stream")
    session = open_session(config, print)
    session.emit = None
    rng = np.random.default_rng(2)
    push(session, walk(rng, 60))
    for n in (10, 13, 16):
        session.label(Label("a", n, 1.0, 0))
    session.label(Label("a", 100, 1.0, 0))  # early
    wanted, frozen = take(session), freeze(session)
    session.label(Label("a", 13, 0.0, 0))  # revised
    session.label(Label("a", 103, 0.0, 0))
    push(session, walk(rng, 90))
    assert session.streams["a"].counters.updates > 0
    assert b"".join(frozen.chunks()) == wanted


def test_a_state_that_was_written_is_not_kept():
    """Nothing copies for a snapshot that nobody holds any more."""
    session = open_session(settings(learn=True, window=10), print)
    session.emit = None
    push(session, walk(np.random.default_rng(0), 60))
    take(session)
    push(session, walk(np.random.default_rng(0), 60))
    assert session.learning.snapshots == []


# The names in the bytes: older snapshots must stay readable, whatever the code calls them.
NAMES = {
    "snapshot": "fingerprint learned table sides scores frozen settings",
    "table": "names sources pending_sources ints carry memory_t memory_v last pending own",
    "side": "tape trace mixture twin recalibration ledger owed waiting",
    "ledger": "waiting held early closed expired",
    "held": "pending truth until",
    "pending": "n p base_rate_p last_label_p last_label session t_ns raw_p frozen_p stateless_p "
    "experts inputs state",
    "truth": "label t_ns",
    "owed": "n label loss base_loss inputs starts",
    "learned": "weights optimizer watch",
    "watch": "good candidate labels positives count loss base spells refused rest resting based "
    "age",
}


def test_the_bytes_have_the_names_of_the_format():
    values = {"learn": True, "labels": "external", "revisions": "last", "stride": 5}
    session = open_session(settings(**values), lambda _: None)
    push(session, [Tick(float(k % 3) - 1, k) for k in range(30)])
    session.label(Label("a", 12, 1))
    session.settle()
    session.label(Label("a", 17, 1))
    whole = msgspec.msgpack.decode(take(session)[6:-32], strict=False)
    side, learned = whole["sides"][0], whole["learned"][""]
    found = {
        "snapshot": whole,
        "table": whole["table"],
        "side": side,
        "ledger": side["ledger"],
        "held": side["ledger"]["held"][17],
        "pending": side["ledger"]["waiting"][22],
        "truth": side["ledger"]["held"][17]["truth"],
        "learned": learned,
        "watch": learned["watch"],
    }
    assert {name: " ".join(part) for name, part in found.items()} == {
        name: names for name, names in NAMES.items() if name != "owed"
    }
    due = msgspec.to_builtins(DueUpdate(1, 1, 0.5, 0.5))
    assert " ".join(due) == NAMES["owed"]
