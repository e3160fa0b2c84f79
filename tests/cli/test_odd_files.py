"""Files of another form than is read: each command says which, and what to do."""

import pytest


@pytest.mark.parametrize(
    "command",
    [
        ("replay", "--feature", "bid"),
        ("replay",),
        ("publish", "--bind", "tcp://127.0.0.1:*"),
        ("publish", "--bind", "tcp://127.0.0.1:*", "--columns", "bid,ask"),
        ("doctor", "--feature", "bid"),
    ],
    ids=" ".join,
)
def test_another_separator_is_told_with_a_way_to_convert(cli, tmp_path, command):
    path = tmp_path / "semi.csv"
    path.write_text("time;bid;ask\n2024-01-01;1.5;1.6\n")
    name, *flags = command
    done = cli(name, path, *flags)
    assert done.code == 65
    assert "semi.csv: its fields seem to be separated by ';'; only ',' is read" in done.err
