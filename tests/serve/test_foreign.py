"""What libraries and threads write is part of the log."""

import json
import logging
import subprocess
import sys
import threading
import warnings

import pytest

from stream_lstm.serve.foreign import foreign_lines
from stream_lstm.serve.logs import Log


def fail():
    raise ValueError("broken\nin two lines")


def trouble():
    """Cause a line of each source."""
    logging.getLogger("library.part").warning("odd %s", "thing")
    logging.getLogger("library").info("not worth a line")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    thread = threading.Thread(target=fail, name="worker")
    thread.start()
    thread.join()
    try:
        fail()
    except ValueError:
        logging.getLogger("library").exception("it failed")


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_python_would_write_is_in_the_log(form, capsys):
    lines = []
    before = threading.excepthook, sys.unraisablehook, logging.getLogger().handlers[:]
    with foreign_lines(Log(form, lines.append)):
        trouble()
    assert (threading.excepthook, sys.unraisablehook, logging.getLogger().handlers) == before
    assert capsys.readouterr().err == ""
    told = [json.loads(line)["message"] for line in lines] if form == "json" else lines
    assert len(told) == 4
    for line, words in zip(
        told,
        ("library.part: odd thing", "DeprecationWarning: old", "worker", "ValueError: broken"),
        strict=True,
    ):
        assert words in line
        assert "\n" not in line


PROGRAM = """
import os, subprocess, sys
from stream_lstm.serve.foreign import foreign_lines
from stream_lstm.serve.logs import Log, Pipe
with Pipe() as pipe:
    with foreign_lines(Log(sys.argv[1], pipe.put)):
        os.write(2, b"compiled code\\n\\xff\\n")
        child = "import os; os.write(2, b'a child' + bytes([10]))"
        subprocess.run([sys.executable, "-c", child], check=True)
        print("printed", file=sys.stderr)
    pipe.put("after")
print("the end", file=sys.stderr)
"""


def test_all_that_reaches_descriptor_2_is_a_line_of_json():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "json"], capture_output=True, text=True, check=True
    )
    *lines, after, end = done.stderr.splitlines()
    assert sorted([after, end]) == ["after", "the end"]
    told = [json.loads(line)["message"] for line in lines]
    assert told == ["compiled code", "\\xff", "a child", "printed"]
