"""`stream-lstm look`: what it shows is what a replay reads, and its command works as printed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from ..test_manual import mentioned_keys
from .lines import write_csv

COUNT = 400
PRICES = np.round(100 * np.exp(np.cumsum(np.random.default_rng(3).normal(0, 1e-3, COUNT))), 4)
MINUTES = [f"2024-03-01T{9 + k // 60:02}:{k % 60:02}:00Z" for k in range(COUNT)]
SMALL = ("--hidden", "4", "--window", "20", "--bptt", "5")


def bars(folder, name="bars.csv", **columns):
    return write_csv(folder / name, **({"time": MINUTES, "close": PRICES} | columns))


def make_streams(folder):
    return bars(folder, symbol=["EURUSD", "GBPUSD"] * (COUNT // 2))


def make_named(folder):
    return bars(folder, "it's $1 & more.csv", **{"the (close)": PRICES, "close": [1] * COUNT})


def make_holes(folder):
    return bars(folder, close=[*PRICES[:50], "", *PRICES[51:]])


def make_parquet(folder):
    columns = {"t": pa.array(range(COUNT), pa.timestamp("s")), "x": PRICES, "who": ["a"] * COUNT}
    pa.parquet.write_table(pa.table(columns), path := folder / "x.parquet")
    return path


MAKERS = (bars, make_streams, make_named, make_holes, make_parquet)


@pytest.mark.parametrize("make", MAKERS)
def test_the_command_works_word_for_word_and_reads_the_rows_shown(cli, tmp_path, make):
    record = cli("look", make(tmp_path), "--json").json()
    words = shlex.split(record["command"])
    assert words[:2] == ["stream-lstm", "replay"]
    done = cli(*words[1:], *SMALL, "--json")
    assert done.code == 0, done.err
    read = done.json()["read"]
    assert read["rows"] == record["rows"] - (make is make_holes)
    assert (read["first"], read["last"]) == (record["times"]["first"], record["times"]["last"])
    assert read["form"] == record["form"]


def test_the_command_can_be_pasted_into_a_shell(tmp_path):
    path = make_named(tmp_path)
    program = f"{shlex.quote(sys.executable)} -m stream_lstm"
    look = subprocess.run(
        f"{program} look {shlex.quote(str(path))}",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    small = " ".join(SMALL)
    script = f'stream-lstm() {{ {program} "$@"; }}; {look.stdout.strip()} {small}'
    done = subprocess.run(
        ["bash", "-c", script], check=False, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert f"{COUNT} rows of {path.name}: comma-separated" in done.stdout


def test_everything_shown_fits_a_screen(cli, tmp_path):
    columns = {f"a column with a long name {k}": PRICES for k in range(40)}
    done = cli("look", bars(tmp_path, **columns))
    assert done.code == 0
    lines = done.err.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100


def test_rows_times_and_missing_cells_are_those_of_the_file(cli, tmp_path):
    closes = [*map(str, PRICES)]
    closes[7] = closes[9] = ""
    record = cli("look", bars(tmp_path, close=closes), "--json").json()
    table = pa.csv.read_csv(tmp_path / "bars.csv").to_pylist()
    assert [float(row[1]) for row in record["first"]] == [row["close"] for row in table[:3]]
    assert [float(row[1]) for row in record["last"]] == [row["close"] for row in table[-3:]]
    assert record["first"][0][0] == "2024-03-01 09:00"
    assert (record["rows"], record["exact"], record["rows_skipped"]) == (COUNT, True, 0)
    assert {one["name"]: (one["kind"], one["missing"]) for one in record["columns"]} == {
        "time": ("time", None),
        "close": ("number", 2),
    }


@pytest.mark.parametrize(
    ("order", "words", "gaps"),
    [
        (range(COUNT), "rising", 0),
        ([k for k in range(COUNT) if k not in (50, 51, 90)], "rising", 2),
        ([0, 0, *range(1, COUNT)], "rising, 1 repeat the time before", 0),
        ([1, 0, *range(2, COUNT)], "1 rows go back", 1),
        (range(COUNT - 1, -1, -1), "rising", 0),
    ],
)
def test_the_order_and_the_gaps_of_the_times_are_reported(cli, tmp_path, order, words, gaps):
    order = list(order)
    path = write_csv(
        tmp_path / "a.csv", time=[MINUTES[k] for k in order], close=[PRICES[k] for k in order]
    )
    times = cli("look", path, "--json").json()["times"]
    assert (times["column"], times["step_s"]) == ("time", 60)
    assert (times["order"], times["gaps"]) == (words, gaps)


def test_faults_of_the_order_are_reported_and_the_command_reads_around_them(cli, tmp_path):
    path = write_csv(
        tmp_path / "a.csv", time=MINUTES[::-1], close=[*PRICES[:9], -999, *PRICES[10:]]
    )
    record = cli("look", path, "--json").json()
    assert "--reverse" in shlex.split(record["command"])
    first, second = record["findings"]
    assert "the newest row comes first" in first
    assert "-999" in second
    assert "--missing -999" in second
    assert record["first"][0] == [MINUTES[0][:16].replace("T", " "), str(PRICES[-1])]
    done = cli("look", path)
    assert first in " ".join(done.err.split())


def test_the_keys_of_json_are_documented(cli, tmp_path):
    record = cli("look", make_streams(tmp_path), "--json").json()
    nested = [record["columns"][0], record["times"]]
    assert {*record, *(key for one in nested for key in one)} <= mentioned_keys("look")
    json.dumps(record)


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, 66, ["x.csv"]),
        (b"", 65, ["empty"]),
        (b"who,what\nx,y\nz,w\n", 65, ["'who'", "'what'"]),
        (b"%PDF-1.7 \n", 65, ["a PDF document"]),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_kind(cli, tmp_path, content, code, words):
    path = tmp_path / "x.csv"
    if content is not None:
        path.write_bytes(content)
    done = cli("look", path)
    assert (done.code, done.out) == (code, "")
    assert all(word in done.err for word in words)
    assert "Traceback" not in done.err


def test_a_large_file_is_estimated_from_its_beginning(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("stream_lstm.feed.survey.MAX_ROWS", 1)
    rows = 2_000_000
    path = tmp_path / "a.csv"
    path.write_text("close\n" + "101.125\n102.250\n" * (rows // 2))
    record = cli("look", path, "--json").json()
    assert not record["exact"]
    assert record["rows_read"] < rows
    assert abs(record["rows"] / rows - 1) < 0.2


def test_one_attempt_names_every_kind_of_bad_row(cli, tmp_path):
    cells = ["1,2", "-,2", "1,x", "1,", "1", "oops,2", "1,3"]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["bid,ask", *cells, ""]))
    done = cli("replay", path, "--feature", "diff(bid)", "--feature", "diff(ask)", *SMALL)
    assert done.code == 65
    first, *more = done.err.splitlines()
    assert f"{path}, line 3" in first
    assert "--on-bad-row skip" in first
    places = {line.removeprefix(f"{path}:")[0] for line in more if line.startswith(str(path))}
    assert places == {"4", "5", "6"}
    assert "2 rows have this fault" in more


def test_a_note_about_the_form_is_printed_once(cli, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a line about the table\ntime,close\n" + "".join(
        f"2024-03-01 09:{k:02},{10 + k % 3}\n" for k in range(20)
    ))  # fmt: skip
    done = cli("look", str(path))
    assert done.code == 0
    assert done.err.count("not part of the table") == 1
    assert cli("look", str(path), "--json").err == ""
