"""The dialect of a table: every delimiter, header and number form, or a refusal that says why."""

import bz2
import csv
import gzip
import io
import lzma
import zipfile

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.errors import DataError
from stream_lstm.feed.dialect import Asked, plain_number, sniff
from stream_lstm.feed.source import TextSource

ROWS = [f"2024-03-01 09:{minute:02d}:00,{minute / 8}" for minute in range(10, 30)]
TEXT = "\n".join(["time,close", *ROWS, ""])


def read(path, size=1000):
    with TextSource(path) as source:
        parts = list(iter(lambda: source.read(size), b""))
    return b"".join(parts).decode()


def sniffed(text, **asked):
    return sniff("x.csv", text.splitlines(), Asked(**asked))


def zipped(data, names=("a.csv",)):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, data)
    return buffer.getvalue()


PACKED = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "two gzip members": lambda data: gzip.compress(data[:60]) + gzip.compress(data[60:]),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
    "zip with notes": lambda data: zipped(data, ("notes.md", "a.csv")),
    "zstd": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("name", ["x.csv", "x.dat", "x.csv.gz"])
def test_the_first_bytes_decide_how_a_file_is_packed(tmp_path, packed, name):
    path = tmp_path / name
    path.write_bytes(PACKED[packed](TEXT.encode()))
    assert read(path) == TEXT


@pytest.mark.parametrize(
    "codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "cp1252"]
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [7, 100_000])
def test_encodings_and_newlines_give_the_same_lines(tmp_path, codec, newline, size):
    text = TEXT.replace("close", "Köln")
    path = tmp_path / "x.csv"
    path.write_bytes(text.replace("\n", newline).encode(codec))
    assert read(path, size).removeprefix("\ufeff").splitlines() == text.splitlines()


def test_utf16_with_a_mark_of_either_order(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be"))
    assert read(path) == TEXT


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04 nothing", "damaged zip"),
        (zipped(b"", ("a.csv", "b.csv")), "contains a.csv, b.csv"),
        (gzip.compress(TEXT.encode())[:-9], "cut short"),
        (lzma.compress(TEXT.encode())[:-9], "cut short"),
        (b"%PDF-1.4", "a PDF document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel workbook"),
    ],
)
def test_what_is_no_table_of_text_is_named(tmp_path, data, said):
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=said):
        read(path)


def test_text_that_stops_being_utf8_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\n" * 40_000 + "K\xf6ln,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="begins as UTF-8"):
        read(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("before", ["", "# a comment, with commas; and more\n", "Export\n\n"])
def test_delimiters_behind_comments_and_preambles(delimiter, before):
    dialect = sniffed(before + TEXT.replace(",", delimiter))
    assert dialect.delimiter == delimiter
    assert [column.name for column in dialect.columns] == ["time", "close"]
    assert dialect.first_line == before.count("\n") + 2


def test_a_header_one_name_short_is_never_shifted():
    rows = "".join(f"{row},7\n" for row in ROWS)
    dialect = sniffed(f"close,volume\n{rows}")
    assert [column.name for column in dialect.columns] == ["row", "close", "volume"]
    assert "one name less" in dialect.notes[0]
    trailing = sniffed("time,close\n" + "".join(f"{row},\n" for row in ROWS))
    assert [column.name for column in trailing.columns] == ["time", "close"]
    assert trailing.width == 3


def test_further_header_lines_and_footers_are_no_rows():
    dialect = sniffed("Price,Close\nTicker,AAPL\nDate,\n" + "\n".join(ROWS))
    assert ([c.name for c in dialect.columns], dialect.first_line) == (["Price", "Close"], 4)
    assert "lines 2 to 3 continue the header" in dialect.notes
    footer = sniffed(TEXT + "\nTotal rows: 20\n")
    assert (footer.delimiter, footer.width, footer.first_line) == (",", 2, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a,b\n", "has a header and no rows"),
        ("time,1\n" + "\n".join(ROWS), "'1' is a number and cannot be the name"),
        ("x\n1,5\n2,5\n3,5\n", "'x' is one name"),
    ],
)
def test_what_has_two_readings_is_refused(text, said):
    with pytest.raises(DataError, match=said):
        sniffed(text)


@pytest.mark.parametrize(
    ("cell", "decimal", "plain"),
    [
        ("1,234.5", ".", "1234.5"),
        ("1.234,5", ",", "1234.5"),
        ("$2,000.00", ".", "2000.00"),
        ("-€1 234,5", ",", "-1234.5"),
        ("1.5M", ".", "1.5e6"),
        ("2.5%", ".", None),
        ("1,23", ".", None),
        ("1.23", ",", None),
        ("1,23,456", ".", None),
        ("1_000", ".", None),
        ("\u0661", ".", None),
        ("inf", ".", None),
        ("", ".", None),
    ],
)
def test_numbers_in_the_forms_of_the_trade(cell, decimal, plain):
    assert plain_number(cell, decimal) == plain


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_python_writes_is_read_exactly(number):
    assert float(plain_number(repr(number), ".")) == number


VALUES = st.lists(
    st.tuples(st.decimals(-(10**9), 10**9, places=6).map(float), st.integers(-99, 99)),
    min_size=3,
    max_size=20,
)


def number_text(x, places, decimal, grouped):
    text = f"{x:{',' if grouped else ''}.{places}f}"
    return text.translate(str.maketrans(",.", ".,")) if decimal == "," else text


@settings(deadline=None)
@given(
    rows=VALUES,
    delimiter=st.sampled_from(",;\t|"),
    decimal=st.sampled_from(".,"),
    header=st.booleans(),
    before=st.sampled_from(["", "# c, d; e\n", "An export of 2024\n\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    places=st.integers(1, 6),
    grouped=st.booleans(),
)
def test_a_table_in_any_dialect_is_read_as_written_or_refused(
    rows, delimiter, decimal, header, before, quoting, places, grouped
):
    written = [[number_text(x, places, decimal, grouped), str(n)] for x, n in rows]
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator="\n")
    writer.writerows([*([["price", "size"]] if header else []), *written])
    lines = (before + buffer.getvalue()).splitlines()
    try:
        dialect = sniff("x", lines)
    except DataError:
        return
    got = list(csv.reader(lines[dialect.first_line - 1 :], delimiter=dialect.delimiter))
    assert got == written
    names = [column.name for column in dialect.columns]
    assert names == (["price", "size"] if header else ["c0", "c1"])
    for k, column in enumerate(dialect.columns):
        if column.decimal:
            numbers = [float(plain_number(row[k], column.decimal)) for row in got]
            assert numbers == [float(f"{row[k]:.{places}f}") for row in rows]
