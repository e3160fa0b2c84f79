"""`--bank` from the command line: what is said of a bank, and of a file that is none."""

import msgspec
import numpy as np
import pytest

from stream_lstm.config import DEFAULT_BANK, parse_bank
from stream_lstm.errors import ConfigurationError

GOOD = """
[[member]]
kind = "network"
name = "small"
hidden = 2
gradient = "snap1"

[[member]]
kind = "table"
name = "rate"
"""


@pytest.fixture
def x(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(
        "x\n" + "\n".join(map(repr, np.random.default_rng(0).normal(size=80).tolist()))
    )
    return path


def replay(cli, x, bank, *more, learn=("--learn",)):
    small = ("--hidden", 2, "--window", 20, "--bptt", 10)
    return cli("replay", x, "--feature", "x", *small, *learn, "--bank", bank, *more)


def test_a_bank_from_a_file_is_mixed_and_told_of(cli, x, tmp_path):
    file = tmp_path / "bank.toml"
    file.write_text(GOOD)
    summary = replay(cli, x, file, "--json").json()
    assert list(summary["experts"]) == ["small", "rate"]
    weights = [figures["weight"] for figures in summary["experts"].values()]
    assert sum(weights) == pytest.approx(1)
    assert min(weights) > 0
    losses = [figures["log_loss"] for figures in summary["experts"].values()]
    assert summary["log_loss"] <= min(losses) + np.log(2) / summary["labels"] + 1e-4
    table = replay(cli, x, file)
    assert table.code == 0
    assert "small" in table.out
    assert "rate" in table.out
    plain = cli("replay", x, "--feature", "x", "--hidden", 2, "--window", 20, "--json").json()
    assert "experts" not in plain


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[member]]\nkind = "netwrok"\nname = "a"\n', "'netwrok'; choose one of network"),
        ('[[member]]\nname = "a"\n', "member 1 ('a'): kind = None"),
        (
            '[[member]]\nkind = "table"\nname = "a"\nfaed = 3\n',
            "no key 'faed'; did you mean 'fade'?",
        ),
        ('[[member]]\nkind = "table"\nname = "a"\nsigns = 99\n', "member 1 ('a')"),
        ('[[member]]\nkind = "table"\n', "member 1: Object missing required field `name`"),
        (GOOD + GOOD, "members need names of their own; 'small' is not one"),
        ("member = 3\n", "[[member]]"),
        ("", "[[member]]"),
        ("[[member]\n", "is not valid TOML"),
        (
            GOOD.replace("hidden", "layers"),
            "member 'small': gradient = 'snap1' is defined for one",
        ),
    ],
)
def test_a_file_that_is_no_bank_is_refused_by_name(cli, x, tmp_path, text, says):
    file = tmp_path / "bank.toml"
    file.write_text(text)
    done = replay(cli, x, file)
    assert done.code in (2, 78), "a configuration is at fault"
    assert says in done.err.replace("\n", " ")
    assert "Traceback" not in done.err


def test_a_bank_that_is_not_there_or_cannot_be_is_refused(cli, x, tmp_path):
    file = tmp_path / "bank.toml"
    file.write_text(GOOD)
    assert replay(cli, x, tmp_path / "none.toml").code == 66
    without = replay(cli, x, file, learn=())
    assert without.code in (2, 78)
    assert "learns: say learn too" in without.err
    saving = replay(cli, x, file, "--save-weights", tmp_path / "w.safetensors")
    assert saving.code == 2
    assert "save one with --bank none" in saving.err
    assert not (tmp_path / "w.safetensors").exists()
    given = replay(cli, x, file, "--weights", tmp_path / "w.safetensors")
    assert given.code == 2
    assert "start from weights with --bank none" in given.err


def test_the_default_bank_can_be_written_as_a_file():
    tables = msgspec.to_builtins(DEFAULT_BANK)
    assert parse_bank({"member": tables}) == DEFAULT_BANK
    for table in tables:
        with pytest.raises(ConfigurationError, match="names of their own"):
            parse_bank({"member": [table, table]})
