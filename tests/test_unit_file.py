"""The systemd unit of the README is one that systemd takes, and starts a command that exists."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def unit():
    (found,) = re.findall(r"```ini\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return found


def test_systemd_takes_it(unit, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    command = Path(sys.executable).with_name("stream-lstm")
    file = tmp_path / "stream-lstm.service"
    file.write_text(unit.replace("/opt/stream-lstm/bin/stream-lstm", str(command)))
    done = subprocess.run(
        ["systemd-analyze", "verify", file], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "line",
    [
        "Type=notify",
        "WatchdogSec=",
        "MemoryMax=",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "StateDirectory=",
        "ExecReload=/bin/kill -HUP $MAINPID",
    ],
)
def test_it_has_what_the_daemon_counts_on(unit, line):
    assert re.search(f"^{re.escape(line)}", unit, re.MULTILINE)
