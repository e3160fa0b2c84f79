"""The command line as a user meets it, in this process: starting JAX takes seconds."""

from __future__ import annotations

import contextlib
import functools
import io
import sys
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import pytest
import typer

from stream_lstm.cli.main import main

from ..engines import engine_for

commands_of = functools.cache(typer.main.get_command)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    def json(self):
        """The one object on standard output, which must hold nothing else."""
        return msgspec.json.decode(self.out)


def exit_code(arguments: tuple[object, ...]) -> int:
    """Run `stream-lstm` with arguments; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["stream-lstm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


@pytest.fixture
def cli(capsys) -> Callable[..., Outcome]:
    """Run `stream-lstm` with arguments, and return its exit code and output."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = exit_code(arguments)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def module_cli(shared_engines) -> Callable[..., Outcome]:
    """`cli` for a command that runs once, and whose results several tests look at."""

    def run(*arguments: object) -> Outcome:
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in "oe")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = exit_code(arguments)
        return Outcome(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))

    return run


@pytest.fixture(autouse=True, scope="module")
def shared_engines():
    """Compile each network, and make the commands, once for all tests in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stream_lstm.core.session.Engine", engine_for)
        patch.setattr("typer.main.get_command", commands_of)
        yield
