"""What the benchmarks report is what they were given; how fast things are is not tested."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = REPOSITORY / "bench" / "report.py"
    spec = importlib.util.spec_from_file_location("bench_report", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_report", module)
    spec.loader.exec_module(module)
    return module


def test_percentiles_are_microseconds(report: ModuleType) -> None:
    nanoseconds = [int(k * 1000) for k in np.random.default_rng(0).permutation(1001)]
    found = report.percentiles(nanoseconds)
    assert found == {"p50": 500.0, "p90": 900.0, "p99": 990.0, "p99.9": 999.0}


def test_medians_take_the_middle_run_and_tell_the_spread(report: ModuleType) -> None:
    runs = [{"p50": 3.0, "p99": 9.0}, {"p50": 1.0, "p99": 8.0}, {"p50": 2.0, "p99": 50.0}]
    assert report.medians(runs) == {"p50": 2.0, "p99": 9.0, "runs": 3, "p50 spread": "1.0-3.0"}


def test_the_table_has_a_row_for_each_subject_and_gaps_where_there_is_no_figure(
    report: ModuleType,
) -> None:
    lines = report.table({"ours": {"p50": 1.5}, "theirs": {"p50": 2.5, "note": "x"}}).splitlines()
    assert lines == [
        "| subject | p50 | note |",
        "|---|---|---|",
        "| ours | 1.5 |  |",
        "| theirs | 2.5 | x |",
    ]


def test_the_machine_is_told_with_versions(report: ModuleType) -> None:
    machine = report.machine()
    assert machine["cores"] >= 1
    assert machine["versions"]["jax"] in machine["text"]


@pytest.mark.slow
def test_every_benchmark_has_its_arguments() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("step", "roundtrip", "delays", "causal", "evidence"):
        assert name in done.stdout


def test_the_manual_documents_every_benchmark_and_each_of_its_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(REPOSITORY)
    main = importlib.import_module("bench.__main__")
    page = REPOSITORY / "stream_lstm" / "manual" / "benchmarks.md"
    text = page.read_text(encoding="utf-8").split("## Running them")[1]
    table = text.split("|---|---|---|\n")[1].split("\n\n")[0]
    lines = {line.split("`")[1]: line for line in table.splitlines()}
    for name, module in main.BENCHMARKS.items():
        parser = argparse.ArgumentParser(add_help=False)
        if hasattr(module, "arguments"):
            module.arguments(parser)
        for option in parser._option_string_actions:
            assert option in lines[name], f"{name} {option}"
    for name in main.ALONE:
        assert f"`{name}`" in table
