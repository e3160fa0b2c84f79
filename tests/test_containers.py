"""What a container does to a daemon: process 1, no home, another user, a read-only root."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stream_lstm.cli.init import CONTAINER

from .cli.lines import ran

DATA = Path(__file__).parents[1] / "stream_lstm" / "data"
WAIT_S = 120


def test_the_files_are_written_once(tmp_path):
    done = ran("init", "--container", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in CONTAINER:
        path = tmp_path / Path(name).name
        assert path.read_text("utf-8") == (DATA / name).read_text("utf-8")
        assert path.name in done.stderr
    (tmp_path / "stream-lstm.toml").unlink()
    (tmp_path / "alerts.yml").write_text("mine")
    done = ran("init", "--container", cwd=tmp_path)
    assert (done.returncode, "exists already; --force" in done.stderr) == (2, True)
    assert not (tmp_path / "stream-lstm.toml").exists()
    assert (tmp_path / "alerts.yml").read_text() == "mine"
    assert ran("init", "--container", "--force", cwd=tmp_path).returncode == 0


def test_the_image_names_options_that_exist():
    text = (DATA / "container" / "Containerfile").read_text("utf-8")
    options = set(re.findall(r'"(--[a-z-]+)"', text))
    known = ran("run", "--help").stdout
    assert options
    assert all(option in known for option in options)


LIMITED = """
import os, sys
os.environ.clear()
os.environ["PATH"], os.environ["PYTHONPATH"] = "/usr/bin:/bin", sys.argv.pop(1)
assert os.getpid() == 1
if (sys.argv.pop(1), os.getuid()) == ("nobody", 0):
    os.setgid(65534)
    os.setuid(65534)
os.chdir("/")
os.execv(sys.executable, [sys.executable, "-m", "stream_lstm", *sys.argv[1:]])
"""


def unshared() -> list[str]:
    """The command that makes its child process 1, in a root that may only be read."""
    line = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    tried = subprocess.run([*line, "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("this machine does not let the tests make namespaces")
    return line


def child_of(pid: int) -> int:
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(entry.read_text().rpartition(")")[2].split()[1]) == pid:
                return int(entry.parent.name)
    raise AssertionError("the process has no child")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_process_1_without_home_user_or_writable_root_stops_cleanly(tmp_path):
    line = unshared()
    writable = tmp_path / "data"
    writable.mkdir()
    # every folder above must be open to the other user
    for folder in (writable, *[p for p in writable.parents if p != Path("/")]):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(0o777 if folder == writable else folder.stat().st_mode | 0o755)
    daemon = (
        *("run", "--connect", "tcp://127.0.0.1:9", "--feature", "x", "--hidden", "2"),
        *("--window", "12", "--store", str(writable / "s.db"), "--log-format", "json"),
    )
    source, python = Path(__file__).resolve().parents[1], Path(sys.executable).resolve()
    places = [*python.parents, *source.parents]
    user = "nobody" if all(place.stat().st_mode & 0o001 for place in places) else "root"
    process = subprocess.Popen(
        [*line, sys.executable, "-c", LIMITED, str(source), user, *daemon],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = []
    for text in process.stderr:
        seen.append(text)
        if '"ready"' in text:
            break
    os.kill(child_of(process.pid), signal.SIGTERM)
    out, err = process.communicate(timeout=WAIT_S)
    events = [json.loads(text)["event"] for text in (*seen, *err.splitlines())]
    assert process.returncode == 0, (seen, err)
    assert events[-1] == "stopped"
    assert json.loads(out)["ticks"] == 0
    assert (writable / "s.db").stat().st_size > 0


def test_each_metric_of_the_alerts_exists():
    text = (DATA / "monitoring" / "alerts.yml").read_text("utf-8")
    named = set(re.findall(r"stream_lstm_[a-z_]+", text))
    source = "".join(
        path.read_text("utf-8") for path in (DATA.parent / "serve").glob("monitor*.py")
    )
    assert len(named) > 5
    for name in named:
        short = name.removeprefix("stream_lstm_").removesuffix("_total")
        assert f'"{short}"' in source, name
    alerts = re.findall(r"- alert: (\w+)\n\s+expr: .+\n(?:\s+for: \w+\n)?\s+labels: .+\n", text)
    assert len(alerts) == text.count("- alert:") > 5
