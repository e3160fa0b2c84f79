"""The example publishers of the manual, against a real daemon."""

import json
import shutil
import subprocess
import sys
from importlib.resources import files

import pytest
import zmq

EXAMPLES = files("stream_lstm") / "manual" / "examples"
TICKS = 400


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_a_publisher_in_node_feeds_a_daemon():
    with zmq.Context() as context, context.socket(zmq.PUB) as probe:
        port = probe.bind_to_random_port("tcp://127.0.0.1")
    line = ["run", "--connect", f"tcp://127.0.0.1:{port}", "--feature", "price", "--until-end"]
    small = ["--hidden", "4", "--window", "20", "--json"]
    publisher = subprocess.Popen(["node", EXAMPLES / "publisher.mjs", str(port), str(TICKS)])
    try:
        command = [sys.executable, "-m", "stream_lstm", *line, *small]
        daemon = subprocess.run(command, capture_output=True, timeout=120, check=False)
        assert daemon.returncode == 0, daemon.stderr.decode()
        assert publisher.wait(20) == 0
    finally:
        publisher.kill()
        publisher.wait()
    summary = json.loads(daemon.stdout.splitlines()[-1])
    assert summary["ticks"] == summary["elements"] == TICKS
    assert summary["feed"]["gaps"] == summary["feed"]["repeats"] == 0
