"""Small files of other programs: their times are read right, or refused with what to do."""

import shlex

import numpy as np
import pytest

from stream_lstm.errors import DataError
from stream_lstm.feed.input_file import InputFile, look_over

SMALL = "--window 2 --stride 1 --hidden 2"
MINUTES = (np.datetime64("2024-03-01T09:55", "ns"), np.timedelta64(60, "s"), 10)
HOURS = (np.datetime64("2024-03-01T09", "ns"), np.timedelta64(1, "h"), 10)


@pytest.fixture(scope="module")
def cases(data_dir):
    folder = data_dir.parent / "cases" / "files"
    if not folder.is_dir():
        pytest.skip(f"no small files of other programs: {folder} is not there")
    return folder


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("name", "time", "value", "grid", "offset_ns"),
    [
        ("dates_dots.csv", "time", "value", MINUTES, 0),
        ("dates_slashes.csv", "time", "value", MINUTES, 0),
        ("dates_one_digit_hour.csv", "time", "value", MINUTES, 0),
        ("dates_histdata_ticks.csv", "time", "bid", MINUTES, 65_000_000),
        ("dates_kdb.csv", "timestamp", "price", MINUTES, 123_456_789),
        ("time_yyyymmddhh.csv", "time", "value", HOURS, 0),
        ("time_yyyymmddhhmm.csv", "time", "value", MINUTES, 0),
        ("time_yyyymmddhhmmss_ms.csv", "time", "value", MINUTES, 0),
        ("time_hhmmss.csv", "date,time", "value", MINUTES, 0),
        ("date_and_clock_columns.csv", "Date,Time", "Close", MINUTES, 0),
        ("sentinel_999.csv", "time", "temp", MINUTES, 0),
    ],
)
def test_times_are_read_right_named_or_found(cases, name, time, value, grid, offset_ns, named):
    file, _ = look_over(InputFile(cases / name, "s", time if named else None), warn=pytest.fail)
    assert file.time == time
    with file.open([value]) as source:
        t_ns = np.concatenate([block.t_ns for block in source.blocks()])
    start, step, count = grid
    expected = (start + step * np.arange(count)).astype("M8[ns]").astype(np.int64) + offset_ns
    assert t_ns.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "replay interleaved_symbols.csv --feature diff(close)",
            ("column ticker holds 3 names (AAA, BBB, CCC): --stream-column ticker",),
        ),
        (
            "train interleaved_symbols.csv --feature diff(close) --out w.safetensors",
            ("column ticker holds 3 names", "give each series a file of its own"),
        ),
        (
            "publish interleaved_symbols.csv --bind tcp://127.0.0.1:*",
            ("column ticker holds 3 names",),
        ),
        (
            "replay newest_first.csv --feature diff(close)",
            ("the newest row comes first (by date): --reverse reads the rows from the last on",),
        ),
        ("publish newest_first.csv --bind tcp://127.0.0.1:*", ("--reverse",)),
        ("prove causal newest_first.csv --feature diff(close)", ("--reverse",)),
        ("train newest_first.csv --feature diff(close) --out w.safetensors", ("--reverse",)),
        ("replay newest_first.csv --feature diff(close) --time date", ("--reverse",)),
        (
            "replay unit_ms_then_us.csv --feature diff(close) --time open_time",
            ("line 3: column 'open_time': '1735689600000000' is in us, but the times before it",),
        ),
    ],
)
def test_a_file_is_refused_with_the_option_that_reads_it(cli, cases, monkeypatch, line, words):
    monkeypatch.chdir(cases)
    done = cli(*shlex.split(line), *shlex.split(SMALL if line.startswith("replay") else ""))
    assert (done.code, done.out) == (65, "")
    for part in words:
        assert part in done.err


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("interleaved_symbols.csv --feature diff(close) --stream-column ticker", ""),
        (
            "interleaved_symbols.csv --feature diff(close) --as-is",
            "no verdict: column ticker holds",
        ),
        ("newest_first.csv --feature diff(close) --reverse", ""),
        (
            "newest_first.csv --feature diff(close) --as-is",
            "no verdict: the newest row comes first",
        ),
        ("unit_ms_then_us.csv --feature diff(close) --time open_time --time-format epoch", ""),
        ("unit_ms_then_us.csv --feature diff(close)", ""),
        ("sentinel_999.csv --feature diff(temp)", ""),
    ],
)
def test_the_option_reads_it(cli, cases, monkeypatch, line, verdict):
    monkeypatch.chdir(cases)
    done = cli("replay", *shlex.split(line), *shlex.split(SMALL), "--json")
    assert done.code == 0, done.err
    record = done.json()
    assert record["verdict"].startswith(verdict or record["verdict"][:3])
    assert record["verdict"].startswith("no verdict") == bool(verdict)
    odd = [
        "temp has -999 in 2 rows, and 10 to 10.5 otherwise: --missing -999 if it means no value"
    ]
    assert record["notes"] == (odd if "sentinel" in line else [])
    changed = "open_time (numbers since 1970); the unit changes inside the file"
    assert (changed in done.err) == (line == "unit_ms_then_us.csv --feature diff(close)")


def test_found_times_do_not_change_predictions(cli, cases, monkeypatch):
    monkeypatch.chdir(cases)
    line = ("replay", "dates_kdb.csv", "--feature", "diff(price)", *SMALL.split(), "--json")
    flags = ((), ("--time", "timestamp"), ("--time", "none"))
    assert len({cli(*line, *time).json()["digest"] for time in flags}) == 1


def test_a_date_without_its_clock_is_a_warning_with_the_columns_to_join(cases):
    lines = []
    file = InputFile(cases / "date_and_clock_columns.csv", "s", "Date")
    look_over(file, warn=lines.append)
    assert len(lines) == 1
    assert "100% of neighbouring rows share a midnight in Date: it has no clock" in lines[0]
    assert "--time Date,Time joins the date with its clock" in lines[0]


def test_a_clock_alone_is_refused_with_the_form_to_use(cases):
    with pytest.raises(DataError, match="a clock without its date: write --time DATE,CLOCK"):
        InputFile(cases / "date_and_clock_columns.csv", "s", "Time").open(["Close"])


def test_the_doctor_names_what_replay_refuses(cli, cases, monkeypatch):
    monkeypatch.chdir(cases)
    for name, column, words in (
        ("interleaved_symbols.csv", "close", "column ticker holds 3 names"),
        ("newest_first.csv", "close", "--reverse"),
        ("sentinel_999.csv", "temp", "--missing -999"),
    ):
        done = cli("doctor", name, "--feature", f"diff({column})", "--window", 2, "--bptt", 2)
        assert done.code == 0, done.err
        assert words in " ".join(done.out.split())
