"""An option that a command does not have: where it belongs, or what was meant."""

import pytest


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("replay x.csv --connect y", "--connect; --connect is an option of run and watch\n"),
        ("publish x.csv --feature y", "--feature; --feature is an option of replay, train, run, "),
        ("run --speed 1x", "--speed; --speed is an option of demo and publish\n"),
        ("replay x.csv --hiden 3", "--hiden; did you mean --hidden?\n"),
        ("replay x.csv --colums a", "--colums; did you mean --columns, an option of publish, run"),
        ("prove live --connect y", "--connect; --connect is an option of run and watch\n"),
        ("replay x.csv --zebra", "--zebra\n"),
    ],
)
def test_an_option_of_another_command_is_told_as_one(cli, line, words):
    done = cli(*line.split())
    assert done.code == 2
    assert f"No such option: {words}" in done.err
    assert "Possible options" not in done.err
