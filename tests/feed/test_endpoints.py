"""Endpoints on a system without POSIX modules, as Windows is."""

from .received import python

ELSEWHERE = """
import sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
from stream_lstm import PredictionSubscriber, Publisher, bridge
from stream_lstm.errors import EndpointError
with Publisher("tcp://127.0.0.1:*", columns=["x"], recovery="tcp://127.0.0.1:*") as out:
    with PredictionSubscriber(out.endpoint) as into:
        out.publish("A", 0, [1.0])
        into.receive(0.0)
try:
    Publisher("ipc:///nowhere/feed", columns=["x"])
except EndpointError as error:
    print(error)
"""


def test_a_feed_needs_no_posix_modules():
    (line,) = python(ELSEWHERE)
    assert line.startswith("cannot bind 'ipc:///nowhere/feed': this system has no file locks")
    assert line.endswith("bind tcp://127.0.0.1:PORT")
