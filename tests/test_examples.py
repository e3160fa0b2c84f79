"""The example programs of the manual, against a real daemon."""

import contextlib
import json
import shutil
import subprocess
import sys
from importlib.resources import files

import pytest
import zmq

EXAMPLES = files("stream_lstm") / "manual" / "examples"
TICKS = 400


def free_ports(count):
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        sockets = [stack.enter_context(context.socket(zmq.PUB)) for _ in range(count)]
        return [socket.bind_to_random_port("tcp://127.0.0.1") for socket in sockets]


def program(name):
    """The command line of an example, without its arguments."""
    if name.endswith(".mjs"):
        if shutil.which("node") is None:
            pytest.skip("Node is not installed")
        return ["node", str(EXAMPLES / name)]
    pytest.importorskip("msgpack", reason="msgpack is not installed")
    return [sys.executable, str(EXAMPLES / name)]


@pytest.mark.slow
@pytest.mark.parametrize("subscriber", ["subscriber.py", "subscriber.mjs"])
@pytest.mark.parametrize("publisher", ["publisher.py", "publisher.mjs"])
def test_examples_publish_to_a_daemon_and_read_its_predictions(publisher, subscriber):
    given, made = free_ports(2)
    small = ["--hidden", "4", "--window", "20", "--json"]
    daemon = ["run", "--connect", f"tcp://127.0.0.1:{given}", "--feature", "price", "--until-end"]
    daemon += ["--publish", f"tcp://127.0.0.1:{made}", "--encoding", "json"]
    if subscriber.endswith(".py"):
        daemon.remove("--encoding")
        daemon.remove("json")
    with contextlib.ExitStack() as stack:
        reading = stack.enter_context(
            subprocess.Popen([*program(subscriber), str(made)], stdout=subprocess.PIPE, text=True)
        )
        stack.callback(reading.kill)
        line = [sys.executable, "-m", "stream_lstm", *daemon, *small]
        running = stack.enter_context(
            subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        stack.callback(running.kill)
        next(said for said in running.stderr if "ready" in said)
        sending = stack.enter_context(
            subprocess.Popen([*program(publisher), str(given), str(TICKS)])
        )
        stack.callback(sending.kill)
        out, errors = running.communicate(timeout=120)
        assert running.returncode == 0, errors
        assert sending.wait(20) == 0
        told, _ = reading.communicate(timeout=20)
    summary = json.loads(out)
    assert summary["ticks"] == summary["elements"] == TICKS
    assert summary["feed"]["gaps"] == summary["feed"]["repeats"] == 0
    rows = [row.split() for row in told.splitlines()]
    assert rows, "the subscriber may join late, but not after the last"
    assert all(name == "PRICE" and 0.0 < float(p) < 1.0 for name, _, p in rows)
    assert int(rows[-1][1]) == TICKS
