"""Who may connect: real sockets and keys, and what happens to peers without them."""

import shutil
import socket
import stat
import threading
from pathlib import Path

import pytest
import zmq

from stream_lstm.errors import ConfigurationError, EndpointError
from stream_lstm.events import Prediction
from stream_lstm.feed import guard as guard_module
from stream_lstm.feed.endpoints import Binding, open_socket
from stream_lstm.feed.predictions import PredictionPublisher, PredictionSubscriber
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.security import (
    DOMAIN,
    KeyPair,
    Security,
    make_keys,
    read_clients,
    read_pair,
    read_public,
)
from stream_lstm.schema import SecurityConfig

from .received import ANY_PORT, WAIT_S, ended, gather, subscriber, xs


@pytest.fixture
def keys(tmp_path):
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


def secured(folder, **more):
    return Security(SecurityConfig(curve_dir=str(folder), **more))


class Intruder:
    """A SUB socket with any keys, and the result of its attempt to connect."""

    def __init__(self, endpoint, *, server=None, pair=None):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.RECONNECT_IVL, -1)
        if server is not None:
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, server)
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
        self.monitor = self.socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_SUCCEEDED
        )
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self.socket.connect(endpoint)

    def was_refused(self):
        assert self.monitor.poll(WAIT_S * 1000), "neither accepted nor refused"
        event = zmq.utils.monitor.recv_monitor_message(self.monitor)["event"]
        return event != zmq.EVENT_HANDSHAKE_SUCCEEDED

    def close(self):
        self.socket.disable_monitor()
        self.context.destroy(linger=0)


def counted(security, *reasons):
    """Wait until a refusal has been counted; the guard counts in its own thread."""
    for _ in range(int(WAIT_S * 100)):
        if any(map(security.counts().get, reasons)):
            return security.counts()
        threading.Event().wait(0.01)
    raise AssertionError(f"{reasons} not counted: {security.counts()}")


# ---- keys ---------------------------------------------------------------------------------


def test_keys_are_for_their_owner_alone_and_never_overwritten(keys):
    files = [path for path in keys.rglob("*") if path.is_file()]
    assert sorted(path.relative_to(keys).as_posix() for path in files) == [
        "client.key",
        "client.key_secret",
        "clients/client.key",
        "server.key",
        "server.key_secret",
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    before = {path: path.read_bytes() for path in files}
    with pytest.raises(ConfigurationError, match="never overwritten: name a new folder"):
        make_keys(keys)
    assert {path: path.read_bytes() for path in files} == before


def test_what_is_read_is_what_was_made(keys):
    pair = read_pair(keys, "client")
    assert read_public(keys / "client.key") == pair.public
    assert read_clients(keys) == {pair.public}
    assert zmq.curve_public(pair.secret) == pair.public
    assert zmq.auth.load_certificate(keys / "client.key_secret") == (pair.public, pair.secret)


@pytest.mark.parametrize("name", ["server.key_secret", "client.key_secret"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_secret_that_others_can_read_is_not_used(keys, name, mode):
    (keys / name).chmod(mode)
    with pytest.raises(ConfigurationError, match=f"has mode {mode:04o}.*chmod 600"):
        secured(keys)


@pytest.mark.parametrize("name", ["clients", "clients/client.key"])
def test_a_list_that_others_can_write_to_is_not_used(keys, name):
    (keys / name).chmod((keys / name).stat().st_mode | 0o020)
    with pytest.raises(ConfigurationError, match=r"be written to by others: chmod go-w"):
        secured(keys)


def replaced(keys, name, old, new):
    text = (keys / name).read_text()
    assert old in text
    (keys / name).write_text(text.replace(old, new))


def other_public(keys):
    public = read_public(keys / "server.key").decode()
    replaced(keys, "server.key_secret", public, zmq.curve_keypair()[0].decode())


DAMAGES = {
    "missing": (
        lambda keys: (keys / "server.key_secret").unlink(),
        "cannot read .*server.key_secret: No such file.*make keys with",
    ),
    "no list": (
        lambda keys: shutil.rmtree(keys / "clients"),
        "cannot read .*clients: No such file",
    ),
    "empty list": (
        lambda keys: (keys / "clients" / "client.key").unlink(),
        "contains 0 public keys.*copy the client.key",
    ),
    "text": (
        lambda keys: (keys / "clients" / "client.key").write_text("no key at all\n"),
        "not a ZeroMQ certificate",
    ),
    "bytes": (
        lambda keys: (keys / "server.key_secret").write_bytes(b'public-key = "\xff\xfe"\n' * 3),
        "not a ZeroMQ certificate",
    ),
    "short": (
        lambda keys: replaced(keys, "client.key_secret", 'secret-key = "', 'secret-key = "x'),
        "a key has 40 characters",
    ),
    "no secret": (
        lambda keys: shutil.copyfile(keys / "server.key", keys / "server.key_secret"),
        "has no secret key",
    ),
    "not a pair": (other_public, "are not a pair"),
    "huge": (
        lambda keys: (keys / "server.key_secret").write_bytes(b"#" * 100_000),
        "not a key file",
    ),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_keys_say_why_and_what_to_do(keys, damage, words):
    damage(keys)
    with pytest.raises(ConfigurationError, match=words):
        secured(keys)


def test_a_missing_folder_or_a_libzmq_without_curve_is_refused(keys, tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match="stream-lstm keys"):
        secured(tmp_path / "nothing")
    monkeypatch.setattr(zmq, "has", lambda capability: capability != "curve")
    with pytest.raises(ConfigurationError, match="built without CURVE"):
        secured(keys)


# ---- who may connect ----------------------------------------------------------------------


def test_clients_on_the_list_get_everything(keys):
    security = secured(keys)
    with (
        Publisher(ANY_PORT, columns=["x"], security=security) as out,
        subscriber(out, security=secured(keys)) as into,
    ):
        out.wait_for_subscribers(1, WAIT_S)
        out.publish("a", [1, 2], [[1.0], [2.0]])
        out.end()
        assert xs(gather(into, ended)) == [1.0, 2.0]
    assert security.counts() == {}
    with (
        PredictionPublisher(ANY_PORT, security=secured(keys)) as out,
        PredictionSubscriber(out.endpoint, security=secured(keys)) as into,
    ):
        out.wait_for_subscribers(1, WAIT_S)
        out.publish(Prediction("a", 1, 0, 0.5))
        assert gather(into, bool) == [Prediction("a", 1, 0, 0.5)]


def no_key(keys):
    return {}


def unknown_key(keys):
    return {"server": read_public(keys / "server.key"), "pair": KeyPair(*zmq.curve_keypair())}


def forged_key(keys):
    """The public key of a client on the list, without its secret."""
    pair = KeyPair(read_public(keys / "client.key"), zmq.curve_keypair()[1])
    return {"server": read_public(keys / "server.key"), "pair": pair}


def wrong_server(keys):
    return {"server": zmq.curve_keypair()[0], "pair": read_pair(keys, "client")}


@pytest.mark.parametrize(
    ("intruder", "reasons"),
    [
        (no_key, ("no_key", "left")),  # it may notice the mismatch first
        (unknown_key, ("unknown_key",)),
        (forged_key, ("bad_key",)),
        (wrong_server, ("bad_key",)),
    ],
)
def test_an_intruder_gets_nothing_and_is_counted(keys, intruder, reasons):
    security = secured(keys)
    with Publisher(ANY_PORT, columns=["x"], security=security) as out:
        refused = Intruder(out.endpoint, **intruder(keys))
        try:
            assert refused.was_refused()
            assert set(counted(security, *reasons)) <= set(reasons)
            # An accepted client shows that published ticks do arrive.
            with subscriber(out, security=secured(keys)) as into:
                assert out.wait_for_subscribers(1, WAIT_S) == 1
                out.publish("a", 1, [1.0])
                out.end()
                gather(into, ended)
            assert not refused.socket.poll(0)
        finally:
            refused.close()


def test_without_the_handler_nobody_is_accepted(keys, monkeypatch):
    """Not even a client on the list; without a domain libzmq would accept everybody."""
    security = secured(keys)
    with zmq.Context() as context:
        server = open_socket(context, zmq.XPUB)
        security.serve(server, ANY_PORT)
        assert server.getsockopt(zmq.ZAP_DOMAIN).rstrip(b"\0") == DOMAIN
        server.bind(ANY_PORT)
        endpoint = server.getsockopt_string(zmq.LAST_ENDPOINT)
        pair = read_pair(keys, "client")
        client = Intruder(endpoint, server=read_public(keys / "server.key"), pair=pair)
        assert client.was_refused()
        client.close()
        server.close(linger=0)


@pytest.mark.parametrize("theirs", ["another key", "none"])
def test_a_publisher_without_the_expected_key_is_not_believed(keys, tmp_path, theirs):
    make_keys(tmp_path / "impostor")
    other = secured(tmp_path / "impostor") if theirs == "another key" else None
    ours = secured(keys)
    with (
        Publisher(ANY_PORT, columns=["x"], security=other) as out,
        subscriber(out, security=ours) as into,
    ):
        if other is not None:
            counted(other, "bad_key")
        counted(ours, "not_admitted")
        out.publish("a", 1, [1.0])
        assert into.receive(0.0) == []
        assert into.counters.messages == 0


def test_a_client_without_keys_learns_that_they_may_be_required(keys):
    ours = Security()
    with (
        Publisher(ANY_PORT, columns=["x"], security=secured(keys)) as out,
        subscriber(out, security=ours),
    ):
        counted(ours, "not_admitted")
    assert "--curve-dir" in ours.advice


def test_a_server_may_have_its_own_key_file(keys, tmp_path):
    make_keys(feed := tmp_path / "feed")
    with Publisher(ANY_PORT, columns=["x"], security=secured(feed)) as out:
        shutil.copy(keys / "client.key", feed / "clients" / "us.key")
        out.security.reload(out.security.config)
        (keys / "servers").mkdir()
        name = out.endpoint.removeprefix("tcp://").replace(":", "_")
        shutil.copy(feed / "server.key", keys / "servers" / f"{name}.key")
        with subscriber(out, security=secured(keys)) as into:
            out.wait_for_subscribers(1, WAIT_S)
            out.publish("a", 1, [1.0])
            out.end()
            assert gather(into, ended)


def test_the_list_may_change_while_the_socket_is_open(keys):
    security, pair = secured(keys), KeyPair(*zmq.curve_keypair())
    more = {"server": read_public(keys / "server.key"), "pair": pair}
    with Publisher(ANY_PORT, columns=["x"], security=security) as out:
        first = Intruder(out.endpoint, **more)
        assert first.was_refused()
        first.close()
        text = f'curve\n    public-key = "{pair.public.decode()}"\n'
        (keys / "clients" / "new.key").write_text(text)
        security.reload(SecurityConfig(curve_dir=str(keys)))
        second = Intruder(out.endpoint, **more)
        assert not second.was_refused()
        second.close()
        (keys / "clients" / "new.key").write_text("damaged")
        with pytest.raises(ConfigurationError):
            security.reload(SecurityConfig(curve_dir=str(keys), max_subscriptions=10))
        assert pair.public in security.clients
        assert security.config.max_subscriptions == 3_000


def test_a_removed_client_is_cut_off_and_the_others_come_back(keys):
    pair = KeyPair(*zmq.curve_keypair())
    text = f'curve\n    public-key = "{pair.public.decode()}"\n'
    (keys / "clients" / "leaver.key").write_text(text)
    security = secured(keys)
    with (
        Publisher(ANY_PORT, columns=["x"], security=security) as out,
        subscriber(out, security=secured(keys)) as into,
    ):
        leaver = Intruder(out.endpoint, server=read_public(keys / "server.key"), pair=pair)
        assert not leaver.was_refused()
        out.wait_for_subscribers(2, WAIT_S)
        (keys / "clients" / "leaver.key").unlink()
        security.reload(security.config)
        assert counted(security, "revoked")["revoked"] == 2
        assert leaver.was_refused()
        while out.wait_for_subscribers(0, WAIT_S) > 1:
            pass
        while not out.wait_for_subscribers(0, WAIT_S):
            into.receive(0.01)  # it subscribes again when it looks at its socket
        out.publish("a", 1, [1.0])
        out.end()
        assert gather(into, ended)
        assert not leaver.socket.poll(0)
        leaver.close()


def test_unfinished_handshakes_are_counted(keys, monkeypatch):
    monkeypatch.setattr("stream_lstm.feed.endpoints.HANDSHAKE_S", 0.05)
    security = secured(keys)
    with Publisher(ANY_PORT, columns=["x"], security=security) as out:
        address = ("127.0.0.1", int(out.endpoint.rpartition(":")[2]))
        with socket.create_connection(address):
            assert counted(security, "timeout") == {"timeout": 1}
        with socket.create_connection(address) as gone:
            gone.sendall(b"\xff")
        assert counted(security, "left") == {"left": 1, "timeout": 1}


def test_closing_ends_the_thread(keys):
    with Publisher(ANY_PORT, columns=["x"], security=secured(keys)) as out:
        guard = guard_module.guard_of(out._context, out.security)
        assert guard._thread.is_alive()
    guard._thread.join(WAIT_S)
    assert not guard._thread.is_alive()


# ---- addresses ----------------------------------------------------------------------------

OPEN = [
    "tcp://*:*",
    "tcp://0.0.0.0:*",
    "tcp://[::]:*",
    "tcp://10.0.0.1:5555",
    "tcp://[fe80::1%eth0]:5555",
    "tcp://[::ffff:10.0.0.1]:5555",
]


@pytest.mark.parametrize("endpoint", OPEN)
def test_an_address_for_others_needs_keys(endpoint):
    with pytest.raises(
        ConfigurationError, match=r"keys DIR.*--curve-dir.*127\.0\.0\.1.*--insecure"
    ):
        Publisher(endpoint, columns=["x"])
    with pytest.raises(ConfigurationError, match="--insecure"):
        PredictionPublisher(endpoint)


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:*", "tcp://127.9.8.7:*", "tcp://lo:*", "tcp://[::1]:5"]
)
def test_an_address_of_this_machine_needs_no_keys(endpoint, tmp_path):
    Security().check_bind(endpoint)
    Security().check_bind(f"ipc://{tmp_path}/feed")


def test_an_interface_counts_as_its_address():
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    for name in names:
        # an interface without an IPv4 address cannot be bound at all
        with pytest.raises((ConfigurationError, EndpointError)):
            Security().check_bind(f"tcp://{name}:5555")
    with pytest.raises(EndpointError, match="No such device"):
        Security().check_bind("tcp://nosuchcard:5555")


def test_binding_for_others_may_be_requested(keys):
    for security in (Security(SecurityConfig(insecure=True)), secured(keys)):
        with Publisher("tcp://0.0.0.0:*", columns=["x"], security=security) as out:
            assert out.endpoint.startswith("tcp://0.0.0.0:")


def test_every_bound_socket_has_keys_or_is_refused():
    """No other module of the package binds or connects."""
    package = Path(guard_module.__file__).parent.parent
    texts = {path.name: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    found = {
        name
        for name, text in texts.items()
        if "import zmq" in text and ("ocket.bind(" in text or "ocket.connect(" in text)
    }
    assert found == {"endpoints.py"}


def test_a_binding_that_fails_leaves_the_socket_to_its_owner(keys):
    security = Security()
    with Publisher(ANY_PORT, columns=["x"]) as out, zmq.Context() as context:
        other = open_socket(context, zmq.XPUB)
        with pytest.raises(EndpointError, match="Address already in use"):
            Binding(other, out.endpoint, security)
        other.close(linger=0)
