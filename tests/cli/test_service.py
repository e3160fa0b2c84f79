"""`stream-lstm run` as a service: keys, systemd, SIGHUP, SIGSTOP, as who runs it meets them."""

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq

from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.records import Heartbeat, encode_heartbeat, encode_ticks
from stream_lstm.feed.security import Security, make_keys
from stream_lstm.schema import SecurityConfig

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 120.0
SMALL = ("--feature", "x", "--hidden", "4", "--window", "12", "--bptt", "5")
NOWHERE = ("--connect", "tcp://127.0.0.1:1")


@pytest.fixture
def keys(tmp_path):
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


def secured(folder):
    return Security(SecurityConfig(curve_dir=str(folder)))


class Service:
    """A daemon in a process of its own, and the manager that it tells of itself."""

    def __init__(self, folder, *arguments, **environment):
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.settimeout(WAIT_S)
        self.manager.bind(str(folder / "notify"))
        command = Path(sys.executable).with_name("stream-lstm")
        self.process = subprocess.Popen(
            [command, "run", *arguments, "--json", *SMALL],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify"), **environment},
        )
        # before it may stand a warning, such as of a compiled executable that was half written
        lines = iter(self.process.stderr.readline, "")
        self.ready = next((line for line in lines if line.startswith("ready: ")), "")
        assert self.ready, "it ended before it was ready"

    def heard(self, wanted):
        """Wait until the manager hears `wanted`; return all of that message."""
        while True:
            text = self.manager.recv(4096).decode()
            if wanted in text:
                return text

    def hang_up(self):
        """Send SIGHUP, and return the line that says what came of it."""
        self.process.send_signal(signal.SIGHUP)
        return self.process.stderr.readline().strip()

    def pause(self):
        """Stop the process, and return when it stands."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        """Ask for the end, and return the summary."""
        self.process.send_signal(signal.SIGTERM)
        return self.finished()

    def finished(self):
        """Return the summary of the daemon, once it has ended."""
        out, err = self.process.communicate(timeout=WAIT_S)
        assert self.process.returncode == 0, err
        return msgspec.json.decode(out)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()
        self.manager.close()


# ---- keys ---------------------------------------------------------------------------------


def test_keys_are_made_once(cli, tmp_path):
    done = cli("keys", tmp_path / "k")
    assert done.code == 0
    files = [Path(line) for line in done.out.splitlines()]
    assert len(files) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert "--curve-dir" in done.err
    assert not any(path.read_text() in done.out + done.err for path in files)
    again = cli("keys", tmp_path / "k")
    assert again.code == 78
    assert "never overwritten" in again.err
    assert cli("keys", tmp_path / "other", "--json").json()["files"]


def test_keys_that_cannot_be_written_are_code_74(cli):
    done = cli("keys", "/proc/keys-here")
    assert done.code == 74
    assert "cannot write keys to /proc/keys-here" in done.err


@pytest.mark.parametrize(
    "line",
    [
        ("run", *NOWHERE, "--publish", "tcp://*:5556", *SMALL),
        ("publish", "--synthetic", "s0-garch", "--limit", "9", "--bind", "tcp://0.0.0.0:5555"),
    ],
    ids=["run", "publish"],
)
def test_binding_for_others_without_keys_is_code_78(cli, line):
    done = cli(*line)
    assert done.code == 78
    assert "make keys with stream-lstm keys DIR" in done.err
    assert "--insecure" in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    "line",
    [
        ("run", *NOWHERE, *SMALL),
        ("publish", "--synthetic", "s0-garch", "--limit", "9", "--bind", ANY_PORT),
    ],
    ids=["run", "publish"],
)
def test_keys_that_cannot_be_used_are_code_78(cli, keys, line):
    (keys / "client.key_secret").chmod(0o644)
    done = cli(*line, "--curve-dir", keys)
    assert done.code == 78
    assert f"chmod 600 {keys / 'client.key_secret'}" in done.err
    done = cli(*line, "--curve-dir", keys / "nothing")
    assert done.code == 78
    assert f"stream-lstm keys {keys / 'nothing'}" in done.err


def test_it_may_be_asked_for_by_a_file_too(cli, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("[security]\ninsecure = true\n")
    line = ("publish", "--synthetic", "s0-garch", "--limit", "9", "--bind", "tcp://0.0.0.0:*")
    done = cli(*line, "--config", file, "--json")
    assert done.code == 0
    assert done.json()["refused_peers"] == {}


def test_a_daemon_with_keys_counts_who_was_refused(keys, tmp_path):
    with (
        Publisher(ANY_PORT, heartbeats=False, columns=("x",), security=secured(keys)) as out,
        Service(
            tmp_path, "--connect", out.endpoint, "--publish", ANY_PORT, "--curve-dir", keys
        ) as service,
        zmq.Context() as context,
        context.socket(zmq.SUB) as intruder,
    ):
        out.wait_for_subscribers(1, WAIT_S)
        out.publish("a", np.arange(40), np.ones((40, 1)))
        intruder.setsockopt(zmq.RECONNECT_IVL, -1)
        intruder.connect(service.ready.split("publishing on ")[1].split(",")[0])
        assert "stream-lstm: peers refused: 1 " in service.process.stderr.readline()
        summary = service.end()
    assert summary["elements"] == 40
    assert summary["refused_peers"] in ({"no_key": 1}, {"left": 1})


def test_a_feed_that_calls_its_values_otherwise_is_told_of_once(tmp_path):
    with (
        Publisher(ANY_PORT, heartbeats=False, columns=("price",)) as out,
        Service(tmp_path, "--connect", out.endpoint) as service,
    ):
        out.wait_for_subscribers(1, WAIT_S)
        out.publish("a", np.arange(40), np.ones((40, 1)))
        line = service.process.stderr.readline()
        assert service.end()["elements"] == 40
    words = "the feed calls its values price; they are taken by their place, as x"
    assert line == f"stream-lstm: {words}\n"


def test_a_level_far_from_zero_is_named_once(tmp_path):
    values = 1000 + np.random.default_rng(0).normal(size=(1000, 1))
    with (
        Publisher(ANY_PORT, columns=("x",)) as out,
        Service(tmp_path, "--connect", out.endpoint) as service,
    ):
        out.wait_for_subscribers(1, WAIT_S)
        out.publish("a", np.arange(1000), values)
        line = service.process.stderr.readline()
        assert service.end()["elements"] == 1000
    assert line.startswith("stream-lstm: feature x of the stream a is about ")


# ---- systemd ------------------------------------------------------------------------------


def test_systemd_hears_when_it_is_ready_that_it_lives_and_that_it_stops(tmp_path):
    with (
        Publisher(ANY_PORT, heartbeats=False, columns=("x",)) as out,
        Service(tmp_path, "--connect", out.endpoint, WATCHDOG_USEC="300000") as service,
    ):
        assert f"STATUS={service.ready.strip()}" in service.heard("READY=1")
        service.heard("WATCHDOG=1")
        service.heard("WATCHDOG=1")
        service.process.send_signal(signal.SIGHUP)
        service.heard("RELOADING=1")
        service.heard("READY=1")
        service.process.send_signal(signal.SIGTERM)
        service.heard("STOPPING=1")


# ---- SIGHUP -------------------------------------------------------------------------------


def test_a_hangup_takes_over_what_can_change_and_nothing_where_something_cannot(keys, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("[feed]\nmax_streams = 1\n")
    with (
        Publisher(ANY_PORT, heartbeats=False, columns=("x",), security=secured(keys)) as out,
        Service(
            tmp_path, "--connect", out.endpoint, "--curve-dir", keys, "--config", file
        ) as service,
    ):
        out.wait_for_subscribers(1, WAIT_S)
        out.publish("a", 1, [1.0])
        out.publish("b", 1, [1.0])
        assert "more than 1 streams" in service.process.stderr.readline()
        assert service.hang_up() == "stream-lstm: reloaded: keys of clients: 1"

        make_keys(tmp_path / "others")
        (keys / "clients" / "other.key").write_bytes(
            (tmp_path / "others" / "client.key").read_bytes()
        )
        file.write_text("[feed]\nmax_streams = 3\n[model]\nlayers = 2\n")
        said = service.hang_up()
        assert "not reloaded, nothing has changed: layers is 1 and would be 2" in said
        assert "needs a restart" in said
        file.write_text("[feed]\nmax_streams = 0\n")
        assert "not reloaded, nothing has changed" in service.hang_up()
        file.write_text("[feed]\nmax_stream = 3\n")
        assert "did you mean 'max_streams'" in service.hang_up()

        file.write_text("[feed]\nmax_streams = 2\n[security]\nmax_subscriptions = 50\n")
        said = service.hang_up()
        for words in (
            "reloaded: max_streams is 2 and was 1",
            "max_subscriptions is 50 and was 3000",
            "keys of clients: 2",
        ):
            assert words in said
        out.publish("b", 3, [1.0])
        out.publish("c", 1, [1.0])
        assert "refused" in service.process.stderr.readline()
        summary = service.end()
    assert summary["feed"]["streams"] == summary["streams"] == 2
    assert summary["feed"]["refused"] == 2


# ---- SIGSTOP ------------------------------------------------------------------------------


def test_what_came_during_a_pause_is_caught_up(tmp_path):
    """The feed waits for its slowest subscriber: however long the pause, nothing is lost."""
    blocks, rows = 60, 5_000
    with (
        Publisher(
            ANY_PORT, heartbeats=False, columns=("x",), send_hwm=2, send_timeout_s=WAIT_S
        ) as out,
        Service(
            tmp_path, "--connect", out.endpoint, "--receive-hwm", "2", "--until-end"
        ) as service,
    ):
        out.wait_for_subscribers(1, WAIT_S)
        service.pause()
        going_on = threading.Timer(1.0, service.go_on)
        going_on.start()
        for block in np.random.default_rng(1).normal(size=(blocks, rows, 1)):
            out.publish("a", np.zeros(rows, np.int64), block)
        out.end()
        going_on.join()
        summary = service.finished()
    assert summary["elements"] == blocks * rows
    assert (summary["gaps"], summary["missed"]) == (0, 0)


def test_what_was_lost_during_a_pause_is_declared_a_gap(tmp_path):
    """A plain PUB socket drops for a subscriber that does not read: the numbers show it."""
    blocks, rows = 400, 5_000
    with zmq.Context() as context, context.socket(zmq.XPUB) as out:
        out.setsockopt(zmq.SNDHWM, 2)
        out.setsockopt(zmq.SNDBUF, 4096)
        out.bind(ANY_PORT)
        endpoint = out.getsockopt_string(zmq.LAST_ENDPOINT)
        with Service(
            tmp_path, "--connect", endpoint, "--receive-hwm", "2", "--until-end"
        ) as service:
            for _ in range(3):
                assert out.poll(WAIT_S * 1000)
                out.recv()
            service.pause()
            t_ns, values = np.zeros(rows, np.int64), np.zeros((rows, 1))
            for seq in range(1, 1 + blocks * rows, rows):
                out.send_multipart(encode_ticks("a", t_ns, values, session="s", seq=seq))
            service.go_on()
            end = Heartbeat("a", 1 + blocks * rows, "s", end=True)
            while service.process.poll() is None:
                # it is dropped too, until there is room for it
                out.send_multipart(encode_heartbeat(end))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    service.process.wait(0.05)
            summary = service.finished()
    assert summary["gaps"] >= 1
    assert 0 < summary["missed"] < blocks * rows
    assert summary["missed"] + summary["ticks"] == blocks * rows
