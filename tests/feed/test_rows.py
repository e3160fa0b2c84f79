"""Rows of text: values, line numbers, faults and footers, however the file is cut into runs."""

import csv
import io
import math

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.feed.dialect import sniff
from stream_lstm.feed.rows import TextRows, numbers
from stream_lstm.feed.source import TextSource

SIZES = [1, 5, 1 << 20]


def load(path, size=1 << 20):
    """Return the columns, line numbers, (line, reason) of faults, and the footer."""
    with TextSource(path) as source:
        lines = b"".join(iter(lambda: source.read(1 << 20), b"")).decode().split("\n")
    dialect = sniff("x", [line for line in lines if line] and lines)
    kinds = [column.kind for column in dialect.columns]
    wanted = [k for k, kind in enumerate(kinds) if kind == "number"]
    columns, places, faults = {}, [], []
    types = {k: pa.float64() if k in wanted else pa.string() for k in range(len(kinds))}
    with TextSource(path) as source:
        reader = TextRows(path, source, dialect, types, read_bytes=size)
        for rows in reader:
            places += rows.lines.tolist()
            found = [(int(rows.lines[at]), reason) for at, reason in rows.faults]
            for place, column in rows.columns.items():
                assert len(column) == len(rows.lines)
                if place in wanted and pa.types.is_string(column.type):
                    column, wrong = numbers(column, dialect.columns[place], frozenset())
                    found += [(int(rows.lines[at]), reason) for at, reason in wrong]
                columns.setdefault(place, []).extend(column.to_pylist())
            faults += sorted(found)
    return [columns[k] for k in sorted(columns)], places, faults, reader.footer


def write(tmp_path, text):
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("size", SIZES)
def test_line_numbers_count_comments_blanks_and_quoted_newlines(tmp_path, size):
    path = write(
        tmp_path,
        '# c\nt,v,n\n1,1.5,"a\nb"\n\n# d\n2,xx,c\n3,2.5,"x\n\ny"\n4,NA,d\n5,3,e\n'
        "\n\n# e\n\n" + "6,1,f\n" * 9,
    )
    columns, lines, faults, _ = load(path, size)
    assert lines == [3, 7, 8, 11, 12, *range(17, 26)]
    assert columns[0] == [1, 2, 3, 4, 5, *9 * [6]]
    assert columns[1] == [1.5, None, 2.5, None, 3, *9 * [1]]
    assert columns[2] == ["a\nb", "c", "x\n\ny", "d", "e", *9 * "f"]
    assert faults == [(7, "column 'v': 'xx' is not a finite number")]


@pytest.mark.parametrize("size", SIZES)
def test_rows_of_another_width_are_faults_and_a_footer_at_the_end(tmp_path, size):
    rows = "".join(f"{k},{k}.5\n" for k in range(9))
    path = write(tmp_path, f"a,b\n{rows}7\n1,2,3\n1,x\n{rows[6:]}Total rows: 18")
    columns, lines, faults, footer = load(path, size)
    assert faults == [
        (11, "1 fields, but the header has 2"),
        (12, "3 fields, but the header has 2"),
        (13, "column 'b': 'x' is not a finite number"),
    ]
    assert footer == ("Total rows: 18",)
    assert len(lines) == 20
    assert columns[0] == [*range(9), None, None, 1, *range(1, 9)]


@pytest.mark.parametrize("size", SIZES)
def test_a_quote_that_is_not_closed_is_named_by_its_line(tmp_path, size):
    rows = "".join(f"{k},{k}.5\n" for k in range(50))
    path = write(tmp_path, f'a,b\n{rows}51,"3\n{rows}')
    columns, lines, faults, _ = load(path, size)
    assert faults == [(52, "not a row of a table: unexpected end of data")]
    assert lines == list(range(2, 103))
    assert columns[0] == [*range(50), None, *range(50)]


@pytest.mark.parametrize("size", SIZES)
def test_forms_of_numbers(tmp_path, size):
    path = write(tmp_path, 'p;v;w\n"$2.000,50";1,5M;-\n"$1.000";2M;?\n$3,25;100;7\n')
    columns, *_, faults, _ = load(path, size)
    assert columns == [[2000.5, 1000, 3.25], [1.5e6, 2e6, 100], [None, None, 7]]
    assert not faults


@pytest.mark.parametrize("size", SIZES)
def test_missing_words_and_numbers_that_are_not_finite(tmp_path, size):
    cells = ["1.5", "nan", "NaN", "", "NA", "n/a", "-", "inf", "-Infinity", "1e400", "+3", "0"]
    path = write(tmp_path, "x,n\n2,a\n" + "".join(f"{cell},a\n" for cell in cells))
    columns, _, faults, _ = load(path, size)
    found = [None if x is None or x != x else x for x in columns[0]]
    # what Arrow reads as infinite is refused by who uses the numbers
    assert [x for x in found if x not in (math.inf, -math.inf)][:7] == [2, 1.5, *5 * [None]]
    assert found[-2:] == [3, 0]
    assert {line for line, _ in faults} <= {10, 11, 12}


def test_an_ambiguous_column_is_refused_cell_by_cell(tmp_path):
    _, _, faults, _ = load(write(tmp_path, 'a,b\n1,"1,234"\n2,"5,678"\n3,"9,012"\n'))
    assert [line for line, _ in faults] == [2, 3, 4]
    assert "'1,234' is ambiguous: use --decimal" in faults[0][1]


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=4)


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.floats(-1e6, 1e6), CELLS.map(lambda x: f"z{x}\n")), min_size=2, max_size=8
    ),
    size=st.integers(1, 40),
)
def test_what_a_csv_writer_wrote_is_read_with_its_lines(tmp_path_factory, rows, size):
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    lines = []
    for row in [("x", "note"), *rows]:
        lines.append(buffer.getvalue().count("\n") + 1)
        writer.writerow(row)
    path = tmp_path_factory.mktemp("d") / "x.csv"
    path.write_bytes(buffer.getvalue().encode())
    columns, found, faults, footer = load(path, size)
    known = pd.read_csv(path, keep_default_na=False)
    assert columns == [known["x"].tolist(), known["note"].tolist()]
    assert columns == [[x for x, _ in rows], [note for _, note in rows]]
    assert (found, faults, footer) == (lines[1:], [], ())


def test_floats_are_those_of_python(tmp_path):
    texts = [f"{k * 7 ** (k % 23) / 3 ** (k % 17)!r}" for k in range(1, 5000)]
    columns, *_ = load(write(tmp_path, "x,y\n" + "".join(f"{t},1\n" for t in texts)))
    assert columns[0] == [float(text) for text in texts]
    assert pa.array(columns[0]).null_count == 0
