"""The web server on real sockets: answers, and clients that do not behave."""

import contextlib
import http.client
import socket

import pytest

from stream_lstm.errors import ConfigurationError, EndpointError
from stream_lstm.serve import web
from stream_lstm.serve.web import MAX_CONNECTIONS, MAX_REQUEST, Page, WebServer, bind

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


def test_a_page_is_given_and_headers_are_known_by_any_case(server):
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
def test_what_cannot_be_answered_has_its_code(server, request_, status):
    assert raw(server, request_).split()[1] == str(status).encode()


def test_a_page_that_fails_is_told_of_and_the_next_one_is_given(server, failures):
    status, body = ask(server, "/fails")
    assert (status, [type(e) for e in failures]) == (500, [ZeroDivisionError])
    assert b"on purpose" in body
    assert ask(server) == (200, b"hello")


def test_clients_that_hang_hold_nobody_up(server):
    with contextlib.ExitStack() as stack:
        for half in (b"", b"GET / HT", b"GET /large HTTP/1.1\r\n\r\n"):
            stack.enter_context(connected(server)).sendall(half)
        assert ask(server) == (200, b"hello")


def test_a_client_that_hangs_is_cut_off(monkeypatch):
    monkeypatch.setattr(web, "PATIENCE_S", 0.05)
    with WebServer(bind(HERE), respond) as server, connected(server) as client:
        client.sendall(b"GET / HT")
        assert client.recv(1) == b""


def test_of_too_many_clients_the_oldest_is_cut_off(server):
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


def test_a_port_that_is_taken_is_told_of(server):
    with pytest.raises(EndpointError, match="Address already in use; stop the program"):
        bind(server.address)


@pytest.mark.parametrize("address", ["9464", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ":1"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigurationError, match="not an address: write it as HOST:PORT"):
        bind(address)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "*:0", "[::]:0"])
def test_others_are_let_in_only_if_that_is_asked_for(address):
    with pytest.raises(ConfigurationError, match="allow it with --insecure"):
        bind(address)
    with contextlib.suppress(EndpointError), bind(address, insecure=True) as listener:
        assert listener.getsockname()[1]


@pytest.mark.parametrize("address", ["localhost:0", "lo:0", "127.0.0.2:0"])
def test_this_machine_has_several_names(address):
    with bind(address) as listener:
        assert listener.getsockname()[0].startswith("127.")


def test_a_host_of_another_machine_is_told_of():
    with pytest.raises(EndpointError, match=r"example\.invalid"):
        bind("example.invalid:9464")
