"""Requests that are broken in every way: bodies, heads and framing, drawn from a seed."""

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "Case", "draw_case"]

_PATHS = ("/v1/chat/completions", "/v1/chat/completions", "/v1/completions")
_LARGE = 10 << 20
_JUNK: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 17, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 10**400),
    *(1e308, -0.0, 0.5, 1e-320, "", " ", "\n", "\x00", "ÿ" * 50, "\u202e", "😀", "x" * 100_000),
    *("http://127.0.0.1/", "file:///etc/passwd", "../../etc/passwd", "${jndi:ldap://x}", "%s%n"),
    *("<script>", "null", "NaN", "pyramid@", "pyramid@nothing", "@", "oracle"),
    *([], {}, [[[[]]]], [None], [1], [[1, 2], [3]], ["a", "b"], {"": ""}, {"type": "text"}),
    *({"role": "user"}, [{"type": "image_url"}], [{"role": "user", "content": None}]),
)
_LITERALS = (
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" * 5000, b"01", b"1.", b".5"),
    *(b"+1", b"0x10", b"1_000", b"'x'", b"undefined", b"True", b"\xff\xfe", b"\xed\xa0\x80"),
    *(b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\x41"', b'"\\u12"', b'"\x01"', b'"', b"{", b"]"),
    *(b"[" * 20_000, b'{"a":' * 20_000, b"[" * 200 + b"]" * 200, b"/* */ 1", b"1 // x"),
)
_TOKENS = (
    *(b"", b" ", b"x", b"-", b"0", b"1", b"-1", b"nan", b"inf", b"1e999", b"9" * 500, b"parallel"),
    *(b"sequential", b"null", b"{}", b"[]", b"\xff\xfe", b"a, b", b'"x"', b"application/json"),
    *(b"Bearer", b"Bearer ", b"Basic !", b"Basic eDp5", b"Digest x", b"x" * 5000, b"\t", b"%0d%0a"),
)
_HEADERS = (
    *(b"content-type", b"content-encoding", b"accept", b"accept-encoding", b"authorization"),
    *(b"host", b"x-pyramid-threshold", b"x-pyramid-policy", b"x-pyramid-max-cost-usd"),
    *(b"x-pyramid-max-latency-ms", b"traceparent", b"tracestate", b"cookie", b"origin", b"range"),
    *(b"expect", b"upgrade", b"x-forwarded-for", b"forwarded", b"te", b"x-http-method-override"),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One broken request.

    Attributes:
        kind: how it is broken.
        wire: its bytes.
        is_whole: whether a server can tell where it ends; where not, it may hang up without a word.
    """

    kind: str
    wire: bytes
    is_whole: bool = True


def draw_case(draw: random.Random, key: str) -> Case:
    """Draw a request.

    Args:
        draw: what it is drawn with.
        key: opens the gateway; most requests show it.
    """
    kind = draw.choice(list(KINDS))
    return KINDS[kind](draw, kind, key)


def _head(
    draw: random.Random,
    key: str,
    body: bytes,
    *,
    path: str | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    given = {name.lower() for name, _ in headers}
    own = [
        (b"host", b"127.0.0.1"),
        (b"authorization", b"Bearer " + key.encode()),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    lines = [f"POST {path or draw.choice(_PATHS)} HTTP/1.1".encode()]
    lines += [name + b": " + value for name, value in own if name not in given]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _posted(draw: random.Random, kind: str, key: str, body: bytes) -> Case:
    # What is far too large is refused before all of it has come.
    return Case(kind=kind, wire=_head(draw, key, body) + body, is_whole=len(body) < _LARGE)


def _valid(draw: random.Random) -> dict[str, Any]:
    """A request with many fields, or one that goes to the oracle as it is."""
    message = {"role": "user", "content": f"Question {draw.randrange(1000)}, an easy one?"}
    body: dict[str, Any] = {"model": "pyramid", "messages": [message], "max_tokens": 9}
    options = {"threshold": 0.5, "max_cost_usd": 1, "policy": "parallel"}
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    further: list[dict[str, Any]] = [
        {"n": 2, "temperature": 0.5, "top_p": 0.9, "seed": 1, "stop": ["x"], "logprobs": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"pyramid": options, "user": "u"},
        {"tools": [tool], "tool_choice": "auto"},
        {"messages": [{"role": "system", "content": "Be brief."}, message]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "1?"}, part]}]},
        {"response_format": {"type": "json_object"}, "model": "oracle"},
        {"prompt": ["Question 1?", "Question 2?"], "model": "pyramid", "echo": False},
        {"logit_bias": {"5": 1.0}, "metadata": {"a": "b"}},
    ]
    return {**body, **draw.choice(further)}


def _places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    own = [path] if path else []
    if isinstance(value, dict):
        return own + [p for name, inner in value.items() for p in _places(inner, (*path, name))]
    if isinstance(value, list):
        return own + [
            p for place, inner in enumerate(value) for p in _places(inner, (*path, place))
        ]
    return own


def _mutated(draw: random.Random, kind: str, key: str) -> Case:
    """Wrong types, missing and unknown fields, anywhere in it."""
    body = _valid(draw)
    for _ in range(draw.randrange(1, 4)):
        path = draw.choice(_places(body))
        owner: Any = body
        for step in path[:-1]:
            owner = owner[step]
        how = draw.randrange(5)
        if how == 0:
            del owner[path[-1]]
        elif how == 1 and isinstance(owner, dict):
            owner[draw.choice(["nonsense", "__proto__", "", "model", "x" * 300])] = _junk(draw)
        elif how == 2:
            owner[path[-1]] = [owner[path[-1]]] * draw.choice((1, 3, 1200))
        else:
            owner[path[-1]] = _junk(draw)
        if not body:
            break
    return _posted(draw, kind, key, json.dumps(body).encode())


def _junk(draw: random.Random) -> object:
    # A copy: what is put in may be mutated again.
    return json.loads(json.dumps(draw.choice(_JUNK)))


def _literal(draw: random.Random, kind: str, key: str) -> Case:
    """What JSON has no place for, or no reader enough room, in the place of a value."""
    body = json.dumps(_valid(draw)).encode()
    places = [place for place, byte in enumerate(body) if byte == ord(":")]
    place = draw.choice(places) + 1
    return _posted(draw, kind, key, body[:place] + draw.choice(_LITERALS) + b"," + body[place:])


def _twice(draw: random.Random, kind: str, key: str) -> Case:
    """A field that is there twice."""
    body = json.dumps(_valid(draw)).encode()
    name = draw.choice(["model", "messages", "n", "stream", "pyramid"])
    extra = f'"{name}": {json.dumps(draw.choice(_JUNK))}'.encode()
    return _posted(draw, kind, key, body[:-1] + b", " + extra + b"}")


def _bytes(draw: random.Random, kind: str, key: str) -> Case:
    """Bytes changed, taken out and put in; a body cut short."""
    body = bytearray(json.dumps(_valid(draw)).encode())
    for _ in range(draw.randrange(1, 8)):
        place = draw.randrange(len(body))
        body[place : place + draw.randrange(4)] = draw.randbytes(draw.randrange(4))
        body = body or bytearray(b"x")
    if draw.random() < 0.3:
        del body[draw.randrange(len(body)) :]
    return _posted(draw, kind, key, bytes(body))


def _encoded(draw: random.Random, kind: str, key: str) -> Case:
    """Other encodings of text, and compressed."""
    text = json.dumps(_valid(draw), ensure_ascii=False)
    how = draw.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7", "gzip", "claimed"))
    if how in ("gzip", "claimed"):
        body = gzip.compress(text.encode(), mtime=0) if how == "gzip" else text.encode()
        header = (b"content-encoding", draw.choice((b"gzip", b"br", b"identity", b"x")))
        return Case(kind=kind, wire=_head(draw, key, body, headers=(header,)) + body)
    return _posted(draw, kind, key, text.encode(how))


def _headers(draw: random.Random, kind: str, key: str) -> Case:
    """Headers that are odd, many, or say what must not be."""
    body = json.dumps(_valid(draw)).encode()
    several = tuple(
        (draw.choice(_HEADERS), draw.choice(_TOKENS)) for _ in range(draw.choice((1, 2, 5)))
    )
    if draw.random() < 0.1:
        several += tuple((f"x-{number}".encode(), b"y") for number in range(draw.choice((50, 500))))
    is_long = draw.random() < 0.05
    if is_long:
        several += ((b"x-long", b"y" * 200_000),)
    wire = _head(draw, key, body, headers=several) + body
    # Refused before all of it has come, which may cost the client the refusal.
    return Case(kind=kind, wire=wire, is_whole=not is_long)


def _injected(draw: random.Random, kind: str, key: str) -> Case:
    """Line breaks, blanks and control characters where a header's name or value stands."""
    body = json.dumps(_valid(draw)).encode()
    name = draw.choice((b"x-pyramid-threshold", b"host", b"x", b"x y", b"", b"x\x00", b"x(", b" x"))
    value = draw.choice(
        (
            b"0.5\r\nx-a: b",
            b"0.5\nx: y",
            b"0.5\r\n folded",
            b"\x00",
            b"\x7f",
            b"a\rb",
            b"\r\n\r\nGET /",
        )
    )
    head = _head(draw, key, body, headers=((name, value),))
    return Case(kind=kind, wire=head + body, is_whole=False)


def _target(draw: random.Random, kind: str, key: str) -> Case:
    """Paths and methods that nothing answers to, or that look for files."""
    method = draw.choice(("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO"))
    target = draw.choice(
        (
            *(
                "/v1/chat/completions",
                "/v1/../../etc/passwd",
                "//evil.example/",
                "/%00",
                "/v1/%2e%2e",
            ),
            *("http://evil.example/v1/models", "*", "/v1/models/" + "x" * 2000, "/v1/models/%ff"),
            *("/" + "a/" * 500, "/v1/models/..%2f..%2fetc", "/live?x=" + "y" * 100, "/docs", "/v1"),
            *("/admin/reload", "/openapi.json", "/metrics", "/static/../page.py"),
        )
    )
    head = f"{method} {target} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
    return Case(
        kind=kind,
        wire=f"{head}content-length: 0\r\nconnection: close\r\n\r\n".encode(),
        is_whole=method != "CONNECT",
    )


def _framed(draw: random.Random, kind: str, key: str) -> Case:
    """Chunks and lengths that do not hold."""
    body = json.dumps(_valid(draw)).encode()
    size = f"{len(body):x}".encode()
    chunked, plain = (b"transfer-encoding", b"chunked"), (b"content-length", b"5")
    framings: tuple[tuple[tuple[tuple[bytes, bytes], ...], bytes], ...] = (
        ((chunked,), b"zz\r\n" + body + b"\r\n0\r\n\r\n"),
        ((chunked,), b"-5\r\n" + body),
        ((chunked,), b"f" * 40 + b"\r\n" + body),
        ((chunked,), size + b";x=" + b"y" * 5000 + b"\r\n" + body + b"\r\n0\r\n\r\n"),
        ((chunked,), size + b"\r\n" + body + b"XX0\r\n\r\n"),
        ((chunked,), size + b"\r\n" + body + b"\r\n0\r\nx-trailer: y\r\n\r\n"),
        ((chunked, plain), size + b"\r\n" + body + b"\r\n0\r\n\r\n"),
        (((b"transfer-encoding", b"chunked, identity"),), body),
        (((b"transfer-encoding", b"xchunked"),), body),
        ((plain, (b"content-length", b"6")), body),
        (((b"content-length", b"-1"),), body),
        (((b"content-length", b"9" * 40),), body),
        (((b"content-length", b"1e3"),), body),
        (((b"content-length", b"+5"),), body),
        (((b"content-length", str(len(body) + 10).encode()),), body),
        (((b"expect", b"100-continue"),), body),
    )
    headers, rest = draw.choice(framings)
    if headers == (chunked,) or chunked in headers:
        head = _head(draw, key, body, headers=headers)
        if plain not in headers:
            head = head.replace(f"content-length: {len(body)}\r\n".encode(), b"")
    else:
        head = _head(draw, key, body, headers=headers)
    return Case(kind=kind, wire=head + rest, is_whole=False)


def _raw(draw: random.Random, kind: str, key: str) -> Case:
    """What is no HTTP at all, or another version of it."""
    body = json.dumps(_valid(draw)).encode()
    whole = _head(draw, key, body) + body
    wires = (
        draw.randbytes(draw.randrange(1, 2000)),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + draw.randbytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: 127.0.0.1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.0\r\n\r\n",
        b"\r\n" * 50,
        b"A" * draw.choice((100, 100_000)),
        whole[: draw.randrange(1, len(whole))],
        whole.replace(b"\r\n", b"\n"),
        whole.replace(b"HTTP/1.1", b"http/1.1"),
        # Two on one connection, the second of which is broken.
        whole.replace(b"connection: close\r\n", b"") + b"GET / BROKEN\r\n\r\n",
    )
    return Case(kind=kind, wire=draw.choice(wires), is_whole=False)


def _sound(draw: random.Random, kind: str, key: str) -> Case:
    """Nothing is wrong with it: the others may not have done it harm."""
    message = {"role": "user", "content": f"Question {draw.randrange(1000)}, an easy one?"}
    body = json.dumps({"model": "pyramid", "messages": [message]}).encode()
    return Case(kind=kind, wire=_head(draw, key, body, path=_PATHS[0]) + body)


KINDS: dict[str, Callable[[random.Random, str, str], Case]] = {
    "wrong values": _mutated,
    "odd literals": _literal,
    "a field twice": _twice,
    "bytes changed": _bytes,
    "other encodings": _encoded,
    "odd headers": _headers,
    "injected headers": _injected,
    "odd targets": _target,
    "wrong framing": _framed,
    "no HTTP": _raw,
    "sound": _sound,
}
"""What draws a request of each kind."""
