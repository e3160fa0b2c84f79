"""The server of the live page: how many pages may be open."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request

import pytest

pytest.importorskip("bokeh", reason="bokeh is not installed")

SERVE = """
from stream_lstm.view import live as server
server.MAX_PAGES = 2
server.LivePage = lambda document, *_: None
server.serve(None, "tcp://127.0.0.1:1", 0, lambda address: print(address, flush=True))
"""


@pytest.fixture
def address():
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.mark.slow
def test_pages_beyond_the_limit_are_refused_before_they_are_made(address):
    for _ in range(2):
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(address, timeout=30)
    assert refused.value.code == 503
    assert refused.value.headers["Retry-After"] == "15"
    assert b"2 pages are open" in refused.value.read()
    refused.value.close()
    with urllib.request.urlopen(f"{address}static/js/bokeh.min.js", timeout=30) as answer:
        assert answer.status == 200, "the pages that are open have their scripts"
