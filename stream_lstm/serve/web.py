"""A small HTTP server in one thread, for pages of a few kilobytes to a few clients.

One thread serves all connections, and no client can hold it up: a client that has not sent its
request and read the answer within `TIMEOUT_S` seconds is disconnected, and so is the oldest of
too many. A connection carries one request. An error while a page is made gives a 500.

A site that rebinds its own name to this machine's address must not read a page. A browser sends
the name of the site in the header `Host`, so the server answers only requests for loopback names
and for the configured host. If that is every address of the machine, it also answers requests for
literal addresses and for the machine's name, which a rebound name never is.
"""

from __future__ import annotations

import contextlib
import ipaddress
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple, TypeAlias

import msgspec

from ..closing import Closing
from ..errors import ConfigurationError
from ..feed.security import ip_of, is_local, refused_endpoint
from ..quoting import printable

WILDCARDS = ("*", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound


def host_of(header: str) -> str:
    """Return the host of a `Host` header or of `HOST:PORT`, in lower case, without its port."""
    host = header.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]


def is_served(header: str | None, configured: str) -> bool:
    """Return whether to answer a request with this `Host`; browsers always send one.

    configured: the host that the server is bound to.
    """
    if header is None:
        return True
    host, own = host_of(header), host_of(configured)
    if host in ("localhost", own):
        return True
    address = _address(host)
    if own in WILDCARDS:
        return address is not None or host == socket.gethostname().lower()
    return address is not None and (address.is_loopback or address == _address(own))


def refusal(header: str, address: str) -> str:
    """Return the message for a host that `address` does not serve."""
    return f"the host {printable(header, 100)!r} is not served here; open http://{address}/"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


TIMEOUT_S = 5.0
"""Time for a client to send its request and read the answer."""

MAX_CONNECTIONS = 32

MAX_REQUEST = 8192
"""Bytes of a request with its headers."""

CHUNK = 65_536

SYNTAX = "write it as HOST:PORT, such as 127.0.0.1:9464"

PLAIN = "text/plain; charset=utf-8"


class Page(NamedTuple):
    """A response."""

    status: int
    kind: str
    body: bytes


Respond: TypeAlias = Callable[[str, Mapping[str, str]], Page | None]
"""From a path and the headers, by lower-case name, to a page; None for an unknown path."""


class _Client(msgspec.Struct, eq=False):
    """A connection: received bytes, bytes still to send, and its deadline."""

    socket: socket.socket
    until: float
    request: bytearray
    answer: memoryview | None = None


def bind(address: str, *, insecure: bool = False) -> socket.socket:
    """Return a socket that listens at `HOST:PORT`; with port 0 the system chooses one.

    insecure: allow an address that other machines can reach. Raises ConfigurationError for such an
    address otherwise, and EndpointError for one that cannot be bound.
    """
    host, _, port = address.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ConfigurationError(
            f"metrics = {address!r} is not an address: {SYNTAX}",
            key="metrics",
        )
    try:
        if not (insecure or is_local(f"tcp://{host}:{port}")):
            raise ConfigurationError(
                f"metrics = {address!r} can be reached by other machines, and anyone there could "
                "read it: bind 127.0.0.1 behind a proxy, or allow it with --insecure",
                key="metrics",
            )
        bare = "0.0.0.0" if host == "*" else str(ip_of(host.strip("[]")))  # noqa: S104 - by request
        family = socket.AF_INET6 if ":" in bare else socket.AF_INET
        return socket.create_server((bare, int(port)), family=family, backlog=MAX_CONNECTIONS)
    except (OSError, ValueError) as error:
        raise refused_endpoint("serve metrics at", address, error, SYNTAX) from None


class WebServer(Closing):
    """Serves the pages of `respond` until `close`; a context manager.

    listener: a listening socket. host: the configured one, as `bind` takes it. failed: called with
    each error of `respond`. `address` is the actual one.
    """

    def __init__(
        self,
        listener: socket.socket,
        respond: Respond,
        *,
        host: str = "",
        failed: Callable[[Exception], object] = lambda _: None,
    ) -> None:
        bound, port = listener.getsockname()[:2]
        self.address = f"[{bound}]:{port}" if ":" in bound else f"{bound}:{port}"
        self._hosts = (host or bound, self.address)
        self._listener, self._respond, self._failed = listener, respond, failed
        self._closing = threading.Event()
        self._clients: list[_Client] = []  # the oldest first
        self._selector = selectors.DefaultSelector()
        self._read, self._wake = socket.socketpair()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._read, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._work, name="stream-lstm web", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and close all connections."""
        if not self._closing.is_set():
            self._closing.set()
            self._wake.send(b"\0")
            self._thread.join(TIMEOUT_S)
            for end in (self._read, self._wake):
                end.close()

    # ---- the thread -------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._closing.is_set():
                self._turn()
        finally:
            for client in self._clients:
                client.socket.close()
            for end in (self._listener, self._selector):
                end.close()

    def _turn(self) -> None:
        due_s = self._clients[0].until - time.monotonic() if self._clients else None
        for key, _ in self._selector.select(due_s and max(due_s, 0.0)):
            if isinstance(key.data, _Client):
                self._serve(key.data)
            elif key.fileobj is self._listener:
                self._accept()
        now = time.monotonic()
        while self._clients and self._clients[0].until <= now:
            self._drop(self._clients[0])

    def _accept(self) -> None:
        try:
            taken, _ = self._listener.accept()
        except OSError:  # the client left, or no descriptor is free
            self._closing.wait(0.05)
            return
        taken.setblocking(False)
        if len(self._clients) >= MAX_CONNECTIONS:
            self._drop(self._clients[0])
        client = _Client(taken, time.monotonic() + TIMEOUT_S, bytearray())
        self._clients.append(client)
        self._selector.register(taken, selectors.EVENT_READ, client)

    def _drop(self, client: _Client) -> None:
        self._clients.remove(client)
        self._selector.unregister(client.socket)
        client.socket.close()

    def _serve(self, client: _Client) -> None:
        if client not in self._clients:
            return  # dropped earlier in this turn
        try:
            done = self._receive(client) if client.answer is None else self._send(client)
        except BlockingIOError:
            return
        except OSError:
            done = True
        if done:
            self._drop(client)

    def _receive(self, client: _Client) -> bool:
        """Read from a client and answer a whole request; return whether the client is done."""
        came = client.socket.recv(CHUNK)
        client.request += came
        whole = b"\r\n\r\n" in client.request or b"\n\n" in client.request
        if not whole and len(client.request) <= MAX_REQUEST:
            return not came
        client.answer = memoryview(self._answer(bytes(client.request[: MAX_REQUEST + 1])))
        self._selector.modify(client.socket, selectors.EVENT_WRITE, client)
        return self._send(client)

    def _send(self, client: _Client) -> bool:
        """Send more of the answer; return whether all is sent."""
        assert client.answer is not None
        client.answer = client.answer[client.socket.send(client.answer[:CHUNK]) :]
        if len(client.answer):
            return False
        with contextlib.suppress(OSError):
            client.socket.shutdown(socket.SHUT_WR)
        return True

    def _answer(self, request: bytes) -> bytes:
        lines = request.decode("latin-1").splitlines()
        words = lines[0].split() if lines else []
        if len(request) > MAX_REQUEST:
            page = _text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif len(words) != 3 or not words[2].startswith("HTTP/1."):
            page = _text(HTTPStatus.BAD_REQUEST)
        elif words[0] not in ("GET", "HEAD"):
            page = _text(HTTPStatus.METHOD_NOT_ALLOWED)
        else:
            page = self._page(words[1].partition("?")[0], _headers(lines[1:]))
        head = [
            f"HTTP/1.1 {page.status} {HTTPStatus(page.status).phrase}",
            f"Content-Type: {page.kind}",
            f"Content-Length: {len(page.body)}",
            "Allow: GET, HEAD",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
            "\r\n",
        ]
        return "\r\n".join(head).encode() + (b"" if words[:1] == ["HEAD"] else page.body)

    def _page(self, path: str, headers: Mapping[str, str]) -> Page:
        named = headers.get("host")
        if not any(is_served(named, host) for host in self._hosts):
            return _text(HTTPStatus.FORBIDDEN, refusal(named or "", self.address))
        try:
            return self._respond(path, headers) or _text(HTTPStatus.NOT_FOUND)
        except Exception as error:  # any error of a page must not end the server
            self._failed(error)
            return _text(HTTPStatus.INTERNAL_SERVER_ERROR, printable(repr(error)))


def _text(status: HTTPStatus, more: str = "") -> Page:
    text = f"{status.value} {status.phrase}: {more or status.description}\n"
    return Page(status, PLAIN, text.encode())


def _headers(lines: list[str]) -> dict[str, str]:
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
