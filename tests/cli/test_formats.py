"""Files as data sources deliver them, at the first natural command: read right, or refused."""

from __future__ import annotations

import math
import shlex

import pytest

from ..feed.formats import FORMATS, NOT_YET, REVERSE

SMALL = ("--window", 2, "--stride", 1, "--hidden", 3, "--bptt", 2)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in NOT_YET])
def test_a_real_layout_is_read_right_or_refused_with_the_command_that_works(cli, tmp_path, name):
    form = FORMATS[name]
    path = form.write(tmp_path)
    line = ("replay", path, "--feature", form.feature, *SMALL, "--json")
    done = cli(*line)
    if form.refused:
        assert done.code in (2, 65), done.out
        assert all(word in done.err for word in form.refused), done.err
        if not form.flags:
            return
        done = cli(*line, *form.flags)
    assert done.code == 0, done.err
    summary = done.json()
    assert summary["read"]["rows"] == form.rows
    assert summary["elements"] == form.rows - summary["streams"]


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in {*NOT_YET, "noaa buoy"}])
def test_look_shows_the_first_row_and_its_command_works(cli, tmp_path, name):
    form = FORMATS[name]
    done = cli("look", form.write(tmp_path), "--json")
    assert done.code == 0, done.err
    record = done.json()
    assert tuple(one["name"] for one in record["columns"]) == form.columns
    turned = form.flags == REVERSE
    row = record["last"][-1] if turned else record["first"][0]
    first = dict(zip(record["shown"], row, strict=True))
    shown = {column: float(first[column] or math.nan) for column in form.first}
    assert shown == pytest.approx(form.first, rel=1e-11, nan_ok=True)
    if form.time:
        shown_time = record["times"]["last" if turned else "first"]
        assert shown_time == form.time.replace("T", " ").removesuffix(":00")
    else:
        assert record["times"] is None
    done = cli(*shlex.split(record["command"])[1:], *SMALL, "--json")
    assert done.code == 0, done.err
