"""Standard streams that were closed before the command began, as some supervisors do."""

import subprocess
import sys

import pytest

SMALL = "--feature x --hidden 2 --window 5 --bptt 5"
CLOSED = ("<&-", ">&-", "2>&-", "<&- >&- 2>&-")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("closed")
    (folder / "x.csv").write_text("x\n" + "".join(f"{k % 7 - 3}\n" for k in range(60)))
    (folder / "c.toml").write_text("[model]\nhidden = 4\n")
    return folder


def ran(command, closed, folder):
    program = f"{sys.executable} -c 'from stream_lstm.cli.start import main; main()'"
    return subprocess.run(
        f"{program} {command} {closed}",
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("closed", CLOSED)
def test_a_replay_writes_its_results_and_nothing_else(folder, closed):
    (folder / "o.csv").unlink(missing_ok=True)
    done = ran(f"replay x.csv {SMALL} --out o.csv", closed, folder)
    assert (done.returncode, done.stderr) == (0, "")
    lines = (folder / "o.csv").read_text().splitlines()
    assert lines[0].startswith("stream,n,")
    assert all(line.startswith("x,") for line in lines[1:])
    assert len(lines) > 3


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("--version", 0),
        ("--help", 0),
        ("check-config c.toml", 0),
        ("metrics-dashboard", 0),
        ("doctor x.csv --feature x --hidden 2 --window 5 --bptt 5", None),
        ("inspect x.csv", 65),
        ("inspect nothing.db", 66),
        ("replay x.csv --feature nothing", 2),
        ("replay --nonsense", 2),
        ("run --connect tcp://127.0.0.1:1 --feature x --hidden 2 --idle-timeout 0.1", 69),
        ("publish x.csv --bind tcp://127.0.0.1:* --speed max", 0),
        ("demo --seconds 1", 0),
    ],
)
def test_every_command_ends_as_with_them(folder, command, code):
    done = ran(command, CLOSED[-1], folder)
    if code is None:
        code = ran(command, "", folder).returncode
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
