"""Security of sockets: keys, which endpoints may be bound, and counts of refused peers.

With a key folder every socket uses CURVE: traffic is encrypted, a client needs a key on the list,
and a server needs the key that the client expects. `guard` checks clients against the list;
without it libzmq would reject all of them. Without keys only addresses of this machine are bound,
unless `insecure` is set; connecting is always allowed.

One folder contains the keys of one side:

| file | content |
|---|---|
| `server.key`, `server.key_secret` | key pair of a side that binds |
| `client.key`, `client.key_secret` | key pair of a side that connects |
| `clients/*.key` | public keys of the clients that may connect to what we bind |
| `servers/HOST_PORT.key` | public key of the server at tcp://HOST:PORT |

A server without a file in `servers` must have the key in `server.key`. The files are ZeroMQ
certificates, as pyzmq and czmq write them. A secret that others can read, or a list that others
can write, is not used.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import stat
import threading
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import zmq
from zmq.auth import load_certificate
from zmq.utils import z85

from ..errors import ConfigurationError, EndpointError, InputWarning, OutputError
from ..platform import WINDOWS, access_advice, interface_address, is_ours
from ..schema import SecurityConfig
from .reader import other_kind

LOCAL = ("ipc", "inproc")

ADVICE = {
    errno.EADDRINUSE: "stop the program that uses it, or choose another port",
    errno.EADDRNOTAVAIL: "name an address of this machine, such as 127.0.0.1",
    errno.ENODEV: "name an address of this machine, such as 127.0.0.1",
    errno.EACCES: "choose a port above 1023, or a path that may be written",
    errno.ENOENT: "create the folder of the path first",
    errno.ENAMETOOLONG: "choose a shorter path",
}
SYNTAX = "write it as tcp://ADDRESS:PORT or ipc://PATH"


def is_local(endpoint: str) -> bool:
    """Return whether only this machine can reach a bound endpoint.

    Raises ValueError for an unknown transport, OSError for a host that is neither an address nor
    an interface of this machine.
    """
    scheme, mark, rest = endpoint.partition("://")
    if not mark or scheme not in (*LOCAL, "tcp"):
        raise ValueError("Protocol not supported")
    if scheme in LOCAL:
        return True
    host = rest.rpartition(":")[0]
    return host != "*" and ip_of(host.strip("[]").partition("%")[0]).is_loopback


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address of a host given as an address or as an interface of this machine.

    Raises OSError for any other host.
    """
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return ipaddress.IPv4Address(interface_address(host))
    mapped = getattr(found, "ipv4_mapped", None)
    return found if mapped is None else mapped


def refused_endpoint(
    verb: str, endpoint: str, error: Exception, syntax: str = SYNTAX
) -> EndpointError:
    """Return an error with the reason why an endpoint cannot be used, and what to do."""
    code = getattr(error, "errno", None)
    reason = zmq.strerror(code) if code else str(error)
    advice = syntax if code is None else ADVICE.get(code, syntax)
    return EndpointError(f"cannot {verb} {endpoint!r}: {reason}; {advice}")


PRIVATE = 0o600
FOLDER = 0o700
MAX_FILE_BYTES = 65_536
MAX_CLIENTS = 10_000
"""Of the list; a folder with more is a mistake."""

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
    """Write key pairs of a server and a client that is on its list; return the files.

    Raises ConfigurationError if the folder already has keys, OutputError if it cannot be written.
    """
    server, client = (KeyPair(*zmq.curve_keypair()) for _ in range(2))
    files = {
        folder / "server.key_secret": _text(PAIR_FORM, server),
        folder / "server.key": _text(PUBLIC_FORM, server),
        folder / "client.key_secret": _text(PAIR_FORM, client),
        folder / "client.key": _text(PUBLIC_FORM, client),
        folder / "clients" / "client.key": _text(PUBLIC_FORM, client),
    }
    existing = [path for path in files if path.exists() or path.is_symlink()]
    if existing:
        raise ConfigurationError(
            f"{existing[0]} exists, and keys are never overwritten: name a new folder, or move "
            "the old keys away"
        )
    try:
        for part in (folder, folder / "clients"):
            part.mkdir(mode=FOLDER, parents=True, exist_ok=True)
        for path, text in files.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
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
    _check_file(path, secret=True)
    public, secret = _keys(path)
    if secret is None:
        raise ConfigurationError(f"{path} has no secret key: {_advice(folder)}")
    if zmq.curve_public(secret) != public:
        raise ConfigurationError(f"the two keys in {path} are not a pair: {_advice(folder)}")
    return KeyPair(public, secret)


def read_public(path: Path) -> bytes:
    """Return the public key of a file, in Z85; ConfigurationError says why not."""
    _check_file(path, secret=False)
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
            f"{clients} contains {len(paths)} public keys (*.key): copy the client.key of each "
            f"peer that may connect into it, {MAX_CLIENTS} at most"
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


def _check_file(path: Path, *, secret: bool) -> None:
    if kind := other_kind(path):
        raise ConfigurationError(f"{path} is {kind}, not a key file: {_advice(path.parent)}")
    try:
        found = path.stat()
        path.open("rb").close()
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
        raise ConfigurationError(f"{path} is not a key file: {_advice(path.parent)}")
    if secret:
        _check_mode(path, found, 0o077, "be read by others", "600")
    else:
        _check_mode(path, found, 0o022, "be written to by others", "go-w")


def _check_mode(path: Path, found: os.stat_result, forbidden: int, what: str, cure: str) -> None:
    if WINDOWS:
        return  # access lists take the place of modes, and Python reads none: see `access_advice`
    mode = stat.S_IMODE(found.st_mode)
    if mode & forbidden:
        raise ConfigurationError(f"{path} has mode {mode:04o} and can {what}: chmod {cure} {path}")
    if found.st_uid and not is_ours(found):
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
            f"{path} is not a ZeroMQ certificate ({error or type(error).__name__}): "
            f"{_advice(path.parent)}"
        ) from None


def _unreadable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"cannot read {path}: {error.strerror}; {_advice(path.parent)}, or allow the user that "
        "runs this to read it"
    )


def _advice(folder: Path) -> str:
    return f"make keys with stream-lstm keys {folder}, or copy them from your peer"


Socket: TypeAlias = "zmq.Socket[Any]"

DOMAIN = b"stream-lstm"
"""Of the ZAP handler; without a domain a socket would accept everybody if there is no handler."""

Reason: TypeAlias = Literal[
    "unknown_key",
    "no_key",
    "bad_key",
    "timeout",
    "left",
    "protocol",
    "too_many_peers",
    "too_many_subscriptions",
    "endless_message",
    "revoked",
    "not_admitted",
    "given_up",
]
"""Why a peer was refused.

- `unknown_key`: its key is not on the list.
- `no_key`: only one of the two sides uses CURVE.
- `bad_key`: it does not have the secret of its key, or expects another server.
- `timeout`: it did not finish the handshake in time.
- `left`: it hung up before, as peers without keys do.
- `protocol`: it broke the rules of the handshake. A peer that does not speak ZeroMQ at all is
  dropped without a count.
- `too_many_peers`, `too_many_subscriptions`, `endless_message`: its connection was reset for it.
- `revoked`: connections that were reset because a key was removed from the list; those still on
  the list connect again immediately.
- `not_admitted`: we connected, and the other side rejected us.
- `given_up`: we connected, and libzmq gave the endpoint up because of what it sent; we redial.
"""


class Security:
    """What the sockets of a process share: keys, the list of clients, limits, and counts.

    Raises ConfigurationError for keys that cannot be used, or if libzmq has no CURVE.
    """

    def __init__(self, config: SecurityConfig | None = None) -> None:
        config = config or SecurityConfig()
        self.config = config
        self.refused: Counter[Reason] = Counter()
        self.clients: frozenset[bytes] = frozenset()
        self.given_up: dict[str, str] = {}
        self.revocations = 0
        self._lock = threading.Lock()
        self._folder: Path | None = None
        if config.curve_dir is not None:
            if not zmq.has("curve"):
                raise ConfigurationError(
                    "this libzmq was built without CURVE, so keys cannot be used: install a "
                    "libzmq with libsodium, or leave curve_dir out and bind 127.0.0.1"
                )
            self._folder = Path(config.curve_dir)
            self.clients = read_clients(self._folder)
            self._server = read_pair(self._folder, "server")
            self._client = read_pair(self._folder, "client")
            if advice := access_advice(self._folder):
                warnings.warn(advice, InputWarning, stacklevel=2)

    @property
    def curve(self) -> bool:
        """Whether there are keys."""
        return self._folder is not None

    @property
    def clients_folder(self) -> Path | None:
        """The folder with the list of clients; None without keys."""
        return None if self._folder is None else self._folder / "clients"

    @property
    def advice(self) -> str:
        """What to do about a peer that rejects us."""
        if self._folder is None:
            return "it may require keys: name the folder with ours by --curve-dir DIR"
        return (
            f"its owner must add {self._folder / 'client.key'} to the list of clients, and our "
            "copy of its key must be current"
        )

    def reload(self, config: SecurityConfig) -> None:
        """Read the list of clients again, and use new limits; an error changes nothing.

        If a key was removed, all connections are reset, since a connection does not show its key;
        clients still on the list connect again immediately. Raises ConfigurationError.
        """
        if self._folder is not None:
            clients = read_clients(self._folder)
            self.revocations += bool(self.clients - clients)
            self.clients = clients
        self.config = config

    def refuse(self, reason: Reason, count: int = 1) -> None:
        """Count refused peers; any thread may call it."""
        with self._lock:
            self.refused[reason] += count

    def give_up(self, endpoint: str, why: str) -> None:
        """Count an endpoint that libzmq gave up, and store the reason for the log."""
        with self._lock:
            self.refused["given_up"] += 1
            self.given_up[endpoint] = why

    def take_given_up(self) -> dict[str, str]:
        """Return the endpoints that were given up since the last call, with the reasons."""
        with self._lock:
            found, self.given_up = self.given_up, {}
            return found

    def counts(self) -> dict[str, int]:
        """Return the number of refused peers by reason."""
        with self._lock:
            return dict(sorted(self.refused.items()))

    def check_bind(self, endpoint: str) -> None:
        """Raise ConfigurationError if others could reach the endpoint and there are no keys.

        Raises EndpointError if it is not an endpoint of this machine.
        """
        try:
            local = is_local(endpoint)
        except (OSError, ValueError) as error:
            raise refused_endpoint("bind", endpoint, error) from None
        if not (local or self.curve or self.config.insecure):
            raise ConfigurationError(
                f"other machines can reach {endpoint}, and anybody there could connect: make keys "
                "with stream-lstm keys DIR and name them with --curve-dir DIR, or bind 127.0.0.1, "
                "or use --insecure; see 'stream-lstm help security'"
            )

    def serve(self, socket: Socket, endpoint: str) -> None:
        """Make `socket`, before it is bound, a server for the clients on the list.

        Raises what `check_bind` raises.
        """
        self.check_bind(endpoint)
        if self.curve:
            _set_pair(socket, self._server)
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def check_connect(self, endpoint: str) -> None:
        """Raise ConfigurationError if the key of a server cannot be read."""
        if self._folder is not None:
            read_public(server_key_file(self._folder, endpoint))

    def connect(self, socket: Socket, endpoint: str) -> None:
        """Make `socket`, before it connects, a client that accepts one server at `endpoint`.

        Raises ConfigurationError if the server's key cannot be read.
        """
        if self._folder is not None:
            _set_pair(socket, self._client)
            key = read_public(server_key_file(self._folder, endpoint))
            socket.setsockopt(zmq.CURVE_SERVERKEY, key)


def _set_pair(socket: Socket, pair: KeyPair) -> None:
    socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
