"""Who may connect to our sockets, whom we take for our peer, and what was refused.

With a folder of keys every socket speaks CURVE: it is encrypted, a client must have a key that is
on the list, and a server must have the key that the client expects. The list is asked by a handler
(`guard`) without which libzmq lets nobody in.

Without keys only addresses that no other machine can reach are bound, unless that is asked for.
Connecting without keys is always allowed.
"""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any, Literal, TypeAlias

import zmq

from ..errors import ConfigurationError
from ..tables import SecurityConfig
from .addresses import is_local, refused_endpoint
from .key_files import KeyPair, read_clients, read_pair, read_public, server_key_file

Socket: TypeAlias = "zmq.Socket[Any]"

DOMAIN = b"stream-lstm"
"""Of the handler; a socket without a domain would let anybody in where the handler is away."""

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

`unknown_key`: its key is not on the list. `no_key`: it does not speak CURVE, or we do not.
`bad_key`: it does not have the secret of the key it shows, or took us for another server.
`timeout`: it did not say who it is in time. `left`: it hung up before it had, as many do that
expect no keys. `protocol`: it broke the rules of the handshake; what does not speak ZeroMQ at all
is dropped without a count.
`too_many_peers`, `too_many_subscriptions`, `endless_message`: it was cut off for what it did.
`revoked`: connections that were reset since a key was taken off the list; those still on it come
back at once. `not_admitted`: we connected, and the other side did not let us in.
`given_up`: we connected, and libzmq would not dial the other side again for what it sent; we do.
"""


class Security:
    """What the sockets of a process share: keys, the list of clients, limits, and the count.

    Raises ConfigurationError for keys that cannot be used, or where libzmq has no CURVE.
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

    @property
    def curve(self) -> bool:
        """Whether there are keys."""
        return self._folder is not None

    @property
    def advice(self) -> str:
        """What to do about a peer that does not let us in."""
        if self._folder is None:
            return "it may want keys: name the folder with ours by --curve-dir DIR"
        return (
            f"its owner puts {self._folder / 'client.key'} on the list of clients, and the key "
            "that we have of it has to be its own"
        )

    def reload(self, config: SecurityConfig) -> None:
        """Read the list of clients again, and take new limits; ConfigurationError changes nothing.

        Where a key was taken off the list all connections are reset, since a connection does not
        tell whose it is; those who are still on the list connect again at once.
        """
        if self._folder is not None:
            clients = read_clients(self._folder)
            self.revocations += bool(self.clients - clients)
            self.clients = clients
        self.config = config

    def refuse(self, reason: Reason, count: int = 1) -> None:
        """Count peers that were refused; any thread may call it."""
        with self._lock:
            self.refused[reason] += count

    def give_up(self, endpoint: str, why: str) -> None:
        """Count an endpoint that libzmq gave up, and keep why for the log."""
        with self._lock:
            self.refused["given_up"] += 1
            self.given_up[endpoint] = why

    def take_given_up(self) -> dict[str, str]:
        """Return the endpoints that were given up since the last call, and why."""
        with self._lock:
            found, self.given_up = self.given_up, {}
            return found

    def counts(self) -> dict[str, int]:
        """Return how many were refused, by reason."""
        with self._lock:
            return dict(sorted(self.refused.items()))

    def check_bind(self, endpoint: str) -> None:
        """Raise ConfigurationError where an address for others would be bound without keys.

        Raises EndpointError for what is no endpoint of this machine.
        """
        try:
            local = is_local(endpoint)
        except (OSError, ValueError) as error:
            raise refused_endpoint("bind", endpoint, error) from None
        if not (local or self.curve or self.config.insecure):
            raise ConfigurationError(
                f"{endpoint} can be reached by other machines, and anybody there could connect: "
                "make keys with stream-lstm keys DIR and name them with --curve-dir DIR, or bind "
                "127.0.0.1, or say --insecure"
            )

    def serve(self, socket: Socket, endpoint: str) -> None:
        """Make `socket` a server that lets in those on the list, before it is bound.

        Raises what `check_bind` raises.
        """
        self.check_bind(endpoint)
        if self.curve:
            _set_pair(socket, self._server)
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def check_connect(self, endpoint: str) -> None:
        """Raise ConfigurationError where the key that a server must have cannot be read."""
        if self._folder is not None:
            read_public(server_key_file(self._folder, endpoint))

    def call(self, socket: Socket, endpoint: str) -> None:
        """Make `socket` a client of the one server that may be at `endpoint`, before it connects.

        Raises ConfigurationError where its key cannot be read.
        """
        if self._folder is not None:
            _set_pair(socket, self._client)
            key = read_public(server_key_file(self._folder, endpoint))
            socket.setsockopt(zmq.CURVE_SERVERKEY, key)


def _set_pair(socket: Socket, pair: KeyPair) -> None:
    socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
