"""Tables from standard input and pipes, in real processes."""

import gzip
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

PRICES = [100 + (k * 37 % 11) / 10 for k in range(300)]
SMALL = ("--feature", "price", "--hidden", "4", "--window", "20", "--bptt", "5", "--json")


def start(*arguments, **options):
    line = [sys.executable, "-m", "stream_lstm", *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, **pipes | options)


def text():
    return "".join(["price\n", *(f"{price}\n" for price in PRICES)]).encode()


def lines():
    return "".join(json.dumps({"price": price}) + "\n" for price in PRICES).encode()


def parquet():
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.table({"price": PRICES}), sink)
    return sink.getvalue().to_pybytes()


def digest_of(process, data=None):
    out, err = process.communicate(data, timeout=120)
    assert process.returncode == 0, err.decode()
    summary = json.loads(out)
    assert summary["ticks"] == len(PRICES)
    return summary["stream"], summary["digest"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    file = tmp_path_factory.mktemp("pipes") / "stdin.csv"
    file.write_bytes(text())
    return digest_of(start("replay", file, *SMALL))


@pytest.mark.parametrize("form", [text, lambda: gzip.compress(text()), lines, parquet])
def test_standard_input_is_read_as_a_file_of_each_form(form, expected, tmp_path):
    scratch = os.environ | {"TMPDIR": str(tmp_path)}
    assert digest_of(start("replay", "-", *SMALL, env=scratch), form()) == expected
    assert not list(tmp_path.iterdir())  # the copy is gone


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="this system has no /dev/stdin")
def test_a_pipe_by_its_path_is_standard_input(expected):
    assert digest_of(start("replay", "/dev/stdin", *SMALL), text()) == expected


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFO")
def test_a_fifo_keeps_its_name(tmp_path):
    fifo = tmp_path / "eurusd.csv"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(text()))
    writer.start()
    stream, _ = digest_of(start("replay", fifo, *SMALL))
    assert stream == "eurusd"
    writer.join()


def test_an_empty_pipe_is_bad_data_without_a_traceback():
    process = start("replay", "-", *SMALL)
    _, err = process.communicate(b"", timeout=120)
    assert process.returncode == 65
    assert b"stdin" in err
    assert b"Traceback" not in err
