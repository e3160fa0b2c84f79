"""Which names a page may be asked for: a site that rebinds its own name to ours must not read it.

A browser sends the name that its page has in the header `Host`. So an answer goes only to names of
this machine's loopback and to the configured host. Where that is every address of the machine,
addresses are served too, and the name of the machine: what is rebound is always another name.
"""

from __future__ import annotations

import ipaddress
import socket

from ..quoting import printable

EVERY = ("*", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound


def host_of(header: str) -> str:
    """Return the host of a `Host` header or of `HOST:PORT`, in lower case, without its port."""
    host = header.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]


def is_served(header: str | None, configured: str) -> bool:
    """Return whether to answer a request with this `Host`; one without it is of no browser.

    configured: the host that the page is bound to.
    """
    if header is None:
        return True
    host, own = host_of(header), host_of(configured)
    if host in ("localhost", own):
        return True
    address = _address(host)
    if own in EVERY:
        return address is not None or host == socket.gethostname().lower()
    return address is not None and (address.is_loopback or address == _address(own))


def refusal(header: str, address: str) -> str:
    """Return the sentence for a host that is not served at `address`."""
    return f"the host {printable(header, 100)!r} is not served here; ask for http://{address}/"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
