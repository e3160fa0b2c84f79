"""`watch`, and `--watch` of `run` and `demo`, from the command line; see also tests/view."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from stream_lstm.cli.watch_option import page_process
from stream_lstm.config import build
from stream_lstm.errors import EndpointError
from stream_lstm.feed.predictions import PredictionPublisher
from stream_lstm.feed.security import Security, make_keys
from stream_lstm.schema import SecurityConfig

pytest.importorskip("bokeh", reason="bokeh is not installed")


@pytest.fixture
def published():
    with PredictionPublisher("tcp://127.0.0.1:*") as publisher:
        yield publisher


def test_the_page_of_a_daemon_is_served_on_loopback_and_goes_with_it(published):
    with page_process(published.endpoint, build({})) as page:
        address = page.endpoint()
        assert address.startswith("http://127.0.0.1:")
        published.wait_for_subscribers(1, timeout_s=30)
        with urllib.request.urlopen(address, timeout=30) as answer:
            html = answer.read().decode()
        for path in ("", "ws", "static/js/bokeh.min.js"):
            asked = urllib.request.Request(address + path, headers={"Host": "evil.example"})
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(asked, timeout=30)
            assert refused.value.code == 403
            assert b"'evil.example' is not served here" in refused.value.read()
            refused.value.close()
    assert published.endpoint in html
    assert "<h3>Rolling accuracy</h3>" in html
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=30)


def test_a_daemon_that_does_not_let_it_in_is_told_of(tmp_path):
    make_keys(tmp_path / "keys")
    keyed = Security(SecurityConfig(curve_dir=str(tmp_path / "keys")))
    command = Path(sys.executable).with_name("stream-lstm")
    with PredictionPublisher("tcp://127.0.0.1:*", security=keyed) as published:
        words = [command, "watch", "--connect", published.endpoint, "--port", "0"]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            line = next(line for line in process.stderr if not line.startswith("ready"))
            process.terminate()
    assert "--curve-dir" in line


def test_a_page_that_cannot_be_served_is_told(tmp_path):
    config = build({"curve_dir": str(tmp_path / "none")})
    with (
        page_process("tcp://127.0.0.1:5999", config) as page,
        pytest.raises(EndpointError, match="the live page ended with code 1"),
    ):
        page.endpoint()


def test_a_port_that_is_taken_is_told_with_what_to_do(published):
    # in another process, since the server leaves the socket that it could not bind to its end
    program = "from stream_lstm.cli.main import main; main()"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["watch", "--connect", published.endpoint, "--port", str(port)]
        ended = subprocess.run(
            [sys.executable, "-c", program, *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 69
    assert f"cannot serve the live page at 127.0.0.1:{port}" in ended.stderr
    assert "choose another port with --port" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("watch", "--connect", "nowhere"), 69, "cannot connect to 'nowhere'"),
        (("watch", "--connect", "tcp://127.0.0.1:5999", "--store", "no.db"), 66, "no such store"),
        (
            ("run", "--connect", "tcp://127.0.0.1:5999", "--feature", "x", "--watch"),
            2,
            "say where with --publish",
        ),
    ],
)
def test_a_mistake_is_told_in_one_sentence(cli, arguments, code, told):
    outcome = cli(*arguments)
    assert outcome.code == code
    assert told in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_demo_that_is_watched_has_a_store_for_its_page_that_is_gone_at_the_end(tmp_path):
    command = Path(sys.executable).with_name("stream-lstm")
    with subprocess.Popen(
        [command, "demo", "--seconds", "300", "--watch", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:
        line = ""
        while "live page: " not in line:
            line = process.stderr.readline()
            assert line
        assert list(tmp_path.glob("stream-lstm-*/demo.db"))
        with urllib.request.urlopen(line.split("live page: ")[1].strip(), timeout=60) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["interrupted"] is True
    assert not list(tmp_path.glob("stream-lstm-*"))
