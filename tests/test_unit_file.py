"""The systemd unit is valid, and starts a command that exists."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "stream_lstm" / "data" / "stream-lstm.service"


@pytest.fixture
def unit():
    return UNIT.read_text(encoding="utf-8")


def test_systemd_accepts_it(unit, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
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
def test_it_has_the_settings_that_the_daemon_needs(unit, line):
    assert re.search(f"^{re.escape(line)}", unit, re.MULTILINE)
