"""Files as data sources deliver them: names of the columns, first row and number of rows."""

from __future__ import annotations

import numpy as np
import pytest

from stream_lstm.feed.input_file import InputFile

from .formats import FORMATS, NOT_YET, ROWS


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in {*NOT_YET, "noaa buoy"}])
def test_a_real_layout_has_its_columns_and_numbers(tmp_path, name):
    form = FORMATS[name]
    file = InputFile(form.write(tmp_path), "x", optional=("*",))
    with file.open(tuple(form.first)) as source:
        assert source.columns == form.columns
        values = np.concatenate([block.values for block in source.blocks()])
    assert values[0].tolist() == [*form.first.values()]
    assert len(values) == ROWS
