"""`--compile-cache DIR`: what was compiled serves the next start, with the same bits."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec

from stream_lstm.cli.training_run import terms_of
from stream_lstm.config import build
from stream_lstm.core.snapshot import fingerprint

KEPT = f"jaxlib-{version('jaxlib')}"
COMMAND = "from stream_lstm.cli.main import main; main()"
LINE = ("replay", "--synthetic", "s1-ar", "--limit", "300", "--feature", "x", "--hidden", "2")


def replay(*flags: object) -> subprocess.CompletedProcess[str]:
    """Replay in a process of its own: JAX's cache belongs to the process."""
    words = [sys.executable, "-c", COMMAND, *LINE, "--json", *map(str, flags)]
    return subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )


def digest(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout)["digest"]


def entries(folder: Path) -> dict[str, bytes]:
    kept = folder / KEPT
    return {path.name: path.read_bytes() for path in kept.iterdir() if "atime" not in path.name}


def test_kept_executables_serve_a_later_start_and_damaged_ones_are_compiled_again(tmp_path):
    folder = tmp_path / "cache"
    compiled = digest(replay("--compile-cache", folder))
    kept = entries(folder)
    assert kept

    assert digest(replay("--compile-cache", folder)) == compiled
    assert entries(folder) == kept, "the second start compiled something"

    for name in kept:
        (folder / KEPT / name).write_bytes(b"not an executable")
    assert digest(replay("--compile-cache", folder)) == compiled


def test_a_folder_that_cannot_be_made_is_told(cli, tmp_path):
    (tmp_path / "file").write_text("")
    done = cli(*LINE, "--compile-cache", tmp_path / "file" / "cache")
    assert done.code == 74
    assert "cannot keep executables in" in done.err


def test_where_executables_are_kept_is_nothing_that_state_depends_on():
    there = build({"features": ["x"], "compile_cache": "somewhere"})
    assert fingerprint(there, ("x",)) == fingerprint(build({"features": ["x"]}), ("x",))
    assert terms_of(there, []) == terms_of(build({"features": ["x"]}), [])
