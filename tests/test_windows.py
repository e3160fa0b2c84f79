"""The package without what Windows lacks: POSIX modules, and POSIX names of `os` and `signal`.

A child process hides them once the libraries are imported, which know the system they run on.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from stream_lstm import platform
from stream_lstm.cli.start import use_utf_8

HIDE = """
import asyncio, ctypes, filelock, importlib, json, multiprocessing, os, pkgutil, shutil, signal
import socket, sys, types, warnings
import bokeh.plotting, bokeh.server.server, flax.nnx, h5py, jax, jax.numpy, msgspec, onnx, optax
import playwright.sync_api, prometheus_client, pyarrow.csv, pyarrow.parquet, river.base, rich.live
import safetensors.numpy, scipy.special, sqlite3, subprocess, tempfile, typer.rich_utils
import websockets, zmq.asyncio, zmq.auth
from pathlib import Path

jax.numpy.zeros(3).block_until_ready()

for name in ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None
for name in ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "chown", "fork", "geteuid",
             "getuid", "killpg", "pread", "pwrite", "register_at_fork", "set_blocking", "setsid",
             "sysconf", "uname"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGQUIT", "pthread_kill", "sigwait"):
    delattr(signal, name)
sys.platform = "win32"

class Proactor(asyncio.SelectorEventLoop):
    def add_reader(self, *arguments):
        raise NotImplementedError

    add_signal_handler = add_reader

asyncio.events.new_event_loop = asyncio.new_event_loop = Proactor
warnings.filterwarnings("error", category=EncodingWarning, module="stream_lstm")
"""

IMPORT = """
import stream_lstm
for found in pkgutil.walk_packages(stream_lstm.__path__, "stream_lstm."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
        print(found.name)
"""

USE = """
from stream_lstm.cli import main
os.chdir(sys.argv.pop())
for line in sys.stdin:
    sys.argv[1:] = json.loads(line)
    try:
        main.main()
    except SystemExit as ended:
        assert not ended.code, line
"""

KEYS = """
from stream_lstm.feed.security import make_keys, read_clients, read_pair
folder = Path(sys.argv[1]) / "keys"
make_keys(folder)
for file in folder.rglob("*.key*"):
    file.chmod(0o666)  # what every file has there
assert len(read_pair(folder, "server").public) == 40
print("clients:", len(read_clients(folder)))
from stream_lstm.feed.security import Security
from stream_lstm.schema import SecurityConfig
from stream_lstm.serve.service import Service
from stream_lstm.serve.signals import StopSwitch
with warnings.catch_warnings(record=True) as told:
    security = Security(SecurityConfig(curve_dir=str(folder)))
print(*(one.message for one in told))
with StopSwitch() as stop:
    service = Service(None, None, security, stop, types.SimpleNamespace(named=print))
    before = service._watched.changed()
    (folder / "clients" / "another.key").write_bytes((folder / "client.key").read_bytes())
    os.utime(folder / "clients", ns=(0, 0))
    print("reload:", before, service._watched.changed(), service._watched.changed())
"""

LOCK = """
from stream_lstm.errors import LockedError
from stream_lstm.store.writer import StoreLock
store = Path(sys.argv[1]) / "s.db"
with_lock = StoreLock(store)
try:
    StoreLock(store)
except LockedError as error:
    print(error)
with_lock.close()
StoreLock(store).close()
"""

LIVE = """
import threading, time, traceback
from stream_lstm.cli import main
from stream_lstm.errors import EndpointError
from stream_lstm.feed.publisher import Publisher
try:
    Publisher("ipc://somewhere", columns=("x",))
except EndpointError as error:
    print(error)
folder = Path(sys.argv[1])
out = Publisher("tcp://127.0.0.1:*", columns=("x",), heartbeats=False)
(folder / "c.toml").write_text("[feed]\\nmax_streams = 50\\n", encoding="utf-8")

def drive():
    with out:
        out.wait_for_subscribers(1, 120.0)
        for k in range(40):
            out.publish("a", k, [float(k % 5)])
        new = folder / "new.toml"
        new.write_text("[feed]\\nmax_streams = 60\\n", encoding="utf-8")
        os.replace(new, folder / "c.toml")
        while "reloaded" not in (folder / "log").read_text(encoding="utf-8"):
            time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY)
os.dup2(log, 2)
threading.Thread(target=drive, daemon=True).start()
sys.argv[1:] = ["run", "--connect", out.endpoint, "--feature", "x", "--window", "12",
                "--hidden", "2", "--config", str(folder / "c.toml"), "--json"]
try:
    main.main()
except SystemExit as ended:
    assert not ended.code
"""

BRIDGE = """
import threading
from stream_lstm.cli import main
from stream_lstm.feed.publisher import Publisher
lines = socket.create_server(("127.0.0.1", 0))
send = Publisher.publish

def publish(self, *arguments):
    send(self, *arguments)
    signal.raise_signal(signal.SIGTERM)

def drive():
    with lines.accept()[0] as peer:
        peer.sendall(b'{"x": 1.5}\\n')
        peer.recv(1)  # until the bridge has stopped

Publisher.publish = publish
threading.Thread(target=drive, daemon=True).start()
sys.argv[1:] = ["bridge", f"tcp://127.0.0.1:{lines.getsockname()[1]}", "--payload", "json",
                "--columns", "x", "--stream-name", "a", "--bind", "tcp://127.0.0.1:*", "--json"]
try:
    main.main()
except SystemExit as ended:
    assert not ended.code
"""

SIGNALS = """
from stream_lstm.serve.signals import (
    StopSwitch, leave_on_signals, note_hangups, stop_on_signals
)
with leave_on_signals(), StopSwitch() as stop, stop_on_signals(stop):
    with note_hangups(stop, print):
        signal.raise_signal(signal.SIGTERM)
        print("stopped:", stop.requested)
"""


def elsewhere(code: str, *arguments: object, given: str = "") -> list[str]:
    """The lines that a child process prints."""
    python = [sys.executable, "-X", "warn_default_encoding"]
    done = subprocess.run(
        [*python, "-c", HIDE + code, *map(str, arguments)],
        input=given,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_module_can_be_imported() -> None:
    package = Path(__file__).resolve().parents[1] / "stream_lstm"
    files = {path for path in package.rglob("*.py") if path.name != "__main__.py"}
    files = {path for path in files if path.parent.name != "examples"}  # programs, not modules
    assert len(elsewhere(IMPORT)) == len(files) - 1  # the package itself was there before


def test_a_file_is_replayed_into_a_store_and_the_store_is_verified(tmp_path: Path) -> None:
    rows = "\n".join(f"{k},{(-1) ** k * k}" for k in range(1, 200))
    (tmp_path / "x.csv").write_text(f"t,x\n{rows}\n")
    size = ["--window", "20", "--hidden", "4", "--stride", "5"]
    calls = [
        ["replay", "x.csv", "--feature", "x", *size, "--store", "s.db", "--learn", "--json"],
        ["verify", "s.db", "--json"],
        ["export", "s.db", "--out", "tables", "--json"],
    ]
    lines = elsewhere(USE, tmp_path, given="".join(json.dumps(call) + "\n" for call in calls))
    replayed, verified, exported = map(json.loads, lines)
    assert replayed["peak_rss_bytes"] == 0
    assert verified["checked"] == replayed["predictions"] > 0
    assert exported
    assert list((tmp_path / "tables").iterdir())


def test_keys_locks_and_signals_work(tmp_path: Path) -> None:
    """Files of keys are read in any mode, a store has one owner, and a hangup does not exist."""
    clients, told, _, reload, locked, stopped = elsewhere(KEYS + LOCK + SIGNALS, tmp_path)
    assert clients == "clients: 1"
    assert f'run icacls "{tmp_path / "keys"}" /inheritance:r' in told
    assert reload == "reload: False True False"
    assert "s.db is in use by process " in locked
    assert stopped == "stopped: True"


def test_a_bridge_watches_sockets_and_stops() -> None:
    (summary,) = elsewhere(BRIDGE)
    assert json.loads(summary)["ticks"] == 1
    assert json.loads(summary)["interrupted"]


def test_a_file_that_somebody_reads_is_replaced_later(monkeypatch, tmp_path: Path) -> None:
    waits: list[float] = []
    monkeypatch.setattr(platform, "WINDOWS", True)
    event = SimpleNamespace(wait=waits.append)
    monkeypatch.setattr(platform, "threading", SimpleNamespace(Event=lambda: event))

    def refuse(new: Path, old: Path) -> None:
        if len(waits) < readers:
            raise PermissionError(13, "Access is denied")
        new.rename(old)

    monkeypatch.setattr(os, "replace", refuse)
    for readers in (0, 3, 1000):
        waits.clear()
        new, old = tmp_path / "new", tmp_path / "old"
        new.write_text("new", encoding="utf-8")
        with pytest.raises(PermissionError) if readers == 1000 else contextlib.nullcontext():
            platform.replace(new, old)
        assert len(waits) == min(readers, platform.ATTEMPTS - 1)
        assert new.exists() == (readers == 1000)


def test_streams_of_a_code_page_become_utf_8(monkeypatch) -> None:
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    with io.BytesIO() as data, io.TextIOWrapper(data, "cp1252") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        use_utf_8()
        stream.write("1 \u00b5s \u2192")
        stream.flush()
        assert data.getvalue().decode() == "1 \u00b5s \u2192"


@pytest.mark.slow
def test_a_daemon_runs_reloads_a_changed_file_and_stops(tmp_path: Path) -> None:
    refused, summary = elsewhere(LIVE, tmp_path)
    assert refused.startswith("cannot bind 'ipc://somewhere': Windows has no paths of sockets")
    assert json.loads(summary)["ticks"] == 40
    assert "reloaded: max_streams is 60 and was 50" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_demo_runs_and_a_file_is_published(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("x\n" + "\n".join(map(str, range(50))) + "\n")
    calls = [
        ["demo", "--seconds", "0.5", "--json"],
        ["publish", "x.csv", "--bind", "tcp://127.0.0.1:*", "--columns", "x", "--speed", "max"],
        ["--help"],
    ]
    lines = elsewhere(USE, tmp_path, given="".join(json.dumps(call) + "\n" for call in calls))
    assert json.loads(lines[0])["elements"] > 0
    assert any("Usage" in line for line in lines)


POSIX = re.compile(
    r"import (fcntl|resource|pwd|grp|msvcrt|termios)|os\.(ge|g)etuid|signal\.SIG(HUP|KILL|BREAK)"
)


def test_what_only_one_system_has_is_in_one_module() -> None:
    package = Path(__file__).resolve().parents[1] / "stream_lstm"
    found = {path.name for path in package.rglob("*.py") if POSIX.search(path.read_text("utf-8"))}
    assert found == {"platform.py"}


def test_every_file_of_tests_can_be_imported_on_every_system() -> None:
    tests = Path(__file__).resolve().parent
    early = re.compile(r"^(import|from) (fcntl|resource|pwd|grp|pty|termios|tty)\b", re.MULTILINE)
    found = {path.name for path in tests.rglob("*.py") if early.search(path.read_text("utf-8"))}
    assert found == set()


def test_texts_are_read_and_written_as_utf_8() -> None:
    package = Path(__file__).resolve().parents[1] / "stream_lstm"
    for path in package.rglob("*.py"):
        source = path.read_text("utf-8")
        for call in re.findall(r"\.(?:read_text|write_text)\([^()]*\)", source):
            assert "encoding" in call, f"{path.name}: {call}"
