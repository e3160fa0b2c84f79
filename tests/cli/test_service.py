"""`stream-lstm run` as a service: keys, systemd, signals, its pages and its log."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq

from stream_lstm.cli.console import REFRESH_S
from stream_lstm.feed.predictions import PredictionSubscriber
from stream_lstm.feed.protocol import Heartbeat, encode_heartbeat, encode_ticks
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.security import Security, make_keys
from stream_lstm.schema import SecurityConfig
from stream_lstm.serve.service import PeerLog

from ..serve.live import get
from .lines import ANY_PORT, NOWHERE, WAIT_S, started, until

SMALL = ("--feature", "x", "--hidden", "4", "--window", "12", "--bptt", "5")


@pytest.fixture
def keys(tmp_path):
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


@contextlib.contextmanager
def publishing(**options):
    with Publisher(ANY_PORT, **{"heartbeats": False, "columns": ("x",)} | options) as out:
        yield out


def secured(folder):
    return Security(SecurityConfig(curve_dir=str(folder)))


class Service:
    """A daemon in a process of its own, and the manager that it reports to."""

    def __init__(self, folder, feed, *arguments, environment=(), **options):
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.settimeout(WAIT_S)
        self.manager.bind(str(folder / "notify"))
        environment = {"NOTIFY_SOCKET": str(folder / "notify"), **dict(environment)}
        line = ("run", "--connect", feed, *arguments, "--json", *SMALL)
        self.process = started(*line, env=os.environ | environment, **options)
        if self.process.stderr is not None:
            # a warning may precede it, such as of a compiled executable that was half written
            self.ready = until(self.process.stderr, "ready")

    def heard(self, wanted):
        """Wait until the manager receives `wanted`; return all of that message."""
        while wanted not in (text := self.manager.recv(4096).decode()):
            pass
        return text

    def line(self):
        return self.process.stderr.readline().strip()

    def hang_up(self):
        """Send SIGHUP, and return the line that reports the result."""
        self.process.send_signal(signal.SIGHUP)
        return self.line()

    def pause(self):
        """Stop the process, and return when it has stopped."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        """Ask for the end, and return the summary."""
        self.manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self.manager.recv(4096):  # a full queue has no room for the last message
                pass
        self.manager.settimeout(WAIT_S)
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


# ---- keys and peers ---------------------------------------------------------------------------

WATCHDOG = {"WATCHDOG_USEC": "300000"}
PUBLISH = ("publish", "--synthetic", "s0-garch", "--limit", "9", "--bind")


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
    done = cli("keys", "/proc/keys-here")
    assert done.code == 74
    assert "cannot write keys to /proc/keys-here" in done.err


@pytest.mark.parametrize(
    ("line", "opened"),
    [
        (("run", *NOWHERE, *SMALL), ("--publish", "tcp://*:5556")),
        ((*PUBLISH, ANY_PORT), ("--bind", "tcp://0.0.0.0:5555")),
    ],
    ids=["run", "publish"],
)
def test_unsafe_addresses_and_unusable_keys_are_code_78(cli, keys, line, opened):
    done = cli(*line, *opened)
    assert (done.code, done.out) == (78, "")
    assert "make keys with stream-lstm keys DIR" in done.err
    assert "--insecure" in done.err
    (keys / "client.key_secret").chmod(0o644)
    for folder, words in (
        (keys, f"chmod 600 {keys / 'client.key_secret'}"),
        (keys / "nothing", f"stream-lstm keys {keys / 'nothing'}"),
    ):
        done = cli(*line, "--curve-dir", folder)
        assert (done.code, words in done.err) == (78, True), done.err


def test_a_file_may_allow_an_unsafe_address(cli, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("[security]\ninsecure = true\n")
    done = cli(*PUBLISH, "tcp://0.0.0.0:*", "--config", file, "--json")
    assert done.code == 0
    assert done.json()["refused_peers"] == {}


class Peers:
    """A log of refused peers, its lines and its clock."""

    def __init__(self, **options):
        self.security, self.lines, self.now = Security(**options), [], 0.0
        self.log = PeerLog(self.security, self.lines.append, lambda: self.now)


def test_refused_peers_are_logged_by_reason_once_and_ever_more_rarely():
    peers = Peers()
    peers.security.refuse("no_key", 2)
    peers.security.refuse("too_many_peers")
    peers.log.tend()
    peers.log.tend()
    assert peers.lines == ["peers refused: 2 no key, 1 too many peers"]
    peers = Peers()
    for second in range(60):
        peers.now = float(second)
        peers.security.refuse("no_key")
        peers.log.tend()
    assert len(peers.lines) == 6
    peers.log.flush()
    assert sum(int(line.split()[2]) for line in peers.lines) == 60


def test_a_peer_that_refuses_us_is_logged_with_what_to_do(tmp_path, keys):
    peers = Peers()
    peers.security.refuse("not_admitted")
    peers.security.give_up("tcp://10.0.0.1:5555", "its handshake failed")
    peers.log.tend()
    peers.log.tend()
    rejected, given_up = peers.lines
    assert rejected.startswith("rejected by the peer that we connect to, 1 time: ")
    assert rejected.endswith("--curve-dir DIR")
    assert given_up == "gave up the connection to tcp://10.0.0.1:5555: its handshake failed"
    keyed = Peers(config=SecurityConfig(curve_dir=str(keys)))
    keyed.security.refuse("not_admitted", 3)
    keyed.log.tend()
    assert str(keys / "client.key") in keyed.lines[0]
    assert "3 times" in keyed.lines[0]


# ---- systemd, SIGHUP ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_daemon_reports_its_life_counts_refused_peers_and_reloads_all_or_nothing(keys, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("[feed]\nmax_streams = 1\n")
    flags = ("--publish", ANY_PORT, "--curve-dir", keys, "--config", file)
    with (
        publishing(security=secured(keys)) as out,
        Service(tmp_path, out.endpoint, *flags, environment=WATCHDOG) as service,
        zmq.Context() as context,
        context.socket(zmq.SUB) as intruder,
    ):
        assert f"STATUS={service.ready.strip()}" in service.heard("READY=1")
        service.heard("WATCHDOG=1")
        service.heard("WATCHDOG=1")
        assert service.hang_up() == "stream-lstm: reloaded: keys of clients: 1"
        service.heard("RELOADING=1")
        service.heard("READY=1")

        intruder.setsockopt(zmq.RECONNECT_IVL, -1)
        intruder.connect(service.ready.split("publishing on ")[1].split(",")[0])
        assert "stream-lstm: peers refused: 1 " in service.line()
        out.wait_for_subscribers(1, WAIT_S)
        out.publish("a", 1, [1.0])
        out.publish("b", 1, [1.0])
        assert "more than 1 streams" in service.line()

        make_keys(tmp_path / "others")
        other = (tmp_path / "others" / "client.key").read_bytes()
        (keys / "clients" / "other.key").write_bytes(other)
        for text, words in (
            (
                "[feed]\nmax_streams = 3\n[model]\nlayers = 2\n",
                "not reloaded, nothing has changed: layers is 1 and would be 2, which needs a re",
            ),
            ("[feed]\nmax_stream = 3\n", "did you mean 'max_streams'"),
        ):
            file.write_text(text)
            assert words in service.hang_up()

        file.write_text("[feed]\nmax_streams = 2\n[security]\nmax_subscriptions = 50\n")
        line = service.hang_up()
        for words in (
            "reloaded: max_streams is 2 and was 1",
            "max_subscriptions is 50 and was 3000",
            "keys of clients: 2",
        ):
            assert words in line
        out.publish("b", 3, [1.0])
        out.publish("c", 1, [1.0])
        assert "refused" in service.line()
        summary = service.end()
        service.heard("STOPPING=1")
    assert summary["feed"]["streams"] == summary["streams"] == 2
    assert summary["feed"]["refused"] == 2
    assert summary["refused_peers"] in ({"no_key": 1}, {"left": 1})


# ---- SIGSTOP ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_ticks_of_a_pause_are_caught_up(tmp_path):
    """The feed waits for its slowest subscriber: however long the pause, nothing is lost."""
    blocks, rows = 60, 5_000
    flags = ("--receive-hwm", "2", "--until-end")
    with (
        publishing(send_hwm=2, send_timeout_s=WAIT_S) as out,
        Service(tmp_path, out.endpoint, *flags) as service,
    ):
        out.wait_for_subscribers(1, WAIT_S)
        service.pause()
        resuming = threading.Timer(0.2, service.resume)
        resuming.start()
        for block in np.random.default_rng(1).normal(size=(blocks, rows, 1)):
            out.publish("a", np.zeros(rows, np.int64), block)
        out.end()
        resuming.join()
        summary = service.finished()
    assert summary["elements"] == blocks * rows
    assert (summary["gaps"], summary["missed"]) == (0, 0)


@pytest.mark.slow
def test_ticks_lost_during_a_pause_are_declared_a_gap(tmp_path):
    """A plain PUB socket drops for a subscriber that does not read: the numbers show it."""
    blocks, rows = 400, 5_000
    with zmq.Context() as context, context.socket(zmq.XPUB) as out:
        out.setsockopt(zmq.SNDHWM, 2)
        out.setsockopt(zmq.SNDBUF, 4096)
        out.bind(ANY_PORT)
        endpoint = out.getsockopt_string(zmq.LAST_ENDPOINT)
        with Service(tmp_path, endpoint, "--receive-hwm", "2", "--until-end") as service:
            for _ in range(3):
                assert out.poll(WAIT_S * 1000)
                out.recv()
            service.pause()
            t_ns, values = np.zeros(rows, np.int64), np.zeros((rows, 1))
            for seq in range(1, 1 + blocks * rows, rows):
                out.send_multipart(encode_ticks("a", t_ns, values, run_id="s", seq=seq))
            service.resume()
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


# ---- pages and log ----------------------------------------------------------------------------


def test_an_address_that_cannot_be_served_is_refused_before_anything_is_compiled(cli, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('[serve]\nmetrics = "0.0.0.0:0"\n')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for code, flags, words in (
            (69, ("--metrics", address), f"metrics at '{address}': Address already in use"),
            (2, ("--metrics", "0.0.0.0:0"), "--insecure"),
            (78, ("--config", file), "insecure"),
            (2, ("--metrics", "9464"), "HOST:PORT"),
        ):
            done = cli("run", *NOWHERE, *SMALL, *flags)
            assert (done.code, words in done.err) == (code, True), done.err
        done = cli("run", *NOWHERE, *SMALL, "--metrics", address, "--log-format", "json")
    line = json.loads(done.err)
    assert done.code == line["exit_code"] == 69
    assert (line["event"], line["level"]) == ("failed", "error")
    assert "already in use" in line["message"]


@pytest.mark.slow
def test_pages_and_log_of_a_daemon_from_start_to_end(tmp_path):
    flags = ("--metrics", "127.0.0.1:0", "--log-format", "json")
    with publishing() as out, Service(tmp_path, out.endpoint, *flags) as service:
        ready = json.loads(service.ready)
        address = ready["message"].split("http://")[1].split("/")[0]
        out.wait_for_subscribers(1, WAIT_S)
        assert get(address, "/livez")[0] == 200
        assert get(address, "/readyz")[0] == 503
        out._socket.send_multipart([b"tick/a/", b"\x1b[2Jrubbish"])
        out.publish("a", np.arange(40), np.ones((40, 1)))
        lines = [json.loads(service.line()) for _ in range(2)]
        while get(address, "/readyz")[0] != 200:
            pass
        assert "stream_lstm_elements_total 40.0" in get(address, "/metrics")[2]
        service.process.send_signal(signal.SIGTERM)
        rest, err = service.process.communicate(timeout=WAIT_S)
    assert service.process.returncode == 0
    assert json.loads(rest)["elements"] == 40
    lines += [json.loads(line) for line in err.splitlines()]
    assert ready["event"] == "ready"
    assert [line["event"] for line in lines] == ["refused", "session_started", "stopped"]
    assert lines[0]["kind"] == "message"
    assert lines[-1]["elements"] == 40


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


@pytest.mark.slow
def test_a_log_that_nobody_reads_delays_nothing(tmp_path, full_pipe):
    flags = ("--until-end", "--log-format", "json")
    with publishing() as out, Service(tmp_path, out.endpoint, *flags, stderr=full_pipe) as service:
        out.wait_for_subscribers(1, WAIT_S)
        for _ in range(50):
            out._socket.send_multipart([b"tick/a/", b"rubbish"])
        out.publish("a", np.arange(400), np.ones((400, 1)))
        out.end()
        summary = service.finished()
    assert (summary["elements"], summary["feed"]["refused"]) == (400, 50)
    assert summary["log_lines_dropped"] > 0


@pytest.mark.slow
def test_an_error_that_nobody_reads_ends_it_with_its_code(full_pipe):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = ("run", *NOWHERE, *SMALL, "--metrics", address)
        with started(*line, stderr=full_pipe) as process:
            assert process.wait(WAIT_S) == 69


CTRL_S, CTRL_Q = b"\x13", b"\x11"


@pytest.mark.slow
def test_a_terminal_that_is_stopped_delays_nothing(tmp_path, monkeypatch):
    """It is stopped (Ctrl-S) before the daemon begins, and goes on (Ctrl-Q) at its end."""
    monkeypatch.setenv("TERM", "xterm")
    terminal, descriptor = os.openpty()
    os.write(terminal, CTRL_S)
    answers = f"ipc://{tmp_path}/answers"
    with (
        PredictionSubscriber(answers) as listener,
        publishing() as out,
        Service(tmp_path, out.endpoint, "--publish", answers, stderr=descriptor) as service,
    ):
        os.close(descriptor)
        out.wait_for_subscribers(1, WAIT_S)
        heard, refreshed = 0, time.monotonic() + 2 * REFRESH_S
        while heard < 100 or time.monotonic() < refreshed:
            out.publish("a", np.arange(10), np.ones((10, 1)))
            heard += len(listener.receive(0.05))
        os.write(terminal, CTRL_Q)
        service.process.send_signal(signal.SIGTERM)
        seen = everything(terminal)
        summary = service.finished()
    os.close(terminal)
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
    again = cli("metrics-dashboard", "--out", tmp_path / "d.json")
    assert (again.code, "exists; --overwrite replaces it" in again.err) == (2, True)
    assert cli("metrics-dashboard", "--out", tmp_path / "d.json", "--overwrite").code == 0
    done = cli("metrics-dashboard", "--out", tmp_path / "nowhere" / "d.json")
    assert done.code == 74


VANISHING = """
GET / HTTP/1.1\r
Host: {host}\r
\r
"""

SOCKET = """
GET /ws HTTP/1.1\r
Host: {host}\r
Origin: http://{host}\r
Upgrade: websocket\r
Connection: Upgrade\r
Sec-WebSocket-Version: 13\r
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
Sec-WebSocket-Protocol: bokeh, {token}\r
\r
"""


def vanish(host, request, **fields):
    """Send a request to a page, and leave after the first bytes of the answer."""
    name, _, port = host.partition(":")
    with socket.create_connection((name, int(port)), WAIT_S) as peer:
        peer.sendall(request.lstrip().format(host=host, **fields).encode())
        answer = peer.recv(100)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    return answer


@pytest.mark.slow
def test_each_line_of_a_json_log_is_json_over_a_whole_session_with_a_page(tmp_path):
    pytest.importorskip("bokeh", reason="bokeh is not installed")
    seen = []

    def heard(words):
        for line in process.stderr:
            seen.append(line)
            if words in line:
                return line
        raise AssertionError(f"no line with {words}: {seen}")

    with contextlib.ExitStack() as stack:
        out = stack.enter_context(publishing(heartbeats=True))
        arguments = ("--connect", out.endpoint, "--publish", ANY_PORT, "--watch", *SMALL)
        process = stack.enter_context(started("run", *arguments, "--log-format", "json"))
        stack.callback(process.kill)
        host = json.loads(heard('"page"'))["message"].split("http://")[1].rstrip("/")
        heard('"ready"')
        assert vanish(host, VANISHING).startswith(b"HTTP/1.1 200")
        vanish(host, SOCKET, token="forged")
        vanish(host, "nonsense\r\n\r\n")
        for k in range(50):
            out.publish("A", k, [float(k % 7)])
        out.publish("A", 51, [float("nan")])
        heard("library")  # Bokeh refuses the forged token
        process.terminate()
        _, errors = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0
    records = [json.loads(line) for line in (*seen, *errors.splitlines())]
    assert {"time", "level", "event", "message"} <= set.intersection(*map(set, records))
    assert {"page", "ready", "library", "stopped"} <= {record["event"] for record in records}


@pytest.mark.slow
def test_the_summary_beside_a_json_log_is_json(cli, tmp_path):
    with publishing() as out:
        feed = "--connect", out.endpoint, "--idle-timeout", "1", "--stale-after", "0.5"
        done = cli("run", *feed, *SMALL, "--log-format", "json")
    assert done.json()["ticks"] == 0
    assert all(json.loads(line)["event"] for line in done.err.splitlines())


@pytest.mark.parametrize("by", ["flag", "environment", "file"])
def test_warnings_and_errors_before_the_log_is_open_are_json_too(cli, tmp_path, monkeypatch, by):
    path = tmp_path / "s.toml"
    path.write_text("[stream]\ntable = true\n" + '[serve]\nlog_format = "json"\n' * (by == "file"))
    given = ["--config", path] + ["--log-format", "json"] * (by == "flag")
    if by == "environment":
        monkeypatch.setenv("STREAM_LSTM_LOG_FORMAT", "json")
    done = cli("run", *given, "--feature", "x", "-v")
    records = [json.loads(line) for line in done.err.splitlines()]
    assert [record["event"] for record in records] == ["start", "failed"]
    done = cli("run", *given, "--hidden", "0")
    (failed,) = (json.loads(line) for line in done.err.splitlines())
    assert (failed["event"], failed["exit_code"]) == ("failed", done.code)
    assert "hidden" in failed["message"]
