"""Names that a page is asked for: a site that rebinds its name to this machine gets nothing."""

from __future__ import annotations

import socket

import pytest

from stream_lstm.serve.web import Page, WebServer, bind, is_served

from .test_web import ask, raw

OWN = ["localhost", "LOCALHOST:9", "127.0.0.1", "127.0.0.1:80", "127.9.9.9", "[::1]:1", "::1"]
OTHERS = [
    "evil.example", "evil.example:9464", "localhost.evil.example", "127.0.0.1.evil.example",
    "10.0.0.1", "", "[::1", "@", "0.0.0.0", "2130706433", "local\thost",
]  # fmt: skip


@pytest.mark.parametrize("header", [None, *OWN])
@pytest.mark.parametrize("configured", ["127.0.0.1:9464", "localhost:9464", "lo:1", "[::1]:1"])
def test_loopback_is_served(header, configured):
    assert is_served(header, configured)


@pytest.mark.parametrize("header", OTHERS)
@pytest.mark.parametrize("configured", ["127.0.0.1:9464", "10.0.0.2:9464", "[::1]:1"])
def test_other_hosts_are_not(header, configured):
    assert header == "[::1" or not is_served(header, configured)


def test_the_configured_host_is_served():
    assert is_served("10.0.0.1:9464", "10.0.0.1:9464")
    assert is_served("[2001:db8::1]:9", "[2001:DB8:0::1]:9464")
    assert not is_served("10.0.0.2:9464", "10.0.0.1:9464")


@pytest.mark.parametrize("configured", ["*:9464", "0.0.0.0:9464", "[::]:9464"])
def test_all_addresses_are_those_and_the_name_of_the_machine(configured):
    for header in ("10.0.0.7:9464", "[2001:db8::1]", socket.gethostname(), "localhost"):
        assert is_served(header, configured)
    assert not is_served("evil.example", configured)


@pytest.fixture
def server():
    with WebServer(bind("127.0.0.1:0"), lambda *_: Page(200, "text/plain", b"secret")) as made:
        yield made


@pytest.mark.parametrize("host", ["evil.example", "evil.example:1", "a\x1b[2J"])
def test_a_rebound_name_gets_a_sentence(server, host):
    status, body = ask(server, Host=host)
    assert status == 403
    assert b"is not served here; open http://127.0.0.1:" in body
    assert b"secret" not in body
    assert b"\x1b" not in body


def test_a_request_without_a_host_is_served(server):
    assert raw(server, b"GET / HTTP/1.0\r\n\r\n").endswith(b"secret")
    assert ask(server, Host="localhost:1") == (200, b"secret")
