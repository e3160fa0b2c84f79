"""Flags that state what cannot be found out about a table."""

from __future__ import annotations

import pytest

MODEL = ("--feature", "diff(x)", "--window", 2, "--stride", 1, "--hidden", 2)
CLEAN = [1.5, 2.25, 1.0, 3.5, 2.0, 4.25, 1.75, 2.5]


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("x;y\n" + "".join(f"{str(x).replace('.', ',')};1\n" for x in CLEAN), ()),
        ("x^y\n" + "".join(f"{x}^1\n" for x in CLEAN), ("--delimiter", "^")),
        ("".join(f"{x},1\n" for x in CLEAN), ("--names", "x,y")),
        ("a,b\nx,y\n" + "".join(f"{x},1\n" for x in CLEAN), ("--skip-lines", 1)),
        (
            "x,y\n" + "".join(f'"{x:.3f}",1\n'.replace(".", ",") for x in CLEAN),
            ("--decimal", ","),
        ),
    ],
)
def test_the_same_numbers_in_any_form_give_the_same_replay(cli, tmp_path, text, flags):
    (plain := tmp_path / "plain.csv").write_text("x,y\n" + "".join(f"{x},1\n" for x in CLEAN))
    (path := tmp_path / "odd.csv").write_text(text)
    expected = cli("replay", plain, *MODEL, "--stream", "s", "--json").json()
    found = cli("replay", path, *MODEL, "--stream", "s", "--json", *flags).json()
    assert found["digest"] == expected["digest"]


def test_a_sentinel_is_a_missing_value_in_every_command(cli, tmp_path):
    (path := tmp_path / "x.csv").write_text("x\n1\n2\n-999\n3\n1\n2\n")
    for command in ("replay", "train"):
        out = ("--out", tmp_path / "w.safetensors") if command == "train" else ()
        done = cli(command, path, *MODEL, *out, "--missing", "-999")
        assert done.code == 65
        assert "line 4: column 'x': '-999' is not a finite number" in done.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--delimiter", "ab"), "--delimiter is one character or tab, not 'ab'"),
        (("--decimal", ";"), "--decimal is . or , and not ';'"),
        (("--names", "a,b"), "has 1 columns, but --names has 2"),
    ],
)
def test_an_invalid_flag_is_named(cli, tmp_path, flags, said):
    (path := tmp_path / "x.csv").write_text("x\n1\n2\n")
    done = cli("replay", path, *MODEL, *flags)
    assert done.code in (2, 65)
    assert said in done.err
