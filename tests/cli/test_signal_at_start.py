"""A signal ends a command that starts, whatever it is in the middle of, and hinders no next start.

Where a command compiles it stands still in these tests, in a call that neither returns nor gives
Python a turn: what it does then does not depend on how fast anything is.
"""

import signal
import subprocess
import sys

import numpy as np
import pytest

from stream_lstm.store.writer import StoreLock

STUCK = """
import ctypes, signal, sys

def stuck(*_, **__):
    print("stuck", file=sys.stderr, flush=True)
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    lock(mutex)  # never returns, and a signal does not end it

class Finder:
    def find_spec(name, path=None, target=None):
        if name == where:
            stuck()

where = sys.argv.pop(1)
if where == "jax":
    sys.meta_path.insert(0, Finder)
else:
    from stream_lstm.core.training import Training
    from stream_lstm.model.engine import Engine

    real = Engine._compile
    def compile(self, name, *given, **more):
        return stuck() if name == where else real(self, name, *given, **more)
    Engine._compile = compile
    if where == "training":
        Training.__init__ = stuck
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
from stream_lstm.cli.main import main
main()
"""

WAIT_S = 60.0
CODES = {"SIGTERM": 143, "SIGINT": 130}
SMALL = ("--feature", "x", "--hidden", "4")
NOBODY = "tcp://127.0.0.1:9"

STARTS = {
    "run": ("jax", "SIGTERM", ("run", "--connect", NOBODY, *SMALL)),
    "run, learning": ("strides", "SIGINT", ("run", "--connect", NOBODY, *SMALL, "--learn")),
    "demo": ("advance", "SIGINT", ("demo", "--seconds", "300")),
    "train": (
        "training",
        "SIGTERM",
        ("train", "{folder}/x.csv", *SMALL, "--out", "{folder}/w.safetensors"),
    ),
}


@pytest.fixture
def folder(tmp_path):
    values = np.random.default_rng(0).normal(size=900)
    (tmp_path / "x.csv").write_text("x\n" + "\n".join(f"{x:.6f}" for x in values) + "\n")
    return tmp_path


def ended(where, number, arguments):
    """Send a command that stands still the signal; return its code and what it printed then.

    Processes that it started have its standard error: they are gone where that is at its end.
    """
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, where, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            lines = iter(process.stderr.readline, "")
            before = []
            while (line := next(lines, "")) != "stuck\n":
                assert line, before
                before.append(line)
            process.send_signal(number)
            out, err = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
    return process.returncode, out, err


def stopped_by(name):
    words = f"stopped by {name} before it finished; files contain what was complete"
    return CODES[name], "", f"stream-lstm: {words}\n"


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS)
def test_a_signal_at_the_start_ends_it_with_one_sentence(folder, start):
    where, name, arguments = STARTS[start]
    line = [part.format(folder=folder) for part in arguments]
    assert ended(where, getattr(signal, name), line) == stopped_by(name)


@pytest.mark.slow
def test_a_store_is_as_it_was_and_free_for_the_next_start(folder, cli):
    path = folder / "s.db"
    arguments = ("replay", str(folder / "x.csv"), *SMALL, "--store", str(path))
    first = cli(*arguments, "--json").json()
    assert ended("advance", signal.SIGTERM, arguments) == stopped_by("SIGTERM")
    StoreLock(path).close()
    assert cli("verify", str(path)).code == 0
    again = cli(*arguments, "--json").json()
    elements = again["store"]["held_elements"]
    assert (again["digest"], elements) == (first["digest"], first["elements"])
