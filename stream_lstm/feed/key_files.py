"""Files of CURVE keys: one folder holds all that one side of a wire needs.

| file | what it is |
|---|---|
| `server.key`, `server.key_secret` | the pair of whoever binds |
| `client.key`, `client.key_secret` | the pair of whoever connects |
| `clients/*.key` | public keys of those who may connect to what we bind |
| `servers/HOST_PORT.key` | public key of the server at tcp://HOST:PORT |

A server without a file of its own in `servers` must have the key in `server.key`.

They are certificates of ZeroMQ as pyzmq and czmq write them. A secret that others could read, or
a list that others could write to, is not used.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import zmq
from zmq.auth import load_certificate
from zmq.utils import z85

from ..errors import ConfigurationError, OutputError
from .plain_file import other_kind

PRIVATE = 0o600
FOLDER = 0o700
MAX_FILE_BYTES = 65_536
MAX_CLIENTS = 10_000
"""Keys on the list of clients; a folder with more is a mistake."""

PAIR_FORM = """\
#   ZeroMQ CURVE **Secret** Certificate
#   DO NOT PROVIDE THIS FILE TO OTHER USERS nor change its permissions.

metadata
curve
    public-key = "{public}"
    secret-key = "{secret}"
"""
PUBLIC_FORM = """\
#   ZeroMQ CURVE Public Certificate
#   Hand it to your peers by a way that nobody can change it on.

metadata
curve
    public-key = "{public}"
"""


class KeyPair(msgspec.Struct, frozen=True):
    """A public key and its secret, in Z85 (40 characters)."""

    public: bytes
    secret: bytes


def make_keys(folder: Path) -> list[Path]:
    """Write a pair for the server and one for a client, who is on the list; return the files.

    Raises ConfigurationError where the folder has keys already, OutputError where it cannot be
    written to.
    """
    server, client = (KeyPair(*zmq.curve_keypair()) for _ in range(2))
    files = {
        folder / "server.key_secret": _text(PAIR_FORM, server),
        folder / "server.key": _text(PUBLIC_FORM, server),
        folder / "client.key_secret": _text(PAIR_FORM, client),
        folder / "client.key": _text(PUBLIC_FORM, client),
        folder / "clients" / "client.key": _text(PUBLIC_FORM, client),
    }
    there = [path for path in files if path.exists() or path.is_symlink()]
    if there:
        raise ConfigurationError(
            f"{there[0]} is there already, and keys are never overwritten: name a new folder, or "
            "move the old keys away"
        )
    try:
        for part in (folder, folder / "clients"):
            part.mkdir(mode=FOLDER, parents=True, exist_ok=True)
        for path, text in files.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(path, flags, PRIVATE), "w", encoding="ascii") as file:
                file.write(text)
    except OSError as error:
        raise OutputError(f"cannot write keys to {folder}: {error}") from None
    return list(files)


def _text(form: str, pair: KeyPair) -> str:
    return form.format(public=pair.public.decode(), secret=pair.secret.decode())


def read_pair(folder: Path, name: str) -> KeyPair:
    """Return the pair `name` (server or client) of a folder; ConfigurationError says why not."""
    path = folder / f"{name}.key_secret"
    _check_file(path, readable_by_us_alone=True)
    public, secret = _keys(path)
    if secret is None:
        raise ConfigurationError(f"{path} has no secret key: {_way_out(folder)}")
    if zmq.curve_public(secret) != public:
        raise ConfigurationError(f"the two keys in {path} are no pair: {_way_out(folder)}")
    return KeyPair(public, secret)


def read_public(path: Path) -> bytes:
    """Return the public key of a file, in Z85; ConfigurationError says why not."""
    _check_file(path, readable_by_us_alone=False)
    return _keys(path)[0]


def read_clients(folder: Path) -> frozenset[bytes]:
    """Return the keys of `folder`/clients, in Z85; ConfigurationError says why not."""
    clients = folder / "clients"
    try:
        _check_mode(clients, clients.stat(), 0o022, "be written to by others", "go-w")
        paths = sorted(path for path in clients.iterdir() if path.suffix == ".key")
    except OSError as error:
        raise _unreadable(clients, error) from None
    if not 0 < len(paths) <= MAX_CLIENTS:
        raise ConfigurationError(
            f"{clients} holds {len(paths)} public keys (*.key): copy there the client.key of each "
            f"peer that may connect, {MAX_CLIENTS} at most"
        )
    return frozenset(map(read_public, paths))


def server_key_file(folder: Path, endpoint: str) -> Path:
    """Return the file with the public key that the server at `endpoint` must have."""
    if endpoint.startswith("tcp://"):
        name = endpoint.removeprefix("tcp://").rpartition(";")[2].replace(":", "_")
        own = folder / "servers" / f"{name}.key"
        if "/" not in name and own.exists():
            return own
    return folder / "server.key"


def _check_file(path: Path, *, readable_by_us_alone: bool) -> None:
    if kind := other_kind(path):
        raise ConfigurationError(f"{path} is {kind} and no file of keys: {_way_out(path.parent)}")
    try:
        found = path.stat()
        with path.open("rb"):
            pass
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
        raise ConfigurationError(f"{path} is no file of keys: {_way_out(path.parent)}")
    if readable_by_us_alone:
        _check_mode(path, found, 0o077, "be read by others", "600")
    else:
        _check_mode(path, found, 0o022, "be written to by others", "go-w")


def _check_mode(path: Path, found: os.stat_result, forbidden: int, what: str, cure: str) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if mode & forbidden:
        raise ConfigurationError(f"{path} has mode {mode:04o} and can {what}: chmod {cure} {path}")
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigurationError(
            f"{path} belongs to user {found.st_uid}, who could change it: chown it to the user "
            "that runs this"
        )


def _keys(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = load_certificate(path)
        for key in (public, secret):
            if key is not None and (len(key) != 40 or len(z85.decode(key)) != 32):
                raise ValueError("a key has 40 characters of Z85")
        return public, secret
    except Exception as error:
        raise ConfigurationError(
            f"{path} is no certificate of ZeroMQ ({error or type(error).__name__}): "
            f"{_way_out(path.parent)}"
        ) from None


def _unreadable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"cannot read {path}: {error.strerror}; {_way_out(path.parent)}, or let the "
        "user that runs this read it"
    )


def _way_out(folder: Path) -> str:
    return f"make keys with stream-lstm keys {folder}, or copy them from your peer"
