"""What a broken or hostile peer says: some hundred kinds for each endpoint that a user has.

A kind is a script: from a seeded source of chance it yields bytes to be sent, seconds to be silent
(None without end), and `Reset`. Scripts of ZMTP need not hear the other side: they send greeting,
handshake and what follows in one go. See RFC 23 and 37 of rfc.zeromq.org.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

STREAM = "honest"
"""The stream of the honest publisher, whose ticks must all be taken."""

MIB = 2**20
BEAT_S = 0.05
"""Between two rubbish messages of one connection."""

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\nready: all is well\u2028\u202egpj.exe\0"
LONG = "n" * 10_000
DEEP = 100_000
HUGE = (2**31, 2**62, 2**63 - 1, 2**64 - 1)


class Reset:
    """End the connection with a reset."""


Item = bytes | float | type[Reset] | None
Script = Callable[[random.Random], Iterable[Item]]


class Kind(NamedTuple):
    """A kind of rubbish, and which of the target's sockets it is for."""

    name: str
    door: int
    script: Script


def kinds(where: str) -> list[Kind]:
    """Return the kinds for an endpoint: `feed`, `recovery`, `publisher` or `http`."""
    if where == "http":
        both = [*requests(), *sockets()]
        return [Kind(name, door, script) for k, (name, script) in enumerate(both)
                for door in ((0, 1) if name.startswith("slow") else (k % 2,))]  # fmt: skip
    peers = {"feed": [(b"PUB", published)], "recovery": [(b"ROUTER", replied)],
             "publisher": [(b"SUB", subscribed), (b"DEALER", asked)]}[where]  # fmt: skip
    return [
        Kind(f"{name} ({role.decode()})", door, script)
        for door, (role, said) in enumerate(peers)
        for name, script in (*greetings(role), *commands(role), *frames(role), *said(role))
    ]


def once(*items: Item) -> Script:
    return lambda _: items


def over(*items: bytes, first: bytes = b"") -> Script:
    """Say the first once and the items again and again, in random order."""

    def script(chance: random.Random) -> Iterator[Item]:
        yield first
        while True:
            yield chance.choice(items)
            yield BEAT_S

    return script


def drip(data: bytes) -> Script:
    return lambda _: (item for byte in data for item in (bytes([byte]), 0.1))


def flood(first: bytes, part: Callable[[random.Random], bytes]) -> Script:
    """Say the parts as fast as the other side takes them."""

    def script(chance: random.Random) -> Iterator[Item]:
        yield first
        while True:
            yield part(chance)

    return script


# ---- ZMTP ---------------------------------------------------------------------------------


def greeting(mechanism: bytes = b"NULL", version: bytes = b"\3\1", start: bytes = b"\xff",
             server: int = 0, filler: bytes = bytes(31)) -> bytes:  # fmt: skip
    return (
        start
        + bytes(8)
        + b"\x7f"
        + version
        + mechanism.ljust(20, b"\0")
        + bytes([server])
        + filler
    )


def frame(body: bytes, flags: int = 0) -> bytes:
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return struct.pack(">BQ", flags | 2, len(body)) + body


def command(name: bytes, body: bytes = b"") -> bytes:
    return frame(bytes([len(name)]) + name + body, 4)


def entry(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def hands(role: bytes) -> bytes:
    """Return a greeting and a handshake as they should be."""
    return greeting() + command(b"READY", entry(b"Socket-Type", role))


def message(*parts: bytes) -> bytes:
    return b"".join(frame(part, k < len(parts)) for k, part in enumerate(parts, 1))


def greetings(role: bytes) -> Iterator[tuple[str, Script]]:
    ready = command(b"READY", entry(b"Socket-Type", role))
    for name in (b"PLAIN", b"CURVE", b"GSSAPI", b"XYZZY", b"", b"\xff" * 20, b"null", b"NULLNULL"):
        yield f"mechanism {name!r}", once(greeting(name) + ready)
    for version in (b"\0\0", b"\1\0", b"\2\0", b"\2\1", b"\3\xff", b"\4\0", b"\xff\xff"):
        yield f"version {version!r}", once(greeting(version=version) + ready)
    for start in (b"\x00", b"\x01", b"\x7f", b"\xfe"):
        yield f"signature {start!r}", once(greeting(start=start) + ready)
    for server in (1, 255):
        yield f"as-server {server}", once(greeting(server=server) + ready)
    yield "filler", once(greeting(filler=b"\xff" * 31) + ready)
    for size in (0, 1, 9, 10, 11, 12, 32, 63):
        yield f"greeting of {size} bytes", once(greeting()[:size], None)
        yield f"reset after {size} bytes", once(greeting()[:size], 0.01, Reset)
    for other in (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad\r\n\r\n", b"\x16\3\1\2\0\1\0",
                  b"SSH-2.0-x\r\n", bytes(4096), b"\xff" * 4096):  # fmt: skip
        yield f"not ZMTP: {other[:8]!r}", once(other, None)
    yield "noise", flood(b"", lambda chance: chance.randbytes(4096))
    yield "slow greeting", drip(hands(role))


def commands(role: bytes) -> Iterator[tuple[str, Script]]:
    for other in (b"REQ", b"REP", b"PAIR", b"PUSH", b"PULL", b"STREAM", b"", b"x" * 255, b"pub",
                  b"PUB\0", b"\xff\xfe"):  # fmt: skip
        yield f"READY of {other[:8]!r}", once(hands(other), None)
    kind = entry(b"Socket-Type", role)
    for name, body in {
        "no type": b"", "two types": kind * 2, "no name": b"\0" + kind, "name beyond": b"\xffSock",
        "value of 2 GB": b"\x0bSocket-Type" + struct.pack(">I", 2**31) + role,
        "value of -1": b"\x0bSocket-Type\xff\xff\xff\xff" + role,
        "long identity": kind + entry(b"Identity", bytes(256)),
        "identity with 0": kind + entry(b"Identity", b"\0abc"),
        "many properties": kind + entry(b"X-y", b"z" * 9) * 1000,
        "bad resource": kind + entry(b"Resource", b"\xff" * 300),
    }.items():  # fmt: skip
        yield f"READY with {name}", once(greeting() + command(b"READY", body), None)
    for name in (b"HELLO", b"WELCOME", b"INITIATE", b"ERROR", b"PING", b"XYZZY", b"", b"ready"):
        yield f"command {name!r}", once(greeting() + command(name, b"\xff" * 32), None)
    yield "command that ends early", once(greeting() + frame(b"\xffREADY", 4), None)
    yield "huge command", once(greeting() + struct.pack(">BQ", 6, 2**40), bytes(MIB), None)
    yield "command with MORE", once(greeting() + frame(b"\5READY" + kind, 5), None)
    yield "message before READY", once(greeting() + message(b"tick/x/", b"x"), None)
    yield "READY twice", once(hands(role) + command(b"READY", kind), None)


def frames(role: bytes) -> Iterator[tuple[str, Script]]:
    hello = hands(role)
    for flags in (5, 6, 7, 8, 16, 32, 64, 128, 255):
        yield f"flags {flags}", over(frame(b"rubbish", flags), first=hello)
    for size in (64 * MIB + 1, *HUGE):
        yield f"frame of {size:,}", once(hello + struct.pack(">BQ", 2, size), bytes(MIB), None)
    yield "frame cut", once(hello + frame(b"x" * 200)[:50], None)
    yield "frame cut, reset", once(hello + frame(b"x" * 200)[:50], 0.01, Reset)
    yield "slow frame", drip(hello + frame(b"x" * 200))
    yield "empty parts", flood(hello, lambda _: frame(b"", 1) * 1000)
    yield "endless multipart", flood(hello, lambda _: frame(bytes(900), 1) * 64)
    yield "endless long parts", flood(hello, lambda _: frame(bytes(64 * 1024), 1))
    yield "pings", flood(hello, lambda _: command(b"PING", b"\0\1" + b"c" * 16) * 100)
    for body in (b"", b"\0", b"\xff\xff" + b"c" * 17, b"\0\1" + b"c" * 10_000):
        yield f"PING of {len(body)}", over(command(b"PING", body), first=hello)
    for name in (b"PONG", b"SUBSCRIBE", b"CANCEL", b"ERROR", b"XYZZY", b"JOIN"):
        yield f"{name.decode()} later", over(command(name, b"\xff" * 40), first=hello)
    yield "handshake, then silence", once(hello, None)
    yield "handshake, then reset", once(hello, 0.01, Reset)


# ---- records ------------------------------------------------------------------------------

packed, text = msgspec.msgpack.encode, msgspec.json.encode

BAD: dict[str, bytes] = {
    "nothing": b"", "no msgpack": b"\xc1", "map cut": packed({"v": 1, "values": [1.0]})[:-4],
    "array of 4 G": b"\xdd\xff\xff\xff\xff", "deep msgpack": b"\x91" * DEEP,
    "bytes of 4 G": b"\xc6\xff\xff\xff\xff", "deep map": b"\x81\xa1v" * DEEP,
    "deep JSON": b"[" * DEEP,
    "JSON cut": b'{"v":1,"values":[1', "deep object": b'{"v":' * DEEP,
    "JSON 1e999": b'{"v":1e999}',
    "JSON surrogate": b'{"v":1,"session":"\\ud800"}', "long number": b"1" * MIB, "null": b"null",
    "not UTF-8": b'{"v":1,"session":"\xff"}', "ext": b"\xc7\x08\xff12345678", "number": packed(1),
    "many keys": packed({f"k{k}": k for k in range(50_000)}), "huge int": packed({"v": 2**64 - 1}),
    "8 MiB": packed({"v": 1, "values": [0] * (8 * MIB - 64)}), "9 MiB": bytes(9 * MIB),
}  # fmt: skip


def published(role: bytes) -> Iterator[tuple[str, Script]]:
    hello = hands(role)

    def on(topic: str | bytes, payload: bytes) -> bytes:
        return message(topic.encode() if isinstance(topic, str) else topic, payload)

    for name, payload in BAD.items():
        yield name, over(*(on(f"{kind}/{STREAM}/", payload)
                           for kind in ("tick", "label", "heartbeat")), first=hello)  # fmt: skip
    good: dict[str, Any] = {"v": 1, "values": [1.0], "session": "x", "seq": 1}
    for key, values in {
        "v": (0, 2, -1, "1", None), "seq": (0, -1, *HUGE, 1.5, "x"), "t_ns": (-(2**63), *HUGE,
        "x"),
        "values": ("x", {}, [[]], [[1], [1, 2]], {"y": 1}, b"1234567", [True], [1e308, -1e308]),
        "session": ("", "s" * MIB, HOSTILE, 5), "rows": (0, -1, 2**40),
    }.items():  # fmt: skip
        yield (
            f"ticks with a bad {key}",
            over(
                *(on("tick/evil/", packed(good | {key: value})) for value in values), first=hello
            ),
        )
    for what, topics in {
        "names": (f"tick/{HOSTILE}/", f"tick/{LONG}/", "tick//", "tick/a/b/", "tick/../"),
        "topics": ("tick", "", "/", "tock/a/", "heartbeat", b"tick/\xff\xfe/", b"\0" * 300),
    }.items():
        yield f"bad {what}", over(*(on(topic, packed(good)) for topic in topics), first=hello)
    for name, more in {
        "far ahead": {"seq": 2**62}, "end": {"end": True, "seq": 5},
        "at 2**64": {"seq": 2**64 - 1},
        "back": {"seq": 1}, "hostile columns": {"columns": [HOSTILE], "seq": 1},
        "stale": {"stale": 1},
        "many columns": {"columns": ["c" * 250] * 4096, "seq": 1}, "other": {"columns": ["y"],
        "seq": 2},
        "long columns": {"columns": ["c" * 8_000_000], "seq": 1},
    }.items():  # fmt: skip
        beats = [on(f"heartbeat/{stream}/", packed({"v": 1, "session": f"e{k}"} | more))
                 for k in range(20) for stream in ("evil", STREAM)]  # fmt: skip
        yield f"heartbeat {name}", over(*beats, first=hello)
    yield "new sessions", flood(hello, lambda chance: on("heartbeat/evil/", packed(
        {"v": 1, "seq": 1, "session": f"{chance.random()}", "columns": ["x"]})))  # fmt: skip
    yield "new streams", flood(hello, lambda chance: on(f"tick/{chance.random()}/", packed(good)))
    labels = [{"v": 1, "n": n, "y": y} for n in (0, *HUGE) for y in (0, 2, 1e999, "x")]
    yield "labels", over(*(on(f"label/{STREAM}/", packed(one)) for one in labels), first=hello)
    yield "one part", over(message(f"tick/{STREAM}/".encode()), first=hello)
    yield "fifty parts", over(message(*[f"tick/{STREAM}/".encode()] * 50), first=hello)


def replied(role: bytes) -> Iterator[tuple[str, Script]]:
    hello = hands(role)
    for name, payload in BAD.items():
        yield f"reply: {name}", over(message(payload), first=hello)
    for session in (STREAM, "x", HOSTILE):
        about = {"v": 1, "stream": STREAM, "session": session}
        for name, said in {
            "welcome": [{"kind": "welcome", "session": session, "columns": columns}
                        for columns in (["x"], [], [HOSTILE], ["c" * 250] * 4096)],
            "snapshot": [{"kind": "snapshot", "session": session,
            "streams": streams} for streams in
                         ({"evil": (2**62, 2**62)}, {"evil": (9, 1)}, {STREAM: (1, 2**62)},
                          {str(k): (1, 2) for k in range(9999)})],
            "block": [{"kind": "block", "seq": 2**40, "rows": rows, "t_ns": bytes(size),
            "values": bytes(size)}
                      for rows in (1, 2, 65_536) for size in (0, 8, 7, 65_536 * 8)],
            "gone": [{"kind": "gone", "oldest_seq": seq} for seq in (0, 1, *HUGE)],
            "busy": [{"kind": "busy", "retry_ms": ms} for ms in (-1, 0, 1, 3_600_000, 2**63)],
            "kind": [{"kind": kind} for kind in ("", "hello", "x" * MIB, 5)],
        }.items():  # fmt: skip
            replies = [
                message(encode(about | one)) for one in said for encode in (packed, encoded)
            ]
            yield f"{name} of {session[:6]!r}", over(*replies, first=hello)
            yield (
                f"{name} of {session[:6]!r}, flood",
                flood(hello, lambda chance, replies=replies: chance.choice(replies)),
            )


def encoded(record: dict[str, Any]) -> bytes:
    """Return a record as JSON, bytes being text there."""
    return text({k: v.hex()[:999] if isinstance(v, bytes) else v for k, v in record.items()
                 if v not in HUGE})  # fmt: skip


def subscribed(role: bytes) -> Iterator[tuple[str, Script]]:
    hello = hands(role)
    for name, topic in {"hostile": HOSTILE.encode(), "long": b"t" * 100_000,
    "binary": b"\xff" * 99,
                        "zeros": bytes(200), "everything": b""}.items():  # fmt: skip
        for what, first in (("subscribe", 1), ("cancel", 0), ("message", 2)):
            yield f"{what} {name}", over(frame(bytes([first]) + topic), first=hello)
    yield "subscriptions", flood(hello, lambda chance: frame(b"\1" + chance.randbytes(200)) * 9)
    yield "there and back", flood(hello, lambda _: frame(b"\1tick/") + frame(b"\0tick/"))
    yield "never reads", once(hello + frame(b"\1"), None)


def asked(role: bytes) -> Iterator[tuple[str, Script]]:
    hello = hands(role)
    for name, payload in BAD.items():
        yield f"request: {name}", over(message(payload), message(b"", payload), first=hello)
    replay = {
        "v": 1,
        "kind": "replay",
        "stream": STREAM,
        "session": STREAM,
        "from_seq": 1,
        "to_seq": 9,
    }
    for key, values in {
        "v": (0, "x"), "kind": ("", "hello", "snapshot", 5), "stream": ("", HOSTILE, LONG, 5),
        "session": ("", HOSTILE, LONG), "from_seq": (0, -1, *HUGE), "to_seq": (0, -1, *HUGE),
    }.items():  # fmt: skip
        said = [message(packed(replay | {key: value})) for value in values]
        yield f"requests with a bad {key}", over(*said, first=hello)
        yield (
            f"requests with a bad {key}, flood",
            flood(hello, lambda chance, said=said: chance.choice(said) * 9),
        )
    yield "parts", over(message(*[packed(replay)] * 9), message(b"", b"", b""), first=hello)


# ---- HTTP ---------------------------------------------------------------------------------


def requests() -> Iterator[tuple[str, Script]]:
    host = b"Host: 127.0.0.1\r\n"
    for method in (b"", b"get", b"POST", b"CONNECT", b"TRACE", b"G\0T", b"\xff\xfe", b"A" * 9999):
        for version in (b"", b"HTTP/0.9", b"HTTP/9.9", b"HTTP/1.1 x"):
            line = b"%s / %s\r\n" % (method, version)
            yield f"line {line[:20]!r}", once(line + host + b"\r\n", None)
    for target in (b"//", b"http://other/", b"*", b"/%00", b"/\xff", b"/" + b"a" * 9999,
    b"/../etc",
                   b"/?" + b"q" * 9999, b"/%", b"/a b c"):  # fmt: skip
        yield f"target {target[:12]!r}", once(b"GET %s HTTP/1.1\r\n%s\r\n" % (target, host), None)
    plain, post = b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n" + host
    for name, said in {
        "no host": plain, "other host": plain + b"Host: evil.example\r\n",
        "two hosts": plain + host * 2,
        "1000 headers": plain + host + b"X-a: b\r\n" * 1000,
        "no colon": plain + host + b"xyzzy\r\n",
        "folded": plain + b"X: a\r\n b\r\n" + host, "NUL": plain + host + b"X: \0\r\n",
        "bare CR": plain + host + b"X: a\rb\r\n", "bare LF": b"GET / HTTP/1.1\nHost: 127.0.0.1\n",
        "long header": plain + host + b"X: " + b"x" * 70_000 + b"\r\n",
        "space": plain + b"Host : x\r\n",
        "hostile host": plain + b"Host: " + HOSTILE.encode() + b"\r\n", "length -1": post +
        b"Content-Length: -1\r\n", "length 1e99": post + b"Content-Length: " + b"9" * 99 + b"\r\n",
        "two lengths": post + b"Content-Length: 1\r\nContent-Length: 2\r\n", "TE": post +
        b"Transfer-Encoding: xyzzy\r\n", "CL and TE": post +
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Expect": post + b"Expect: 100-continue\r\n",
        "Range": plain + host + b"Range: bytes=-1,2-1,0-" + b"9" * 99 + b"\r\n",
        "TLS": b"\x16\3\1\2\0\1",
        "cookie": plain + host + b"Cookie: " + b"a=b;" * 900 + b"\r\n", "ZMTP": greeting(),
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n",
        "auth": plain + host + b"Authorization: \xff\r\n",
    }.items():  # fmt: skip
        yield f"header: {name}", once(said + b"\r\n", None)
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
    for chunk in (
        b"x\r\n",
        b"-1\r\n",
        b"f" * 99 + b"\r\n",
        b"5\r\nab",
        b"0\r\nX: y\r\n",
        b"1;" * 9999,
    ):
        yield f"chunk {chunk[:8]!r}", once(chunked + chunk, None)
    yield "smuggled", once(chunked + b"0\r\n\r\nGET /evil HTTP/1.1\r\n" + host + b"\r\n", None)
    yield "pipelined", once((plain + host + b"\r\n") * 1000, None)
    yield "endless chunks", flood(chunked, lambda _: b"400\r\n" + b"x" * 1024 + b"\r\n")
    yield "endless line", flood(b"GET /", lambda _: b"a" * 4096)
    yield "endless headers", flood(plain + host, lambda _: b"X-a: b\r\n" * 100)
    yield (
        "endless body",
        flood(post + b"Content-Length: %d\r\n\r\n" % 2**40, lambda _: bytes(4096)),
    )
    yield "noise", flood(b"", lambda chance: chance.randbytes(4096))
    yield "slow line", drip(b"GET /" + b"a" * 99)
    yield "slow headers", lambda _: (item for k in range(999) for item in (b"X: %d\r\n" % k, 0.1))
    yield "slow body", drip(post + b"Content-Length: 999\r\n\r\n" + b"x" * 99)
    yield "silence", once(None)
    yield "reset", once(plain, 0.01, Reset)


def sockets() -> Iterator[tuple[str, Script]]:
    """Yield upgrades to a WebSocket that are not as they should be, and what follows them."""
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    good = {b"Host": b"127.0.0.1", b"Upgrade": b"websocket", b"Connection": b"Upgrade",
            b"Sec-WebSocket-Version": b"13", b"Origin": b"http://127.0.0.1"}  # fmt: skip

    def upgrade(path: bytes = b"/ws", key: bytes = key, **more: bytes) -> bytes:
        lines = good | {name.replace("_", "-").encode(): value for name, value in more.items()}
        return b"GET %s HTTP/1.1\r\n%s%s\r\n" % (
            path, key, b"".join(b"%s: %s\r\n" % line for line in lines.items()))  # fmt: skip

    for name, said in {
        "no key": upgrade(key=b""), "version": upgrade(Sec_WebSocket_Version=b"99"),
        "origin": upgrade(Origin=b"http://evil.example"), "path": upgrade(b"/evil"),
        "bad key": upgrade(key=b"Sec-WebSocket-Key: \xff\r\n"), "upgrade": upgrade(Upgrade=b"h2c"),
        "protocol": upgrade(Sec_WebSocket_Protocol=b"bokeh, " + b"x" * 5000),
        "token": upgrade(Sec_WebSocket_Protocol=b"bokeh, e30.e30"),
        "extensions": upgrade(Sec_WebSocket_Extensions=b"permessage-deflate; " * 99),
    }.items():  # fmt: skip
        yield f"upgrade: {name}", once(said, None)
    for name, said in {
        "reserved": b"\xff\x80\0\0\0\0", "unmasked": b"\x81\5hello",
        "huge": b"\x82\xff" + b"\x7f" * 12,
        "pings": b"\x89\x80\0\0\0\0" * 999, "control cut up": b"\x09\x80\0\0\0\0",
        "bad close": b"\x88\x82\0\0\0\0\0\0", "text": b"\x81\x82\0\0\0\0\xff\xfe",
        "continued": b"\x80\x80\0\0\0\0",
    }.items():  # fmt: skip
        yield (
            f"frames: {name}",
            over(said, first=upgrade(Sec_WebSocket_Protocol=b"bokeh, e30.e30")),
        )
