"""The web server on real sockets: answers, hosts, and clients that do not behave."""

import contextlib
import http.client
import socket

import pytest

from stream_lstm.errors import ConfigurationError, EndpointError
from stream_lstm.serve import web
from stream_lstm.serve.web import MAX_CONNECTIONS, MAX_REQUEST, Page, WebServer, bind, is_served

WAIT_S = 30.0
HERE = "127.0.0.1:0"


def respond(path, headers):
    if path == "/fails":
        raise ZeroDivisionError("on purpose")
    if path == "/large":
        return Page(200, "text/plain", b"x" * 20_000_000)
    return Page(200, "text/plain", headers.get("x-say", "hello").encode()) if path == "/" else None


@pytest.fixture
def failures():
    return []


@pytest.fixture
def server(failures):
    with WebServer(bind(HERE), respond, failed=failures.append) as made:
        yield made


def ask(server, path="/", method="GET", **headers):
    connection = http.client.HTTPConnection(server.address, timeout=WAIT_S)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def connected(server):
    host, port = server.address.rsplit(":", 1)
    made = socket.create_connection((host, int(port)), WAIT_S)
    made.settimeout(WAIT_S)
    return made


def raw(server, request):
    with connected(server) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65_536), b""))


def test_a_page_is_served_and_headers_match_in_any_case(server):
    assert ask(server) == (200, b"hello")
    assert ask(server, "/?a=b", **{"X-Say": "again"}) == (200, b"again")


def test_a_head_has_no_body(server):
    answer = raw(server, b"HEAD / HTTP/1.1\r\n\r\n")
    assert b"Content-Length: 5\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nowhere HTTP/1.1\r\n\r\n", 404),
        (b"POST / HTTP/1.1\r\n\r\n", 405),
        (b"GET /\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\xff\xfe\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_REQUEST // 6 + 1), 431),
    ],
)
def test_a_request_that_cannot_be_answered_has_its_code(server, request_, status):
    assert raw(server, request_).split()[1] == str(status).encode()


def test_a_page_that_fails_is_reported_and_the_next_one_is_served(server, failures):
    status, body = ask(server, "/fails")
    assert (status, [type(e) for e in failures]) == (500, [ZeroDivisionError])
    assert b"on purpose" in body
    assert ask(server) == (200, b"hello")


def test_clients_that_hang_delay_no_other(server):
    with contextlib.ExitStack() as stack:
        for half in (b"", b"GET / HT", b"GET /large HTTP/1.1\r\n\r\n"):
            stack.enter_context(connected(server)).sendall(half)
        assert ask(server) == (200, b"hello")


def test_a_client_that_hangs_is_disconnected(monkeypatch):
    monkeypatch.setattr(web, "TIMEOUT_S", 0.05)
    with WebServer(bind(HERE), respond) as server, connected(server) as client:
        client.sendall(b"GET / HT")
        assert client.recv(1) == b""


def test_of_too_many_clients_the_oldest_is_disconnected(server):
    with contextlib.ExitStack() as stack:
        oldest, *_ = [stack.enter_context(connected(server)) for _ in range(MAX_CONNECTIONS + 1)]
        assert oldest.recv(1) == b""
        assert ask(server) == (200, b"hello")


def test_a_large_page_arrives_whole(server):
    assert len(ask(server, "/large")[1]) == 20_000_000


def test_a_close_ends_open_connections(server):
    with connected(server) as client:
        server.close()
        server.close()
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_a_port_that_is_taken_is_an_error(server):
    with pytest.raises(EndpointError, match="Address already in use; stop the program"):
        bind(server.address)


@pytest.mark.parametrize("address", ["9464", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ":1"])
def test_an_invalid_address_is_refused(address):
    with pytest.raises(ConfigurationError, match="not an address: write it as HOST:PORT"):
        bind(address)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "*:0", "[::]:0"])
def test_other_machines_are_admitted_only_on_request(address):
    with pytest.raises(ConfigurationError, match="allow it with --insecure"):
        bind(address)
    with contextlib.suppress(EndpointError), bind(address, insecure=True) as listener:
        assert listener.getsockname()[1]


@pytest.mark.parametrize("address", ["localhost:0", "lo:0", "127.0.0.2:0"])
def test_every_name_of_this_machine_is_loopback(address):
    with bind(address) as listener:
        assert listener.getsockname()[0].startswith("127.")


def test_a_host_that_is_not_this_machine_is_an_error():
    with pytest.raises(EndpointError, match=r"example\.invalid"):
        bind("example.invalid:9464")


# ---- hosts ---------------------------------------------------------------------------------

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
def test_a_wildcard_serves_addresses_and_the_name_of_the_machine(configured):
    for header in ("10.0.0.7:9464", "[2001:db8::1]", socket.gethostname(), "localhost"):
        assert is_served(header, configured)
    assert not is_served("evil.example", configured)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:1", "a\x1b[2J"])
def test_a_rebound_name_gets_a_sentence(server, host):
    status, body = ask(server, Host=host)
    assert status == 403
    assert b"is not served here; open http://127.0.0.1:" in body
    assert b"hello" not in body
    assert b"\x1b" not in body


def test_a_request_without_a_host_is_served(server):
    assert raw(server, b"GET / HTTP/1.0\r\n\r\n").endswith(b"hello")
    assert ask(server, Host="localhost:1") == (200, b"hello")
