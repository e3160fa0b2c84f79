"""What ties a snapshot to the settings that give it meaning."""

import hashlib

import msgspec
import pytest

from stream_lstm.config import Config, build
from stream_lstm.core.snapshot import fingerprint

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
