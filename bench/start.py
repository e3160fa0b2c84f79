"""From starting a process to ready: imports, compilation, and the daemon's word that it is ready.

`session` is a process that imports and makes a session: `python_s` until its first line runs,
`import_s` for JAX and this project, `compile_s` for the session, in which everything is compiled
and checked, and `ready_s` for all of that. `daemon` is `stream-lstm run` from its start to its
line `ready`, its sockets open. Each is a fresh process. `cached` starts with executables that an
earlier start of the same kept (`--compile-cache`); without it nothing is kept.

    python -m bench start --repeats 5
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from .report import medians

SETTINGS: dict[str, dict[str, Any]] = {
    "learning off": {},
    "learning on": {"learn": True},
    "the bank": {"learn": True, "bank": "default"},
}

FEATURE, COLUMNS = "log_return(mid(bid, ask))", ("bid", "ask")
COMMAND = "from stream_lstm.cli.main import main; main()"
NOBODY = "tcp://127.0.0.1:9"
"""An endpoint that nobody binds: ready does not wait for a publisher."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument(
        "--started",
        default=",".join(SETTINGS),
        type=_started,
        help=f"of start: {', '.join(SETTINGS)}",
    )


def _started(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in SETTINGS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(SETTINGS)}")
    return names


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {what is started: seconds}."""
    rows: dict[str, dict[str, Any]] = {}
    for name in options.started:
        with tempfile.TemporaryDirectory() as folder:
            for how, cache in (("cold", ""), ("cached", folder)):
                if cache:
                    session(name, cache)  # fills the cache
                for kind, start in (("session", session), ("daemon", daemon)):
                    runs = [start(name, cache) for _ in range(options.repeats)]
                    rows[f"{kind}, {name}, {how}"] = medians(runs)
    return rows


def session(name: str, cache: str) -> dict[str, float]:
    """Start a process that makes a session, and return its seconds."""
    begin = time.perf_counter()
    line = [sys.executable, "-m", "bench.start", name, cache]
    done = subprocess.run(line, stdout=subprocess.PIPE, check=True, text=True)
    told = json.loads(done.stdout)
    python, imported, compiled = told["at"]
    return {
        "ready_s": round(compiled - begin, 3),
        "python_s": round(python - begin, 3),
        "import_s": round(imported - python, 3),
        "compile_s": round(compiled - imported, 3),
    }


def daemon(name: str, cache: str) -> dict[str, float]:
    """Start the daemon, and return the seconds until it says that it is ready."""
    begin = time.perf_counter()
    line = [sys.executable, "-c", COMMAND, "run", "--feature", FEATURE, "--connect", NOBODY]
    line += [*flags(name), *(["--compile-cache", cache] if cache else []), "--json"]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(line, text=True, **pipes) as process:
        assert process.stderr is not None
        told = next((said for said in process.stderr if "ready" in said), "")
        seconds = time.perf_counter() - begin
        process.kill()
    if not told:
        raise RuntimeError("the daemon ended before it was ready")
    return {"ready_s": round(seconds, 3)}


def flags(name: str) -> Sequence[str]:
    """Return what the command line says for the settings of that name."""
    settings = SETTINGS[name]
    bank = ["--bank", settings["bank"]] if "bank" in settings else []
    return ["--learn"] * bool(settings.get("learn")) + bank


def main(name: str, cache: str) -> None:
    """Make a session, and print when Python ran, had imported, and was done."""
    python = time.perf_counter()
    from stream_lstm.cli.compile_cache import keep_compiled
    from stream_lstm.config import build
    from stream_lstm.core.session import Session

    if cache:
        keep_compiled(cache)
    imported = time.perf_counter()
    config = build({"features": [FEATURE], **SETTINGS[name]})
    Session(config, COLUMNS, lambda _event: None)
    print(json.dumps({"at": [python, imported, time.perf_counter()]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
