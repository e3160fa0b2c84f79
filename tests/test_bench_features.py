"""The benchmark of features: what it compares agrees, and a quick run has all rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .bench_modules import bench_module

REPOSITORY = Path(__file__).parents[1]

FIGURES = {"log loss", "second half", "last tenth", "labels", "seconds"}


def bench(*arguments: str, data: Path | None = None) -> dict[str, dict[str, Any]]:
    settings = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | (
        {"STREAM_LSTM_DATA": str(data)} if data else {}
    )
    done = subprocess.run(
        [sys.executable, "-m", "bench", "features", "--json", "--quick", *arguments],
        cwd=REPOSITORY,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)["results"]["features"]
    return found


def test_every_function_agrees_with_its_reference() -> None:
    pytest.importorskip("pandas")
    functions = bench_module("features_functions")
    rows = functions.run(3000)
    compared = {name: row for name, row in rows.items() if "note" not in row}
    assert len(compared) >= len(functions.PANDAS)
    for name, row in compared.items():
        assert row["missing"] == 0, name
        # pandas decays by time with an error of its own, see the manual
        assert row["relative"] < (1e-6 if name == "ewm_mean(x, 10s)" else 1e-10), name
        assert row["rows"] > 1500 or "of(" in name or "age(" in name, name


def test_every_function_is_listed() -> None:
    pytest.importorskip("pandas")
    from stream_lstm.core.functions import FUNCTIONS

    functions = bench_module("features_functions")
    known = {name.split(",")[0] for name in functions.PANDAS | functions.NUMPY}
    listed = {name for name, row in functions.run(300).items() if "note" in row}
    assert known | listed == set(FUNCTIONS)


def test_a_difference_is_told() -> None:
    functions = bench_module("features_functions")
    told = functions.compared(np.array([1.0, 2.0, np.nan]), np.array([1.0, 2.5, 3.0]))
    assert told == {"rows": 2, "absolute": 0.5, "relative": 0.2, "missing": 1}


def test_b_follows_a_after_three_ticks() -> None:
    scores = bench_module("features_scores")
    streams = scores.leading(20_000, 1)
    a, b = (np.sign(streams[name][1][:, 0]) for name in "ab")
    assert abs((b[3:] == a[:-3]).mean() - scores.RIGHT) < 0.02
    assert abs((b[2:] == a[:-2]).mean() - 0.5) < 0.02


@pytest.mark.slow
def test_a_quick_run_has_a_row_for_each_subject(tmp_path: Path) -> None:
    rows = bench("--only", "speed,leads,book", "--repeats", "1", data=tmp_path)
    assert list(rows)[:3] == [
        "speed: the return alone",
        "speed: twenty features",
        "speed: twenty features / the return alone",
    ]
    for name in list(rows)[:2]:
        assert rows[name].keys() >= {"blocks", "silent", "publishing", "mean", "snapshot"}
    leads = {name: row for name, row in rows.items() if name.startswith("leads")}
    assert len(leads) == 3
    for row in leads.values():
        assert row.keys() >= FIGURES
        assert 0.3 < row["best"] < 0.7
    book = [row for name, row in rows.items() if name.startswith("book")]
    assert len(book) == 6
    assert all("missing file" in row for row in book)


@pytest.mark.slow
def test_real_series_have_all_figures() -> None:
    data = Path(os.environ.get("STREAM_LSTM_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (data / "btcusdt_book.csv.gz").exists():
        pytest.skip("no data folder with the real series")
    rows = bench("--only", "missing,pair", "--rows", "600", data=data)
    assert len(rows) == 10
    for name, row in rows.items():
        assert row.keys() >= FIGURES, name
        if name.startswith("missing"):
            assert row["refused"] == 0, name


def test_an_unknown_part_is_told() -> None:
    features = bench_module("features")
    with pytest.raises(SystemExit, match="no part 'spede'"):
        features.run(features.argparse.Namespace(only="spede"))
