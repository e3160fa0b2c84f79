"""Every command that the README or the manual shows is run, on small files of the same names.

A block whose first line is `# needs: ...` is not run: it takes a feed, an extra or data of the
reader's own. A block of single commands runs in this process, any other in a shell.
"""

from __future__ import annotations

import gzip
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from stream_lstm.cli.main import main

from .test_manual import REPOSITORY, blocks

NEEDS = "# needs: "
INSTALL = "python3 -m venv"
"""A block that installs the package, which the continuous integration does."""

FULL_SIZE = re.compile(r"--limit \d{5,}")
SMALL_SIZE = "--limit 3000"
"""A shorter series: a test shows that a command runs, not what it finds."""

ADDRESS = re.compile(r"127\.0\.0\.1:(\d+)")
FEATURE = "log_return(mid(bid, ask))"
SHELL = re.compile(r"[&;>|]")

WAIT = 'for job in "${jobs[@]}"; do wait "$job"; done'
"""`wait` alone succeeds even where a job has failed."""

TIMEOUT_S = 200.0

RUN = [
    pytest.param(block, id=f"{name}-{number}")
    for number, (name, block) in enumerate(blocks("sh"))
    if not block.startswith((NEEDS, INSTALL))
]


def test_a_block_that_is_not_run_says_what_it_needs() -> None:
    for _, block in blocks("sh"):
        if block.startswith(NEEDS):
            assert len(block.splitlines()[0]) > len(NEEDS) + 3
    assert len(RUN) > 20


# ---- the files that the examples read -----------------------------------------------------


def write_quotes(path: Path) -> None:
    steps = np.random.default_rng(0).normal(0, 7e-6, 1500)
    bids = 1.1 * np.exp(np.cumsum(steps))
    with gzip.open(path, "wt") as file:
        file.write("time,bid,ask\n")
        for k, bid in enumerate(bids):
            file.write(f"{1_700_000_000 + k},{bid:.7f},{bid + 1e-4:.7f}\n")


def write_orders(path: Path) -> None:
    draws = np.random.default_rng(1)
    prices = 100 * np.exp(np.cumsum(draws.normal(0, 1e-4, 1500)))
    lines = ["time_ns,price,size,filled"]
    for k, price in enumerate(prices):
        t_ns = 1_700_000_000_000_000_000 + k * 1_000_000_000
        lines.append(f"{t_ns},{price:.5f},{draws.integers(1, 9)},{draws.integers(0, 2)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_trades(path: Path) -> None:
    draws = np.random.default_rng(2)
    symbols = draws.choice(["AAPL", "MSFT", "NVDA"], 1500).tolist()
    prices = 100 * np.exp(np.cumsum(draws.normal(0, 1e-4, 1500)))
    pyarrow.parquet.write_table(pyarrow.table({"symbol": symbols, "price": prices}), path)


def write_table(path: Path) -> None:
    times = pyarrow.array(range(1_700_000_000, 1_700_000_900))
    bids = 15_000 + np.cumsum(np.random.default_rng(3).normal(0, 0.5, 900))
    table = pyarrow.table({"time": times, "bid": bids, "ask": bids + 0.25})
    pyarrow.parquet.write_table(table, path)


def write_book(path: Path) -> None:
    draws = np.random.default_rng(4)
    bids = 5000 + 0.25 * np.cumsum(draws.integers(-1, 2, 1500))
    lines = ["bid,ask,bid2,ask2,bid_size,ask_size,bid2_size,ask2_size"]
    for bid, sizes in zip(bids.tolist(), draws.integers(0, 30, (1500, 4)).tolist(), strict=True):
        prices = bid, bid + 0.25, bid - 0.25, bid + 0.5
        lines.append(",".join(map(str, [*prices, *sizes])))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_stores(folder: Path, run: Callable[..., None]) -> None:
    write_quotes(folder / "week.csv.gz")
    for name in ("quotes.db", "replayed.db"):
        run("replay", "week.csv.gz", "--feature", FEATURE, "--store", name)


MADE: dict[str, Callable[[Path], None]] = {
    "book.csv": write_book,
    "quotes.csv.gz": write_quotes,
    "es.csv.gz": write_quotes,
    "nq.parquet": write_table,
    "orders.csv": write_orders,
    "trades.parquet": write_trades,
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Run a command in the folder, in this process: starting JAX takes seconds."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["stream-lstm", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, words

    return run


@pytest.fixture
def folder(tmp_path: Path, run: Callable[..., None], request: pytest.FixtureRequest) -> Path:
    """A folder with the files that the block names."""
    block = request.node.callspec.params["block"]
    for name, write in MADE.items():
        if name in block:
            write(tmp_path / name)
    if "--store quotes.db" not in block and ".db" in block:
        write_stores(tmp_path, run)
    return tmp_path


# ---- running them -------------------------------------------------------------------------


def with_free_ports(block: str) -> str:
    """Return the block with its ports on this machine exchanged for free ones."""
    ports: dict[str, int] = {}
    doors = []
    for port in sorted(set(ADDRESS.findall(block))):
        doors.append(socket.create_server(("127.0.0.1", 0)))
        ports[port] = doors[-1].getsockname()[1]
    for door in doors:
        door.close()
    return ADDRESS.sub(lambda found: f"127.0.0.1:{ports[found[1]]}", block)


def script(block: str) -> str:
    """Return a script that fails where one of the block's commands does, in the background too."""
    lines = re.sub(r"&$", "& jobs+=($!)", block, flags=re.MULTILINE)
    return "set -e\njobs=()\n" + re.sub(r"^wait$", WAIT, lines, flags=re.MULTILINE)


def commands(block: str) -> Iterator[list[str]]:
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def needs_shell(block: str) -> bool:
    bare = re.sub(r"'[^']*'", "", block)
    return bool(SHELL.search(bare)) or any(words[0] != "stream-lstm" for words in commands(block))


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN)
def test_the_block_runs(block: str, folder: Path, run: Callable[..., None]) -> None:
    block = FULL_SIZE.sub(SMALL_SIZE, block)
    if not needs_shell(block):
        for words in commands(block):
            run(*words[1:])
        return
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    done = subprocess.run(
        ["bash", "-c", script(with_free_ports(block))],
        cwd=folder,
        env=os.environ | {"PATH": os.pathsep.join(paths), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
