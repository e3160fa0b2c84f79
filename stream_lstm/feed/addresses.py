"""Whether an endpoint can be reached from other machines, and why one cannot be used."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import sys

import zmq

from ..errors import EndpointError

SIOCGIFADDR = 0x8915

LOCAL = ("ipc", "inproc")

ADVICE = {
    errno.EADDRINUSE: "stop the program that holds it, or choose another port",
    errno.EADDRNOTAVAIL: "name an address of this machine, such as 127.0.0.1",
    errno.ENODEV: "name an address of this machine, such as 127.0.0.1",
    errno.EACCES: "choose a port above 1023, or a path that may be written",
    errno.ENOENT: "make the folder of the path first",
    errno.ENAMETOOLONG: "choose a shorter path",
}
SYNTAX = "write it as tcp://ADDRESS:PORT or ipc://PATH"


def is_local(endpoint: str) -> bool:
    """Return whether only this machine can reach an endpoint that is bound.

    Raises ValueError for an endpoint whose transport is not known, OSError for a host that is
    neither an address nor an interface of this machine.
    """
    scheme, mark, rest = endpoint.partition("://")
    if not mark or scheme not in (*LOCAL, "tcp"):
        raise ValueError("Protocol not supported")
    if scheme in LOCAL:
        return True
    host = rest.rpartition(":")[0]
    return host != "*" and ip_of(host.strip("[]").partition("%")[0]).is_loopback


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address that a host is, or that an interface of this machine has.

    Raises OSError for what is neither.
    """
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return ipaddress.IPv4Address(_of_interface(host))
    mapped = getattr(found, "ipv4_mapped", None)
    return found if mapped is None else mapped


def _of_interface(name: str) -> bytes:
    """Return the IPv4 address of a network interface, as libzmq would find it."""
    if sys.platform != "linux" or not 0 < len(name.encode()) < 16:
        raise OSError(errno.ENODEV, "No such device")
    import fcntl  # here, since other systems may not have it

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        request = struct.pack("256s", name.encode())
        return fcntl.ioctl(asked.fileno(), SIOCGIFADDR, request)[20:24]


def refused_endpoint(
    verb: str, endpoint: str, error: Exception, syntax: str = SYNTAX
) -> EndpointError:
    """Return the error that says why an endpoint cannot be used, and what to do."""
    code = getattr(error, "errno", None)
    reason = zmq.strerror(code) if code else str(error)
    advice = syntax if code is None else ADVICE.get(code, syntax)
    return EndpointError(f"cannot {verb} {endpoint!r}: {reason}; {advice}")
