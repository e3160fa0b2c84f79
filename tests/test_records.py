"""Records as columns: what a declaration implies, and that nothing is lost on the way."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stream_lstm
from stream_lstm.events import Expert, Expiry, Label, Prediction, Rollback, Score, Update
from stream_lstm.feed.protocol import encode_prediction, encode_score
from stream_lstm.records import Batch, fields_of
from stream_lstm.store.journal import Journal
from stream_lstm.store.reading import outputs
from stream_lstm.store.schema import TABLES, connect
from stream_lstm.store.units import Step

KINDS = (Prediction, Score, Update, Rollback, Expiry)

ints = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False)
unit = st.floats(0, 1)
experts = st.builds(Expert, st.text(), unit, unit)
predictions = st.builds(
    Prediction, st.text(), ints, ints, unit, st.text(), st.booleans(), st.booleans(),
    st.lists(experts, max_size=3).map(tuple),
)  # fmt: skip
scores = st.builds(
    Score, st.text(), ints, ints, unit, st.integers(0, 1), *[floats] * 3, st.text(),
    *[floats] * 3, *[st.none() | floats] * 3,
)  # fmt: skip
updates = st.builds(
    Update, st.text(), ints, floats, floats, st.booleans(), st.sampled_from(["", "not-finite"])
)
rollbacks = st.builds(
    Rollback, st.text(), ints, st.sampled_from(["refusals", "base-rate"]), st.just("last-good"),
    ints, floats, floats, st.none() | floats,
)  # fmt: skip
expiries = st.builds(Expiry, st.text(), ints)
lists = st.one_of(*map(st.lists, (predictions, scores, updates, rollbacks, expiries)))


def batch(**columns):
    given = {"stream": ["a", "b"], "n": [1, 2], "t_ns": [3, 4], "p": [0.25, 0.5]} | columns
    arrays = {name: np.array(column) for name, column in given.items() if column is not None}
    return Batch(Prediction, arrays | {"stream": np.array(given["stream"], object)})


@given(lists)
def test_records_come_back_from_columns(events):
    kind = type(events[0]) if events else Score
    made = Batch.of(kind, events)
    assert len(made) == len(events)
    assert made.events() == events
    assert made.rows() == [msgspec.structs.astuple(event) for event in events]


@given(st.lists(st.lists(scores, max_size=4), max_size=4))
def test_parts_are_joined_and_taken_in_order(parts):
    whole = [event for part in parts for event in part]
    joined = Batch.join(Score, [Batch.of(Score, part) for part in parts])
    assert joined.events() == whole
    assert joined.take(slice(None, None, -1)).events() == whole[::-1]
    odd = np.arange(len(whole)) % 2 == 1
    assert joined.take(odd).events() == joined.take(np.flatnonzero(odd)).events() == whole[1::2]


@pytest.mark.parametrize("kind", KINDS)
def test_each_field_has_a_column(kind):
    made, names = Batch.of(kind, []), kind.__struct_fields__
    assert tuple(field.name for field in fields_of(kind)) == names
    assert [made[field.name].dtype for field in fields_of(kind)] == [
        field.dtype for field in fields_of(kind)
    ]


def test_metadata_goes_before_what_the_type_implies():
    fields = {field.name: field for field in fields_of(Score)}
    assert (fields["p"].sql, fields["p"].arrow) == ("REAL NOT NULL", "float32")
    assert (fields["label"].sql, fields["label"].arrow) == ("INTEGER NOT NULL", "int8")
    assert (fields["raw_p"].sql, fields["raw_p"].nullable) == ("REAL", True)
    assert fields["log_loss"].required
    assert not fields["raw_p"].required


def test_columns_that_are_left_out_have_the_defaults():
    made = Batch.join(Prediction, [batch(), batch(after_gap=[True, False])])
    assert made["after_gap"].tolist() == [False, False, True, False]
    assert made["experts"].tolist() == [()] * 4
    assert [event.gaps_visible for event in made.events()] == [True] * 4
    with pytest.raises(KeyError, match="other"):
        made["other"]


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({"p": None}, ValueError),
        ({"other": [1, 2]}, ValueError),
        ({"n": [1, 2, 3]}, ValueError),
        ({"n": [[1], [2]]}, ValueError),
        ({"n": [1.5, 2.5]}, TypeError),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns, error):
    with pytest.raises(error):
        batch(**columns)


def test_records_are_validated_when_they_are_made():
    with pytest.raises(ValueError, match=r"p=2\.0 is not in"):
        batch(p=[0.5, 2.0]).events()


def test_a_type_without_a_column_is_refused():
    odd = msgspec.defstruct("Odd", [("x", int | None)])
    with pytest.raises(TypeError, match=r"Odd\.x"):
        fields_of(odd)


def test_the_wire_has_the_declared_fields_in_order():
    plain = Prediction("a", 1, 2, 0.25)
    assert encode_prediction(plain, "json")[1] == (
        b'{"v":1,"n":1,"t_ns":2,"p":0.25,"session":"","gaps_visible":true,"after_gap":false}'
    )
    score = Score("a", 1, 2, 0.25, 1, 0.5, 0.5, 0.5, "s", 1.0, 2.0, 3.0, None, 0.0)
    assert encode_score(score, "json")[1] == (
        b'{"v":1,"n":1,"t_ns":2,"p":0.25,"label":1,"log_loss":0.5,"base_rate_p":0.5,'
        b'"last_label_p":0.5,"session":"s","coin_evidence":1.0,"base_rate_evidence":2.0,'
        b'"last_label_evidence":3.0,"frozen_p":0.0}'
    )


@given(
    st.lists(
        st.one_of(predictions, scores, updates),
        max_size=6,
        unique_by=lambda e: (type(e), e.stream, e.n),
    ),
    st.booleans(),
)
def test_a_store_returns_what_it_took_singly_or_as_a_batch(events, batched):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(TABLES)
    connection.execute("INSERT INTO runs VALUES (1, 0, 0, '', 0, '', '', '')")
    kinds = (Prediction, Score, Update)
    told = {kind: [event for event in events if type(event) is kind] for kind in kinds}
    given = [Batch.of(kind, told[kind]) for kind in kinds] if batched else events
    with contextlib.closing(connection):
        Journal(connection, 1).write([[Step(Label("a", 1, 1.0), 0, given)]])
        for kind, made in told.items():
            found = [event for _, event in outputs(connection, kind)]
            assert sorted(found, key=repr) == sorted(made, key=repr)


LAST_FIELD = "    stateless_p: float | None = None\n"

PROGRAM = """
import json, sqlite3
from pathlib import Path

import numpy as np

from stream_lstm.events import Label, Prediction, Score
from stream_lstm.feed.protocol import encode_score
from stream_lstm.feed.wire import decode_score
from stream_lstm.interop.predictor import replay_frame
from stream_lstm.store import schema
from stream_lstm.store.journal import Journal
from stream_lstm.store.output import open_output
from stream_lstm.store.reading import outputs
from stream_lstm.store.units import Step

score = Score("a", 2, 3, 0.5, 1, 0.7, 0.5, 0.5, surprise=0.25)
frames = encode_score(score, "json")
assert json.loads(frames[1])["surprise"] == 0.25
assert decode_score(*frames) == score

connection = schema.connect(Path("old.db"))
Journal(connection, 1).write([[Step(Label("a", 2, 1.0), 0, [score])]])
found = connection.execute("SELECT n, surprise FROM scores ORDER BY n").fetchall()
assert found == [(1, 0.5), (2, 0.25)], found
assert [one.surprise for _, one in outputs(connection, Score)] == [0.5, 0.25]
connection.close()
connection = schema.connect(Path("new.db"))
assert "surprise" in [row[1] for row in connection.execute("PRAGMA table_info(scores)")]
connection.close()

with open_output("out.csv") as writer:
    writer.write(Prediction("a", 2, 3, 0.5))
    writer.score(score)
header, row = Path("out.csv").read_text().splitlines()
assert header.endswith(",stateless_p,surprise") and row.endswith(",0.25")

table = replay_frame({"x": np.random.default_rng(1).normal(size=200)}, "x").table
assert table.column_names[-1] == "surprise"
assert set(table["surprise"].to_pylist()) == {0.5, None}
"""


@pytest.mark.slow
def test_a_new_field_of_a_score_arrives_everywhere_from_its_declaration(tmp_path):
    connection = connect(tmp_path / "old.db")
    connection.execute("INSERT INTO runs VALUES (1, 0, 0, '', 0, '', '', '')")
    score = Score("a", 1, 2, 0.5, 1, 0.7, 0.5, 0.5)
    Journal(connection, 1).write([[Step(Label("a", 1, 1.0), 0, [score])]])
    connection.close()
    shutil.copytree(Path(stream_lstm.__file__).parent, tmp_path / "stream_lstm")
    declaration = tmp_path / "stream_lstm" / "events.py"
    text = declaration.read_text()
    assert text.count(LAST_FIELD) == 1
    declaration.write_text(text.replace(LAST_FIELD, f"{LAST_FIELD}    surprise: float = 0.5\n"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
