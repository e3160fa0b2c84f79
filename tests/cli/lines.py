"""What the tests of the command line share: processes, and files of columns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

COMMAND = (sys.executable, "-m", "stream_lstm")
ANY_PORT = "tcp://127.0.0.1:*"
NOWHERE = ("--connect", "tcp://127.0.0.1:1")
WAIT_S = 120.0


def started(*arguments, **options) -> subprocess.Popen[str]:
    """The command in a process of its own, its streams piped."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*COMMAND, *map(str, arguments)], **pipes | options)


def ran(*arguments, **options) -> subprocess.CompletedProcess[str]:
    """The command run to its end in a process of its own."""
    line = [*COMMAND, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, **options)


def until(lines, words) -> str:
    """The first line with `words`."""
    return next(line for line in lines if words in line)


def write_csv(path: Path, **columns) -> Path:
    rows = zip(*columns.values(), strict=True)
    lines = (",".join(map(str, row)) for row in (columns, *rows))
    path.write_text("\n".join(lines) + "\n")
    return path
