"""From starting a process to ready: imports, compilation, and the daemon's word that it is ready.

`session` is a process that imports and makes a session: `python_s` until its first line runs,
`import_s` for JAX and this project, `compile_s` for the session, in which everything is compiled
and checked, and `ready_s` for all of that. `programs` lists what is compiled: the name, the
seconds and the resident megabytes that it adds, in order; a cached one is read instead. `daemon`
is `stream-lstm run` from its start to its line `ready`, its sockets open, with its processor time
and its resident memory. Each is a fresh process. `cached` starts with executables that an earlier
start of the same kept; `cold` has nothing kept.

`output` is each command from its start to its first line, or to its end: `first_s` and `end_s`.

    python -m bench start --repeats 5
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .report import medians, table

SETTINGS: dict[str, dict[str, Any]] = {
    "learning off": {},
    "learning on": {"learn": True},
    "the bank": {"learn": True, "bank": "default"},
}

FEATURE, COLUMNS = "log_return(mid(bid, ask))", ("bid", "ask")
COMMAND = "from stream_lstm.cli.main import main; main()"
COMPILED = "/jax/core/compile/backend_compile_duration"
"""The event of JAX for a program that is compiled, or read from the cache."""

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
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(SETTINGS)}")
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
                    lists = [run.pop("programs", None) for run in runs]
                    row = rows[f"{kind}, {name}, {how}"] = medians(runs)
                    if lists[0] is not None:
                        row["programs"] = lists[0]
    for name, words in outputs().items():
        cold, cached = [], []
        for _ in range(options.repeats):
            with tempfile.TemporaryDirectory() as folder:
                cold.append(output(words, folder))
                cached.append(output(words, folder))
        rows[f"output, {name}, cold"], rows[f"output, {name}, cached"] = map(
            medians, (cold, cached)
        )
    return rows


def outputs() -> dict[str, list[str]]:
    """Return the words of each command whose output is timed."""
    series = "--synthetic", "s1-ar", "--limit", "3000", "--feature", "x"
    return {
        "--help": ["--help"],
        "replay --help": ["replay", "--help"],
        "a bad cell": ["replay", "BAD", "--feature", "x"],
        "replay": ["replay", *series],
        "replay --learn": ["replay", *series, "--learn"],
        "replay, the bank": ["replay", *series, "--learn", "--bank", "default"],
        "train": ["train", "GOOD", "--feature", "x", "--epochs", "1", "--out", "WEIGHTS"],
        "doctor": ["doctor", "GOOD", "--feature", "x"],
    }


def output(words: list[str], folder: str) -> dict[str, float]:
    """Return the seconds from the start of a command to its first line and to its end.

    folder: for kept executables and files.
    """
    values = [f"{(k * 7919) % 1009 / 1009 - 0.5:.4f}" for k in range(3000)]
    files = {"GOOD": "good.csv", "BAD": "bad.csv", "WEIGHTS": f"{time.monotonic_ns()}.safetensors"}
    Path(folder, "good.csv").write_text("\n".join(["x", *values]) + "\n", encoding="ascii")
    Path(folder, "bad.csv").write_text("\n".join(["x", "1", "bad", *values]), encoding="ascii")
    words = [str(Path(folder, files[word])) if word in files else word for word in words]
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"XDG_CACHE_HOME": folder},
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.perf_counter() - begin
        process.stdout.read()
    return {"first_s": round(first, 3), "end_s": round(time.perf_counter() - begin, 3)}


def show(rows: dict[str, dict[str, Any]]) -> str:
    """Return the table of starts, and one of the programs of each session."""
    plain = {name: {k: v for k, v in row.items() if k != "programs"} for name, row in rows.items()}
    parts = [table(plain)]
    for name, row in rows.items():
        if "programs" in row:
            lines = [f"{p['name']:<24}{p['s']:8.3f} s{p['mb']:8.1f} MB" for p in row["programs"]]
            parts.append("\n".join([f"{name}: programs", *lines]))
    return "\n\n".join(parts)


def session(name: str, cache: str) -> dict[str, Any]:
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
        "compilations": len(told["programs"]),
        "rss_mb": told["rss_mb"],
        "programs": told["programs"],
    }


def daemon(name: str, cache: str) -> dict[str, float]:
    """Start the daemon, and return the seconds until it says that it is ready."""
    begin = time.perf_counter()
    line = [sys.executable, "-c", COMMAND, "run", "--feature", FEATURE, "--connect", NOBODY]
    line += [*flags(name), "--compile-cache", cache or "none", "--json"]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(line, text=True, **pipes) as process:
        assert process.stderr is not None
        told = next((said for said in process.stderr if "ready" in said), "")
        seconds = time.perf_counter() - begin
        memory, cpu = resident_mb(process.pid), processor_s(process.pid)
        process.kill()
    if not told:
        raise RuntimeError("the daemon ended before it was ready")
    return {"ready_s": round(seconds, 3), "cpu_s": round(cpu, 2), "rss_mb": memory}


def resident_mb(process: int | str = "self") -> float:
    """Return the resident memory of a process in megabytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def processor_s(process: int) -> float:
    """Return the processor time of a process, its own and the system's for it."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def flags(name: str) -> Sequence[str]:
    """Return what the command line says for the settings of that name."""
    settings = SETTINGS[name]
    bank = ["--bank", settings["bank"]] if "bank" in settings else []
    return ["--learn"] * bool(settings.get("learn")) + bank


def main(name: str, cache: str) -> None:
    """Make a session, and print when Python ran, had imported, and was done."""
    python = time.perf_counter()
    import jax

    from stream_lstm.config import build
    from stream_lstm.core.session import Session
    from stream_lstm.store.executables import OFF, keep_executables

    keep_executables(cache or OFF)
    programs: list[dict[str, Any]] = []
    last = resident_mb()

    def listen(event: str, seconds: float, **about: Any) -> None:
        nonlocal last
        if event != COMPILED:
            return
        now = resident_mb()
        entry = {"name": str(about.get("fun_name", "")), "s": round(seconds, 3)}
        programs.append(entry | {"mb": round(now - last, 1)})
        last = now

    jax.monitoring.register_event_duration_secs_listener(listen)
    imported = time.perf_counter()
    config = build({"features": [FEATURE], **SETTINGS[name]})
    Session(config, COLUMNS, lambda _event: None)
    at = [python, imported, time.perf_counter()]
    print(json.dumps({"at": at, "rss_mb": resident_mb(), "programs": programs}))


if __name__ == "__main__":
    main(*sys.argv[1:])
