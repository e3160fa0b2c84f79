"""The first moments of the command, when nothing is there yet that could tell of an interrupt."""

import signal
import subprocess
import sys

AS_FROM_A_SHELL = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""Where tests run in the background, an interrupt is ignored."""

INTERRUPTED = """
import os, signal, sys

class Finder:
    def find_spec(name, path=None, target=None):
        if name == "stream_lstm.cli.replay":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder)
from stream_lstm.cli.start import main
main()
"""


def ran(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", AS_FROM_A_SHELL + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_interrupt_within_the_imports_ends_it_without_a_traceback():
    done = ran(INTERRUPTED)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_otherwise_it_is_the_command_line_with_interrupts_as_python_has_them():
    code = "from stream_lstm.cli.start import main; main()"
    done = ran(code, "--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "stream-lstm")
    told = "lambda: print(signal.getsignal(signal.SIGINT).__name__)"
    kept = f"import atexit; atexit.register({told}); {code}"
    assert ran(kept, "--version").stdout.splitlines()[-1] == "default_int_handler"
