"""`run` as who operates it meets it: its pages, its log as JSON, and what nobody reads of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from stream_lstm.cli.live_table import REFRESH_S
from stream_lstm.feed.predictions import PredictionSubscriber
from stream_lstm.feed.publisher import Publisher

from ..serve.monitored import asked

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 120.0
CTRL_S, CTRL_Q = b"\x13", b"\x11"
SMALL = ("--feature", "x", "--hidden", "4", "--window", "12", "--bptt", "5")
NOWHERE = ("--connect", "tcp://127.0.0.1:1")
COMMAND = (sys.executable, "-c", "from stream_lstm.cli.main import main; main()")


@pytest.fixture
def publisher():
    with Publisher(ANY_PORT, heartbeats=False, columns=("x",), session="s1") as made:
        yield made


def started(publisher, *arguments, stderr=subprocess.PIPE):
    line = (*COMMAND, "run", "--connect", publisher.endpoint, "--json", *SMALL, *arguments)
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=stderr, text=True)


def test_a_port_that_is_taken_is_code_69_before_anything_is_compiled(cli):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = cli("run", *NOWHERE, *SMALL, "--metrics", address)
    assert done.code == 69
    assert f"cannot serve metrics at '{address}': Address already in use" in done.err


def test_others_are_not_let_in_unless_that_is_asked_for(cli, tmp_path):
    done = cli("run", *NOWHERE, *SMALL, "--metrics", "0.0.0.0:0")
    assert done.code == 2
    assert "--insecure" in done.err
    file = tmp_path / "c.toml"
    file.write_text('[serve]\nmetrics = "0.0.0.0:0"\n')
    assert cli("run", *NOWHERE, *SMALL, "--config", file).code == 78
    done = cli("run", *NOWHERE, *SMALL, "--metrics", "9464")
    assert done.code == 2
    assert "HOST:PORT" in done.err


def test_a_mistake_is_a_line_of_json_where_the_log_is(cli):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = cli("run", *NOWHERE, *SMALL, "--metrics", address, "--log-format", "json")
    said = json.loads(done.err)
    assert done.code == said["exit_code"] == 69
    assert (said["event"], said["level"]) == ("failed", "error")
    assert "already in use" in said["message"]


def test_pages_and_log_of_a_daemon_from_start_to_end(publisher):
    arguments = ("--metrics", "127.0.0.1:0", "--log-format", "json")
    with started(publisher, *arguments) as process:
        ready = json.loads(process.stderr.readline())
        address = ready["message"].split("http://")[1].split("/")[0]
        publisher.wait_for_subscribers(1, WAIT_S)
        assert asked(address, "/livez")[0] == 200
        assert asked(address, "/readyz")[0] == 503
        publisher._socket.send_multipart([b"tick/a/", b"\x1b[2Jrubbish"])
        publisher.publish("a", np.arange(40), np.ones((40, 1)))
        said = [json.loads(process.stderr.readline()) for _ in range(2)]
        while asked(address, "/readyz")[0] != 200:
            pass
        assert "stream_lstm_elements_total 40.0" in asked(address, "/metrics")[2]
        process.send_signal(signal.SIGTERM)
        out, rest = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert json.loads(out)["elements"] == 40
    said += [json.loads(line) for line in rest.splitlines()]
    assert ready["event"] == "ready"
    assert [line["event"] for line in said] == ["refused", "session_started", "stopped"]
    assert said[0]["kind"] == "message"
    assert said[-1]["elements"] == 40


@pytest.fixture
def full_pipe():
    """The end to write to of a pipe that is full, and that nobody ever reads."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(write, True)
    yield write
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_log_that_nobody_reads_holds_nothing_up(publisher, full_pipe, form):
    with started(publisher, "--until-end", "--log-format", form, stderr=full_pipe) as process:
        publisher.wait_for_subscribers(1, WAIT_S)
        for _ in range(50):
            publisher._socket.send_multipart([b"tick/a/", b"rubbish"])
        publisher.publish("a", np.arange(400), np.ones((400, 1)))
        publisher.end()
        out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    summary = json.loads(out)
    assert (summary["elements"], summary["feed"]["refused"]) == (400, 50)
    assert summary["log_lines_dropped"] > 0


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_error_that_nobody_reads_ends_it_with_its_code(full_pipe, form):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = (*COMMAND, "run", *NOWHERE, *SMALL, "--metrics", address, "--log-format", form)
        done = subprocess.run(line, stderr=full_pipe, timeout=WAIT_S, check=False)
    assert done.returncode == 69


def test_a_terminal_that_is_stopped_holds_nothing_up(publisher, tmp_path, monkeypatch):
    """It is stopped (Ctrl-S) before the daemon begins, and goes on (Ctrl-Q) at its end."""
    monkeypatch.setenv("TERM", "xterm")
    terminal, descriptor = os.openpty()
    os.write(terminal, CTRL_S)
    answers = f"ipc://{tmp_path}/answers"
    arguments = ("--publish", answers)
    with (
        PredictionSubscriber(answers) as listener,
        started(publisher, *arguments, stderr=descriptor) as process,
    ):
        os.close(descriptor)
        publisher.wait_for_subscribers(1, WAIT_S)
        heard, refreshed = 0, time.monotonic() + 4 * REFRESH_S
        while heard < 100 or time.monotonic() < refreshed:
            publisher.publish("a", np.arange(10), np.ones((10, 1)))
            heard += len(listener.receive(0.05))
        os.write(terminal, CTRL_Q)
        process.send_signal(signal.SIGTERM)
        seen = everything(terminal)
        out, _ = process.communicate(timeout=WAIT_S)
    os.close(terminal)
    assert process.returncode == 0
    summary = json.loads(out)
    assert summary["log_lines_dropped"] == 0
    assert "ready: " in seen
    last = [line for line in seen.splitlines() if line.startswith("a ")][-1]
    assert last.split()[1] == str(summary["elements"])


def everything(terminal):
    """What is written to a terminal until nobody has it open any more."""
    seen = b""
    while True:
        try:
            seen += os.read(terminal, 65536)
        except OSError:
            return seen.decode()


def test_the_dashboard_is_written_out(cli, tmp_path):
    printed = cli("metrics-dashboard").json()
    assert printed["uid"] == "stream-lstm"
    done = cli("metrics-dashboard", "--out", tmp_path / "d.json")
    assert json.loads((tmp_path / "d.json").read_text()) == printed
    assert (done.code, done.out) == (0, "")
    done = cli("metrics-dashboard", "--out", tmp_path / "nowhere" / "d.json")
    assert done.code == 74
