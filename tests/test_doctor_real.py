"""What the doctor says of real series was looked at one by one: this much, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_lstm.cli.doctor import file_case
from stream_lstm.cli.settings import resolve
from stream_lstm.core.doctor.diagnosis import data_findings
from stream_lstm.core.doctor.inputs import series_of
from stream_lstm.feed.input_file import InputFile, LabelColumn

ROWS = 30_000

SAID = {
    "eurusd_quotes.csv.gz": (["log_return(mid(bid, ask))"], "", {"crossed_quotes": "warning"}),
    "ibm_trades.csv.gz": (["log_return(price)"], "", {}),
    "btcusdt_book.csv.gz": (["diff(mid(bid_px, ask_px))"], "", {"label_balance": "warning"}),
    "btcusdt_trades.csv.gz": (["log_return(price)", "buyer_is_maker"], "", {}),
    "gbpusd_minutes.csv.gz": (["log_return(close)"], "", {}),
    "nyc_taxi.csv": (["diff(value)"], "", {}),
    "machine_temperature.csv": (["diff(value)"], "", {"time_order": "warning"}),
    "elec2.csv.gz": (["nswprice", "nswdemand", "lag(up)"], "up", {}),
}
"""A tenth of the quotes are crossed, three in a hundred book changes move the price, clocks were
put back once."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_real_series_raise_what_is_true_of_them_and_nothing_else(name: str, data_dir: Path):
    features, column, said = SAID[name]
    flags = {"features": features, "learn": True} | ({"labels": "external"} if column else {})
    labels = LabelColumn(column) if column else None
    file = InputFile(data_dir / name, "s", limit=ROWS)
    case, file = file_case(file, resolve(flags, None), labels)
    findings = data_findings(case, series_of(case.config.stream, case.table))
    assert {f.name: f.level for f in findings if f.level in ("warning", "fault")} == said
    assert (file.time is None) == (name == "elec2.csv.gz")
