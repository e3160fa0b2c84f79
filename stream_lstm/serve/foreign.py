"""What libraries, threads and child processes write to standard error becomes lines of the log.

A reader of a JSON log stops at the first line that is not JSON, and any library may write one: a
warning, a record of `logging`, the traceback of a thread, a message of compiled code.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from .logs import Log, standard_error

EVENT = "library"
"""Name of these lines in JSON."""

JOIN_S = 1.0
"""Time for the last lines at the end."""


@contextlib.contextmanager
def foreign_lines(log: Log) -> Iterator[None]:
    """Write to `log` what else would go to standard error.

    As text this holds for Python: `logging`, warnings, exceptions in threads and finalisers. As
    JSON it holds for everything that this process and its children write.
    """
    with ExitStack() as stack:
        if log.form == "json" and _is_descriptor_2():
            stack.enter_context(_captured(log))
        handler = _Handler(log)
        logging.getLogger().addHandler(handler)
        stack.callback(logging.getLogger().removeHandler, handler)
        stack.callback(setattr, warnings, "showwarning", warnings.showwarning)
        warnings.showwarning = handler.warned
        stack.callback(setattr, threading, "excepthook", threading.excepthook)
        threading.excepthook = lambda failed: handler.failed(
            f"the thread {failed.thread.name if failed.thread else '?'}", failed.exc_value
        )
        stack.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
        sys.unraisablehook = lambda failed: handler.failed(
            failed.err_msg or repr(failed.object), failed.exc_value
        )
        yield


class _Handler(logging.Handler):
    """Writes records of `logging` to the log."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; an exception that it carries is named in the same line."""
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text = f"{text}: {_named(record.exc_info[1])}"
        self._say(record.name, text, record.levelno >= logging.ERROR)

    def warned(self, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        """Write a warning."""
        self._say("python", f"{category.__name__}: {message}", error=False)

    def failed(self, where: str, error: BaseException | None) -> None:
        """Write that an exception ended something."""
        self._say("python", f"{where} failed: {_named(error)}", error=True)

    def _say(self, logger: str, text: str, error: bool) -> None:
        line = " ".join(text.split())
        level: Any = "error" if error else "warning"
        self._log.say(EVENT, f"{logger}: {line}", level=level, kind=logger)


def _named(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"


def _is_descriptor_2() -> bool:
    try:
        return sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):
        return False


@contextlib.contextmanager
def _captured(log: Log) -> Iterator[None]:
    """Read what is written to descriptor 2, and write it to the log, which has another one."""
    sys.stderr.flush()
    real, (source, sink) = os.dup(2), os.pipe()
    os.dup2(sink, 2)
    os.close(sink)
    reader = threading.Thread(target=_read, args=(source, log), daemon=True)
    reader.start()
    standard_error[:] = [real]
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(real, 2)
        reader.join(JOIN_S)  # a child may still hold the pipe
        standard_error.clear()
        os.close(real)


def _read(source: int, log: Log) -> None:
    with open(source, encoding="utf-8", errors="backslashreplace") as lines:
        for line in lines:
            if line := line.strip():
                log.say(EVENT, line, level="warning", kind="standard error")
