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
import yaml

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
os.setgid(65534)
os.setuid(65534)
os.chdir("/")
assert (os.getpid(), os.getuid()) == (1, 65534)
assert os.statvfs("/").f_flag & os.ST_RDONLY
os.execv(sys.executable, [sys.executable, "-m", "stream_lstm", *sys.argv[1:]])
"""


def unshared(writable: Path, spare: Path, needed: list[Path]) -> list[str]:
    """The command whose child is process 1, in a root where only `writable` can be written.

    Folders that other users may not enter show them what is `needed`, by way of `spare`.
    """
    line = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
    steps = [f"mount --bind {writable} {writable}"]
    closed: dict[Path, list[Path]] = {}
    for place in needed:
        above = [one for one in (*place.parents, place) if not one.stat().st_mode & 0o001]
        if above:
            closed.setdefault(min(above), []).append(place)
    for number, (folder, places) in enumerate(closed.items()):
        (kept := spare / str(number)).mkdir()
        steps += [f"mount --bind {folder} {kept}", f"mount -t tmpfs -o mode=755 none {folder}"]
        for place in places:
            inner = kept / place.relative_to(folder)
            steps += [f"mkdir -p {place}", f"mount --bind {inner} {place}"]
    line += ["sh", "-c", " && ".join([*steps, "mount -o remount,bind,ro /", 'exec "$@"']), "sh"]
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("namespaces need root, and unshare")
    tried = subprocess.run([*line, "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no namespaces or mounts here: {tried.stderr.decode()}")
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
    (writable := tmp_path / "data").mkdir()
    (spare := tmp_path / "spare").mkdir()
    writable.chmod(0o777)
    for folder in tmp_path, *tmp_path.parents[:3]:
        folder.chmod(folder.stat().st_mode | 0o055)
    source = Path(__file__).resolve().parents[1]
    needed = [source, *dict.fromkeys(map(Path, (sys.prefix, sys.base_prefix)))]
    line = unshared(writable, spare, needed)
    daemon = (
        *("run", "--connect", "tcp://127.0.0.1:9", "--feature", "x", "--hidden", "2"),
        *("--window", "12", "--store", str(writable / "s.db"), "--log-format", "json"),
    )
    process = subprocess.Popen(
        [*line, sys.executable, "-c", LIMITED, str(source), *daemon],
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


def test_compose_builds_the_containerfile_and_mounts_the_files_beside_it():
    compose = yaml.safe_load((DATA / "container" / "compose.yaml").read_text("utf-8"))
    services = compose["services"]
    daemon, prometheus = services["stream-lstm"], services["prometheus"]
    assert daemon["build"]["dockerfile"] == "Containerfile"
    assert daemon["read_only"]
    volumes = {one.partition(":")[0] for one in daemon["volumes"]}
    assert volumes == set(compose["volumes"])
    mounted = {one.partition(":")[0].removeprefix("./") for one in prometheus["volumes"]}
    assert mounted == {"prometheus.yml", "alerts.yml"}
    image = (DATA / "container" / "Containerfile").read_text("utf-8")
    for one in daemon["volumes"]:
        assert f'"{one.partition(":")[2]}"' in image.replace("\\\n", " ")


def test_prometheus_scrapes_the_address_of_the_image_and_reads_the_alerts():
    scrape = yaml.safe_load((DATA / "monitoring" / "prometheus.yml").read_text("utf-8"))
    (job,) = scrape["scrape_configs"]
    ((target,),) = (one["targets"] for one in job["static_configs"])
    assert scrape["rule_files"] == ["alerts.yml"]
    assert target in (DATA / "container" / "Containerfile").read_text("utf-8")
    assert f'job="{job["job_name"]}"' in (DATA / "monitoring" / "alerts.yml").read_text("utf-8")


def test_another_name_of_the_configuration_reaches_the_image(tmp_path):
    done = ran("init", "--container", "--out", "my own.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "Containerfile").read_text("utf-8")
    assert 'COPY ["my own.toml", "/etc/stream-lstm/config.toml"]' in text
