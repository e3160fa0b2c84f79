"""The package without what Windows lacks: POSIX modules, and POSIX names of `os` and `signal`.

A child process hides them once the libraries are imported, which know the system they run on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HIDE = """
import asyncio, ctypes, importlib, json, multiprocessing, os, pkgutil, shutil, signal, socket, sys
import bokeh.plotting, bokeh.server.server, flax.nnx, h5py, jax, jax.numpy, msgspec, onnx, optax
import playwright.sync_api, prometheus_client, pyarrow.csv, pyarrow.parquet, river.base, rich.live
import safetensors.numpy, scipy.special, sqlite3, subprocess, tempfile, typer.rich_utils
import websockets, zmq.asyncio, zmq.auth
import types
from pathlib import Path

jax.numpy.zeros(3).block_until_ready()

import fcntl

def locking(descriptor, mode, count):
    assert os.lseek(descriptor, 0, os.SEEK_CUR) > 1000, "the text of the lock must stay readable"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None

sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
for name in ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None
for name in ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "chown", "fork", "geteuid",
             "getuid", "killpg", "pread", "pwrite", "register_at_fork", "set_blocking", "setsid",
             "sysconf", "uname"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGQUIT", "pthread_kill", "sigwait"):
    delattr(signal, name)
sys.platform = "win32"
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
    line = [sys.executable, "-c", HIDE + code, *map(str, arguments)]
    done = subprocess.run(line, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_module_can_be_imported() -> None:
    package = Path(__file__).resolve().parents[1] / "stream_lstm"
    files = {path for path in package.rglob("*.py") if path.name != "__main__.py"}
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
    clients, locked, stopped = elsewhere(KEYS + LOCK + SIGNALS, tmp_path)
    assert clients == "clients: 1"
    assert "s.db is in use by process " in locked
    assert stopped == "stopped: True"
