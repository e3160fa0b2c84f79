"""`replay --label-column`: labels from the file, in their own time."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stream_lstm.cli.label_column import parse_delay
from stream_lstm.errors import UsageError

SMALL = ("--hidden", 4, "--window", 20, "--stride", 5, "--feature", "x")


def labelled_file(path, cells):
    xs = np.random.default_rng(0).normal(size=len(cells)).tolist()
    rows = [
        f"{10**18 + k * 10**9},{x!r},{cell}"
        for k, (x, cell) in enumerate(zip(xs, cells, strict=True))
    ]
    path.write_text("\n".join(["t,x,up", *rows]) + "\n")
    return path


@pytest.fixture
def truth():
    return np.random.default_rng(1).integers(0, 2, 200)


def rows_of(path):
    return {row["n"]: row for row in map(json.loads, path.read_text().splitlines())}


@pytest.mark.parametrize("horizon", [0, 1, 3])
def test_each_prediction_is_scored_with_its_own_row_however_late(cli, tmp_path, truth, horizon):
    file = labelled_file(tmp_path / "a.csv", truth)
    tables = []
    for delay in ("0", "7", "40", "13s"):
        out = tmp_path / "out.jsonl"
        done = cli(
            *("replay", file, *SMALL, "--label-column", "up", "--label-delay", delay),
            *("--horizon", horizon, "--time", "t", "--out", out, "--json"),
        )
        summary = done.json()
        assert summary["label_column"]["name"] == "up"
        rows = rows_of(out)
        labels = {n: row["label"] for n, row in rows.items() if row["label"] is not None}
        assert labels == {n: truth[n + horizon - 1] for n in labels}
        assert len(labels) == summary["labels"]
        late = 13 if delay == "13s" else int(delay)
        steps = late if delay == "13s" else max(late - 1, 0)
        assert set(labels) == {n for n in rows if n + horizon + steps <= 200}
        read = {n for n in rows if n + horizon <= 200}
        assert summary["label_column"]["undelivered"] == len(read) - len(labels)
        tables.append({n: row["p"] for n, row in rows.items()})
    assert tables[1:] == tables[:-1]


def test_an_empty_cell_is_a_label_that_never_comes(cli, tmp_path, truth):
    cells = [str(y) for y in truth]
    cells[25] = cells[99] = ""  # the rows of elements 26 and 100
    done = cli(
        *("replay", labelled_file(tmp_path / "a.csv", cells), *SMALL),
        *("--label-column", "up", "--label-expiry", 50, "--json"),
    )
    summary = done.json()
    assert summary["ticks"] == 200
    assert summary["label_column"]["missing"] == 1
    assert summary["expired"] == 1
    assert summary["labels"] == summary["predictions"] - 2  # the last one has no row


def test_a_label_that_is_none_is_named_and_the_tick_stays(cli, tmp_path, truth):
    cells = [str(y) for y in truth]
    cells[25] = "7"
    file = labelled_file(tmp_path / "a.csv", cells)
    done = cli("replay", file, *SMALL, "--label-column", "up", "--json")
    assert done.json()["labels_bad"] == done.json()["refused_labels"] == 1
    assert "n=25" in done.err
    assert "0 or 1, not 7" in done.err
    real = cli("replay", file, *SMALL, "--label-column", "up", "--threshold", 0.5, "--json").json()
    assert real["refused_labels"] == 0
    assert real["labels"] == done.json()["labels"] + 1


def test_learning_from_late_labels_is_not_learning_from_prompt_ones(cli, tmp_path, truth):
    file = labelled_file(tmp_path / "a.csv", truth)
    digests = [
        cli(
            *("replay", file, *SMALL, "--label-column", "up", "--label-delay", delay),
            *("--learn", "--bptt", 10, "--json"),
        ).json()["digest"]
        for delay in ("0", "0", "60")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_delay_is_elements_or_a_time():
    assert parse_delay("0") == (0, None)
    assert parse_delay("10000") == (10_000, None)
    assert parse_delay("1.5s") == (0, 1_500_000_000)
    assert parse_delay("5 min") == (0, 300 * 10**9)
    for text in ("", "-1", "1.5", "s", "3 days", "1e3"):
        with pytest.raises(UsageError, match="elements"):
            parse_delay(text)
