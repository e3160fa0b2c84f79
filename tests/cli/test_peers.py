"""What is said of peers that are refused, and of those that refuse us."""

from stream_lstm.cli.peers import PeerLog
from stream_lstm.feed.security import Security, make_keys
from stream_lstm.schema import SecurityConfig


class Time:
    now = 0.0


def log(security):
    lines, clock = [], Time()
    return PeerLog(security, lines.append, lambda: clock.now), lines, clock


def test_new_refusals_are_told_by_reason_and_once():
    security = Security()
    peers, lines, _ = log(security)
    security.refuse("no_key", 2)
    security.refuse("too_many_peers")
    peers.tend()
    peers.tend()
    assert lines == ["peers refused: 2 no key, 1 too many peers"]


def test_what_goes_on_is_told_ever_more_rarely_and_nothing_is_left_out():
    security = Security()
    peers, lines, clock = log(security)
    for second in range(60):
        clock.now = float(second)
        security.refuse("no_key")
        peers.tend()
    assert len(lines) == 6
    peers.flush()
    assert sum(int(line.split()[2]) for line in lines) == 60


def test_who_is_not_let_in_without_keys_is_told_of_keys():
    security = Security()
    peers, lines, _ = log(security)
    security.refuse("not_admitted")
    peers.tend()
    (line,) = lines
    assert line.startswith("not let in by whom we connect to, 1 time: ")
    assert line.endswith("by --curve-dir DIR")


def test_who_is_not_let_in_with_keys_is_told_of_the_list(tmp_path):
    make_keys(tmp_path / "keys")
    security = Security(SecurityConfig(curve_dir=str(tmp_path / "keys")))
    peers, lines, _ = log(security)
    security.refuse("not_admitted", 3)
    peers.tend()
    assert str(tmp_path / "keys" / "client.key") in lines[0]
    assert "3 times" in lines[0]


def test_an_endpoint_that_was_given_up_is_named_with_the_reason():
    security = Security()
    peers, lines, _ = log(security)
    security.give_up("tcp://10.0.0.1:5555", "its handshake failed; dialled again in 0.5 s")
    peers.tend()
    peers.tend()
    (line,) = lines
    assert line.startswith("the connection to tcp://10.0.0.1:5555 was given up: its handshake")
    assert line.endswith("dialled again in 0.5 s")
    assert security.counts() == {"given_up": 1}
