"""Files as their owners have them, one for each kind, read as pandas reads them when told how."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stream_lstm.feed.dialect import Asked
from stream_lstm.feed.files import file_columns
from stream_lstm.feed.tables import file_notes

from .reading import load

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
CASES = Path(os.environ.get("STREAM_LSTM_DATA", BESIDE)).parent / "cases" / "files"

MILLIONS = {"M": 1e6, "K": 1e3}


def amounts(texts: pd.Series) -> pd.Series:
    """Numbers such as $2,000.00 and 1.5M."""
    plain = texts.str.replace(r"[$,]", "", regex=True)
    scales = plain.str[-1].map(MILLIONS).fillna(1.0)
    return plain.str.rstrip("MK").astype(float) * scales


TOLD: dict[str, dict[str, Any]] = {
    "dash_first.csv": {"na_values": "-"},
    "date_and_clock_columns.csv": {},
    "dates_dots.csv": {},
    "dates_histdata_ticks.csv": {},
    "dates_kdb.csv": {},
    "dates_one_digit_hour.csv": {},
    "dates_slashes.csv": {},
    "dollar_thousands_suffix.csv": {"dtype": str},
    "headerless_tape.csv": {"header": None, "names": [f"c{k}" for k in range(5)]},
    "interleaved_symbols.csv": {},
    "newest_first.csv": {},
    "one_csv.zip": {"compression": "zip"},
    "preamble_line.csv": {"skiprows": 1},
    "semicolon_decimal_comma.csv": {"sep": ";", "decimal": ","},
    "sentinel_999.csv": {},
    "time_hhmmss.csv": {},
    "time_yyyymmddhh.csv": {},
    "time_yyyymmddhhmm.csv": {},
    "time_yyyymmddhhmmss_ms.csv": {},
    "unit_ms_then_us.csv": {},
    "zip_called.csv": {"compression": "zip"},
}
"""What pandas has to be told about each file."""

NOTES = {
    "headerless_tape.csv": "no header: the columns are c0, c1",
    "preamble_line.csv": "lines before line 2 are not part of the table",
}


@pytest.fixture(params=TOLD)
def case(request: pytest.FixtureRequest) -> Path:
    if not CASES.is_dir():
        pytest.skip(f"no case files: {CASES} is not there (set STREAM_LSTM_DATA)")
    return CASES / request.param


def test_names_rows_and_numbers_are_those_of_pandas(case):
    known = pd.read_csv(case, **TOLD[case.name])
    if case.name == "dollar_thousands_suffix.csv":
        known = known.assign(price=amounts(known["price"]), volume=amounts(known["volume"]))
    numeric = [name for name in known.columns if known[name].dtype.kind in "if"]
    assert file_columns(case) == tuple(known.columns)
    _, values, rows, refusals = load(case, optional=("*",))
    assert not refusals
    np.testing.assert_array_equal(values, known[numeric].to_numpy(float))
    first = {"headerless_tape.csv": 1, "preamble_line.csv": 3}.get(case.name, 2)
    assert rows.tolist() == list(range(first, first + len(known)))


def test_what_was_found_out_is_noted(case):
    notes = file_notes(case, Asked())
    assert [NOTES[case.name] in note for note in notes] == [True] * (case.name in NOTES)


def test_a_sentinel_is_missing_if_stated(case):
    if case.name == "sentinel_999.csv":
        known = pd.read_csv(case, na_values=["-999"])["temp"]
        _, values, _, _ = load(
            case, columns=["temp"], optional=("*",), asked=Asked(missing=("-999",))
        )
        np.testing.assert_array_equal(values[:, 0], known)
        assert np.isnan(values).any()


def test_each_file_of_the_folder_is_a_case():
    if not CASES.is_dir():
        pytest.skip(f"no case files: {CASES} is not there (set STREAM_LSTM_DATA)")
    assert {path.name for path in CASES.iterdir()} == set(TOLD)
