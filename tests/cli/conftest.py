"""The command line as a user meets it, in this process: starting JAX takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import pytest

from stream_lstm.cli.main import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    def json(self):
        """The one object on standard output, which must hold nothing else."""
        return msgspec.json.decode(self.out)


@pytest.fixture
def cli(monkeypatch, capsys) -> Callable[..., Outcome]:
    """Run `stream-lstm` with arguments, and return its exit code and output."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["stream-lstm", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        written = capsys.readouterr()
        return Outcome(int(exit_.value.code or 0), written.out, written.err)

    return run
