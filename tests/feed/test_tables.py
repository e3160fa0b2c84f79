"""Tables of every kind: JSON, workbooks, queries, odd text, and any table in any dialect."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import math
import random
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stream_lstm.errors import DataError, UsageError
from stream_lstm.feed.dialect import Asked, is_missing, value_kind
from stream_lstm.feed.files import file_columns, open_file
from stream_lstm.feed.tables import file_notes, open_table
from stream_lstm.interop import extras

from .reading import load, text_file

RECORDS = [
    {"t": f"2024-03-01T09:{k:02d}:00", "bid": k / 8, "n": k, "s": "a"} for k in range(10, 30)
]
VALUES = [[record["bid"], record["n"]] for record in RECORDS]


def cells(path: Path, asked: Asked | None = None) -> list[list[object]]:
    """All columns of a table, numbers as numbers."""
    with open_table(path, asked) as table:
        numeric = table.numeric()
        kinds = [pa.float64() if name in numeric else pa.string() for name in table.names]
        columns: list[list[object]] = [[] for _ in kinds]
        for run in table.runs(dict(enumerate(kinds)), 1000):
            assert not run.faults
            for place, column in run.columns.items():
                if kinds[place] == pa.float64():
                    numbers, wrong = table.numbers(place, column)
                    assert not wrong
                    columns[place] += [None if math.isnan(x) else x for x in numbers.tolist()]
                else:
                    columns[place] += [str(cell).strip() for cell in column.to_pylist()]
    return columns


# ---- JSON -------------------------------------------------------------------------------------

JSON = {
    "array": json.dumps(RECORDS),
    "indented": json.dumps(RECORDS, indent=1),
    "lines": "\n".join(map(json.dumps, RECORDS)),
    "answer": json.dumps({"status": "ok", "data": RECORDS}),
    "arrays": json.dumps([list(record.values()) for record in RECORDS]),
    "texts": json.dumps([{k: str(v) for k, v in record.items()} for record in RECORDS]),
}


@pytest.mark.parametrize("form", JSON)
@pytest.mark.parametrize("packed", [False, True])
def test_json_rows_are_read_in_every_form(tmp_path, form, packed):
    data = JSON[form].encode()
    path = text_file(tmp_path, gzip.compress(data) if packed else data, "x.csv")
    names = ("c0", "c1", "c2", "c3") if form == "arrays" else ("t", "bid", "n", "s")
    assert file_columns(path) == names
    t_ns, values, rows, _ = load(path, columns=names[1:3], time=names[0])
    assert values.tolist() == VALUES
    assert rows.tolist() == list(range(1, 21))
    assert np.diff(t_ns).tolist() == [60 * 10**9] * 19


def test_json_that_is_not_rows_is_refused(tmp_path):
    for text, said in (
        ('{"t": [1, 2], "x": [3, 4]}', "a JSON object with t, x, not an array of rows"),
        ('[{"a": 1}, [2]]', "not rows"),
        ('[{"a": 1}, {"a": 2', "not valid JSON"),
        ('{"a": 1}\n{"a": 2}\noops\n', r"line 3: not an object"),
    ):
        with pytest.raises(DataError, match=said):
            load(text_file(tmp_path, text, "x.json"))


def test_a_missing_field_of_json_is_a_missing_cell(tmp_path):
    path = text_file(tmp_path, '{"a": 1, "b": 2}\n{"a": 2}\n{"a": null, "b": 3}\n', "x.jsonl")
    _, values, _, _ = load(path, optional=("*",))
    np.testing.assert_array_equal(values, [[1, 2], [2, math.nan], [math.nan, 3]])
    with pytest.raises(DataError, match=r"row 2: column 'b' is empty"):
        load(path)


# ---- workbooks --------------------------------------------------------------------------------


@pytest.fixture
def workbook(tmp_path):
    pytest.importorskip("python_calamine", reason="python-calamine is not installed")
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed")

    def write(*rows, sheets=1):
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        for k in range(1, sheets):
            book.create_sheet(f"more{k}").append([k])
        book.save(tmp_path / "x.csv")
        return tmp_path / "x.csv"

    return write


def test_a_workbook_is_read_by_the_rules_of_text(workbook):
    rows = [(datetime.datetime.fromisoformat(r["t"]), r["bid"], r["n"], r["s"]) for r in RECORDS]
    path = workbook(("t", "bid", "n", "s"), *rows)
    t_ns, values, numbers, _ = load(path, columns=["bid", "n"], time="t")
    assert values.tolist() == VALUES
    assert numbers.tolist() == list(range(2, 22))
    assert np.diff(t_ns).tolist() == [60 * 10**9] * 19
    path = workbook(("A report",), (), ("t", "bid", "n", "s"), *rows, ("Source: me",), sheets=2)
    assert load(path, columns=["bid", "n"])[1].tolist() == VALUES
    assert "'more1'" in file_notes(path, Asked())[0]
    known = pd.read_excel(path, skiprows=2, skipfooter=1, engine="openpyxl")
    assert list(known.columns) == list(file_columns(path))


def test_a_workbook_without_the_package_names_the_extra(tmp_path, monkeypatch):
    archive = io.BytesIO()
    with __import__("zipfile").ZipFile(archive, "w") as file:
        file.writestr("xl/workbook.xml", "")
    path = text_file(tmp_path, archive.getvalue())
    monkeypatch.setattr(extras, "installed", lambda _: None)
    with pytest.raises(UsageError, match=r"Excel workbook.*pip install 'stream-lstm\[xlsx\]'"):
        load(path)


# ---- queries ----------------------------------------------------------------------------------


def test_a_query_without_the_package_names_the_extra(tmp_path, monkeypatch):
    path = text_file(tmp_path, "a\n1\n")
    monkeypatch.setattr(extras, "installed", lambda _: None)
    with pytest.raises(UsageError, match=r"--sql needs .*pip install 'stream-lstm\[sql\]'"):
        load(path, asked=Asked(sql="select * from file"))


def queried(path, sql, **options):
    pytest.importorskip("duckdb", reason="duckdb is not installed")
    return load(path, asked=Asked(sql=sql), **options)


@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
def test_a_query_reads_the_rows_of_any_table(tmp_path, kind):
    frame, path = pd.DataFrame(RECORDS), tmp_path / f"x.{kind}"
    frame["big"] = 2**60 + frame["n"]
    {"csv": lambda p: frame.to_csv(p, index=False), "parquet": frame.to_parquet}.get(
        kind, lambda p: frame.to_json(p, orient="records")
    )(path)
    sql = "select t, bid * 2 as twice, big - (1::bigint << 60) as small from file where n >= 20"
    t_ns, values, rows, _ = queried(path, sql, time="t")
    assert values.tolist() == [[k / 4, k] for k in range(20, 30)]
    assert rows.tolist() == list(range(1, 11))
    assert len(np.unique(t_ns)) == 10
    means = queried(path, "select s, avg(bid) as mean from file group by s")[1]
    assert means.tolist() == [[frame["bid"].mean()]]


def test_a_query_that_fails_or_opens_a_file_is_refused(tmp_path):
    path = text_file(tmp_path, "a,b\n1,x\n2,y\n")
    for sql, said in (
        ("select c from file", "'file', |the table is file, with a double, b string"),
        (f"select * from read_csv('{path}')", "disabled"),
        ("drop table nothing", "--sql"),
    ):
        with pytest.raises(UsageError, match=said):
            queried(path, sql)
    bad = text_file(tmp_path, "a,b\n1,x\n2,y\noops,z\n4,q\n", "bad.csv")
    with pytest.raises(DataError, match="line 4: column 'a': 'oops' is not a finite number"):
        queried(bad, "select a from file")


# ---- odd text ---------------------------------------------------------------------------------


def test_missing_words_and_sentinels_are_nan(tmp_path):
    path = text_file(tmp_path, "a,b\n1,-200\n-200.0,2\nfehlt,3\n4,5\n")
    asked = Asked(missing=("-200", "fehlt"))
    _, values, _, _ = load(path, optional=("*",), asked=asked)
    np.testing.assert_array_equal(values, [[1, math.nan], [math.nan, 2], [math.nan, 3], [4, 5]])
    with pytest.raises(DataError, match="line 2: column 'b': '-200' is not a finite number"):
        load(path, asked=asked)
    pa.parquet.write_table(pa.table({"a": [1.0, -200.0]}), tmp_path / "t.parquet")
    _, values, _, _ = load(tmp_path / "t.parquet", optional=("a",), asked=asked)
    np.testing.assert_array_equal(values[:, 0], [1, math.nan])


@pytest.mark.parametrize(
    ("text", "asked", "names", "note"),
    [
        ("# c\n#t,x\n1,2\n3,4\n", {}, ("t", "x"), "names are those of the comment"),
        ("t,x\n1,2\n3,4\n", {"names": ("a", "b")}, ("a", "b"), "--names replaces the header"),
        ("x,y\nr1,1,2\nr2,3,4\n", {}, ("row", "x", "y"), "one name less"),
        ("a,p\n1,2%\n3,4.5%\n", {}, ("a", "p"), "in percent are read without the sign: p"),
        ("1,2\n3,4\n", {}, ("c0", "c1"), "no header"),
        ("a b\n1 2\n3 4\n", {}, ("a", "b"), ""),
        ("a^b\n1^2\n3^4\n", {"delimiter": "^"}, ("a", "b"), ""),
        ("x\ny\na;b\n1;2\n", {"skip_lines": 2}, ("a", "b"), ""),
        ("#s,p\nA,1\n#B,2\n", {}, ("s", "p"), ""),
    ],
)
def test_forms_that_are_named_or_given(tmp_path, text, asked, names, note):
    path = text_file(tmp_path, text)
    notes = file_notes(path, Asked(**asked))
    assert file_columns(path, Asked(**asked)) == names
    assert not notes if not note else any(note in one for one in notes), notes


def test_rows_that_begin_with_the_sign_of_comments_are_not_lost(tmp_path):
    path = text_file(tmp_path, "s,p\nA,1\n#B,2\n# a comment\nC,3\n")
    _, values, rows, _ = load(path)
    assert values[:, 0].tolist() == [1, 2, 3]
    assert rows.tolist() == [2, 3, 5]


def test_a_bad_row_behind_the_header_is_not_lost(tmp_path):
    path = text_file(tmp_path, "a,b\n1,2,3\n" + "4,5\n" * 5)
    with pytest.raises(DataError, match="line 2: 3 fields, but the header has 2"):
        load(path)


def test_a_percent_sign_in_some_cells_only_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"line 3: column 'a': '0.03' is not|'2%' is not"):
        load(text_file(tmp_path, "a,b\n2%,1\n0.03,2\n4%,3\n"))


def test_a_footer_is_named_and_a_row_cut_short_is_refused(tmp_path):
    path = text_file(tmp_path, "a,b\n1,2\n3,4\n5,6\n\nTotal rows: 3\n")
    with open_file(path, columns=None, time=None, on_refusal=print) as source:
        assert sum(len(block.rows) for block in source.blocks()) == 3
        assert source.notes == ("the last lines are not rows: Total rows: 3",)
    with pytest.raises(DataError, match="line 5: 1 fields, but the header has 2"):
        load(text_file(tmp_path, "a,b\n1,2\n3,4\n5,6\n7"))


def test_what_a_file_is_instead_of_a_table_is_named(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.csv"))
    for data, said in (
        (buffer.getvalue(), "a gzip file with a tar archive"),
        (b"\n<!DOCTYPE html>\n<html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"SQLite format 3\x00" + bytes(100), "an SQLite database"),
    ):
        with pytest.raises(DataError, match=said):
            load(text_file(tmp_path, data))


def test_zeros_behind_a_gzip_file_are_ignored(tmp_path):
    data = gzip.compress(b"a,b\n1,2\n3,4\n") + bytes(512)
    assert load(text_file(tmp_path, data))[1].tolist() == [[1, 2], [3, 4]]


def test_decimals_are_those_of_python_exactly(tmp_path):
    draw = random.Random(5)
    texts = []
    for _ in range(20_000):
        digits = "".join(draw.choices("0123456789", k=draw.randint(1, 40)))
        point = draw.randint(0, len(digits))
        text = f"{digits[:point]}.{digits[point:]}" if draw.random() < 0.7 else digits
        text = f"0{text}" if text.startswith(".") else text
        exponent = f"e{draw.randint(-345, 260)}" if draw.random() < 0.5 else ""
        texts.append(("-" if draw.random() < 0.3 else "") + text + exponent)
    kept = [text for text in texts if math.isfinite(float(text))]
    _, values, _, _ = load(text_file(tmp_path, "x,y\n" + "".join(f"{t},1\n" for t in kept)))
    assert values[:, 0].tobytes() == np.array([float(text) for text in kept]).tobytes()


# ---- any table in any dialect ------------------------------------------------------------------

WORDS = ["", "NA", "null", "-", "?", "#N/A", "NaN"]
ALPHABET = st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"])
TEXTS = st.text(ALPHABET, min_size=1, max_size=6).filter(
    lambda text: value_kind(text) == "text" and not is_missing(text)
)
NUMBERS = st.decimals(-(10**7), 10**7, places=4).map(float)
TIMES = st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2030, 1, 1)).map(
    lambda t: t.isoformat(" ", "seconds")
)


@st.composite
def tables(draw):
    """Return kinds and rows of a table, a column of numbers among them."""
    kinds = draw(st.permutations(["number", *draw(st.lists(st.sampled_from("tnx"), max_size=3))]))
    values = {"t": TIMES, "x": TEXTS, "n": NUMBERS, "number": NUMBERS}
    count = draw(st.integers(4, 12))
    rows = [[draw(values[kind]) for kind in kinds] for _ in range(count)]
    for row in draw(st.permutations(rows))[: len(rows) // 3]:
        for k, kind in enumerate(kinds):
            if kind in ("n", "number") and draw(st.booleans()):
                row[k] = None
    return kinds, rows


def written(value, decimal, grouped, places, word):
    if not isinstance(value, float):
        return word if value is None else value
    text = f"{value:{',' if grouped else ''}.{places}f}"
    return text.translate(str.maketrans(",.", ".,")) if decimal == "," else text


@given(
    table=tables(),
    delimiter=st.sampled_from(",;\t|"),
    decimal=st.sampled_from(".,"),
    grouped=st.booleans(),
    places=st.integers(1, 4),
    word=st.sampled_from(WORDS),
    header=st.booleans(),
    before=st.sampled_from(["", "# c, d; e\n", "An export of 2024\n\n", "Title;;\n\n"]),
    after=st.sampled_from(["", "\n", "\nTotal of all rows\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_table_in_any_dialect_is_read_as_written_or_refused(
    tmp_path_factory,
    table,
    delimiter,
    decimal,
    grouped,
    places,
    word,
    header,
    before,
    after,
    quoting,
    newline,
    encoding,
):
    kinds, rows = table
    assume(len(kinds) > 1 or before[:1] in ("", "#"))  # its line would be the name of the column
    assume(len(kinds) > 1 or header or decimal == ".")  # 1,5 in each line is two columns
    shown = [[written(v, decimal, grouped, places, word) for v in row] for row in rows]
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator="\n")
    names = [f"{kind}_{k}" for k, kind in enumerate(kinds)]
    writer.writerows([*([names] if header else []), *shown])
    text = (before + buffer.getvalue() + after).replace("\n", newline)
    path = text_file(tmp_path_factory.mktemp("d"), text.encode(encoding))
    try:
        found, columns = file_columns(path), cells(path)
    except (DataError, AssertionError):
        return  # a refusal, of the whole or of some rows
    assert found == (tuple(names) if header else tuple(f"c{k}" for k in range(len(kinds))))
    for k, kind in enumerate(kinds):
        values = [row[k] for row in rows]
        if kind in ("number", "n"):
            values = [None if v is None else float(f"{v:.{places}f}") for v in values]
        assert columns[k] == values
