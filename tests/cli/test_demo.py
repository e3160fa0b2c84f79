"""`stream-lstm demo` in a process of its own: it works, it ends, and it leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

WAIT_S = 120.0


def start(*arguments):
    command = Path(sys.executable).with_name("stream-lstm")
    return subprocess.Popen(
        [command, "demo", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def feed_of(err):
    """The process id of the feed."""
    return int(re.search(r"ready: .*process (\d+)", err)[1])


def assert_gone(pid):
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_shows_a_model_that_learns_and_says_so():
    process = start("--seconds", "3", "--json")
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
    assert_gone(feed_of(err))
    assert "\x1b" not in out + err
    summary = msgspec.json.decode(out)
    assert summary["elements"] == 6000
    assert summary["labels"] == 590
    assert summary["interrupted"] is False
    figures = summary["forecasters"]["all"]
    assert figures["model"]["log_loss"] == pytest.approx(summary["log_loss"], abs=1e-12)
    assert figures["model"]["accuracy"] == pytest.approx(summary["accuracy"], abs=1e-12)
    for plain in ("base_rate", "last_label"):
        assert figures[plain]["accuracy"] == pytest.approx(summary[f"{plain}_accuracy"])
        assert figures[plain]["log_loss"] == pytest.approx(summary[f"{plain}_log_loss"])
    order = ("best", "model", "last_label", "base_rate")
    losses = [figures[name]["log_loss"] for name in order]
    assert losses == sorted(losses)


def test_ctrl_c_ends_it_with_the_figures_so_far():
    process = start("--seconds", "300", "--speed", "3000")
    try:
        err = ""
        while "ready: " not in err:
            line = process.stderr.readline()
            assert line, err
            err += line
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, rest
    assert rest == ""
    assert_gone(feed_of(err))
    assert "Next, a file of yours: stream-lstm replay" in out
