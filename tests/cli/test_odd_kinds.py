"""Pipes, devices and sockets in place of files: refused by name, and never opened."""

from __future__ import annotations

import os
import socket

import pytest

from stream_lstm.feed import reader
from stream_lstm.feed.reader import other_kind

SMALL = ("--feature", "x", "--hidden", 2, "--window", 5, "--bptt", 5)


@pytest.fixture
def series(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("x\n" + "".join(f"{k % 7 - 3}\n" for k in range(60)))
    return path


def commands(odd, series, folder):
    """Each command with an odd file in each of its places."""
    ends = {"csv": odd(".csv"), "parquet": odd(".parquet"), "npy": odd(".npy")}
    for path in ends.values():
        for command in ("replay", "doctor"):
            yield (command, path, *SMALL)
        yield ("train", path, "--feature", "x", "--out", folder / "w.safetensors")
        yield ("publish", path, "--bind", "tcp://127.0.0.1:*")
    toml, weights = odd(".toml"), odd(".safetensors")
    for command in ("inspect", "verify"):
        yield (command, ends["csv"])
    yield ("report", ends["csv"], "--out", folder / "r.html")
    yield ("export", weights, "--out", folder / "o.onnx")
    for suffix in (".keras", ".h5", ".pt", ".safetensors"):
        yield ("import", odd(suffix), "--out", folder / "i.safetensors")
    yield ("check-config", toml)
    yield ("replay", series, *SMALL, "--config", toml)
    yield ("replay", series, *SMALL, "--learn", "--bank", toml)
    yield ("replay", series, *SMALL, "--weights", weights)


@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
def test_each_command_names_the_kind_and_opens_nothing(cli, tmp_path, series, kind):
    def odd(suffix):
        path = tmp_path / f"odd{suffix}"
        if path.is_symlink() or path.exists():
            return path
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(path))
        return path

    told = {"fifo": "a named pipe (FIFO)", "device": "a device", "socket": "a socket"}[kind]
    for command in commands(odd, series, tmp_path):
        done = cli(*command)
        assert done.code in (2, 66), (command, done)
        assert f" is {told}; name a file" in done.err, (command, done.err)


@pytest.mark.parametrize("name", ["server.key_secret", "client.key_secret", "server.key"])
def test_a_key_that_is_a_pipe_is_refused(cli, tmp_path, name):
    keys = tmp_path / "keys"
    assert cli("keys", keys).code == 0
    (keys / name).unlink()
    os.mkfifo(keys / name, 0o600)
    flags = ("--connect", "tcp://127.0.0.1:1", "--publish", "tcp://127.0.0.1:*")
    done = cli("run", *SMALL, *flags, "--curve-dir", keys, "--idle-timeout", 0.1)
    assert done.code == 78, done
    assert f"{name} is a named pipe (FIFO)" in done.err


def test_a_plain_file_or_none_is_no_other_kind(tmp_path):
    (tmp_path / "file").touch()
    assert other_kind(tmp_path / "file") == other_kind(tmp_path / "none") == ""
    assert other_kind(tmp_path / "nul\0l") == ""
    assert set(reader.KINDS.values()) > {other_kind(tmp_path)}
