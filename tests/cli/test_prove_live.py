"""`prove live` from the command line: over real sockets, from a real process, to its end."""

import numpy as np
import pytest

from stream_lstm.cli.file_feed import FileFeed
from stream_lstm.serve.daemon import Daemon

from ..test_manual import documented_keys

FEATURES = ("--feature", "diff(x)", "--feature", "y")
SMALL = ("--hidden", 3, "--window", 20, "--bptt", 5, "--learn", *FEATURES)
ROWS = np.random.default_rng(3).normal(size=(300, 2))


def write(path, rows):
    path.write_text("x,y\n" + "\n".join(f"{x!r},{y!r}" for x, y in rows.tolist()) + "\n")
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "a.csv", ROWS)


def test_live_is_replay(cli, file):
    done = cli("prove", "live", file, *SMALL, "--json")
    assert done.code == 0
    found = done.json()
    replayed = cli("replay", file, *SMALL, "--json").json()
    assert found["same"]
    assert found["first_difference"] is None
    assert found["digest"] == {"live": replayed["digest"], "replay": replayed["digest"]}
    for name in ("ticks", "predictions", "updates"):
        assert found[name] == dict.fromkeys(("live", "replay"), replayed[name])
    assert found["updates"]["live"] > 20
    assert "live is replay: the same 28 predictions" in found["verdict"]
    assert set(found) == documented_keys("prove live")


def test_a_tick_that_the_feed_does_not_bring_is_named(cli, file, tmp_path, monkeypatch):
    other = write(tmp_path / "b.csv", np.delete(ROWS, 150, axis=0))

    class OtherFeed(FileFeed, frozen=True):
        @classmethod
        def of(cls, file, columns):
            return FileFeed(str(other), file.stream, columns)

    monkeypatch.setattr("stream_lstm.cli.file_feed.FileFeed", OtherFeed)
    done = cli("prove", "live", file, *SMALL, "--json")
    assert done.code == 70
    found = done.json()["first_difference"]
    assert (found["cause"], found["tick"]) == ("input", 151)
    assert found["what"] == "tick 151 was missing in the live feed"
    assert "live is not replay" in done.err


def test_other_weights_are_named(cli, file, monkeypatch):
    class Nudged(Daemon):
        def __init__(self, config, columns, **options):
            super().__init__(config, columns, **options)
            learned = self.session.learned_for("")
            learned.weights = tuple(array * 1.001 for array in learned.weights)

    monkeypatch.setattr("stream_lstm.serve.daemon.Daemon", Nudged)
    done = cli("prove", "live", file, *SMALL)
    assert done.code == 70
    assert "from prediction 20 on); the weights: the two runs start from other" in done.err
    assert "28 live, 28 replayed" in done.out


def test_what_cannot_be_proved_is_said(cli, file):
    done = cli("prove", "live", file, *SMALL, "--limit", 10)
    assert done.code == 65
    assert "bring no prediction" in done.err
    assert cli("prove", "live", file.with_name("none.csv"), *SMALL).code == 66
