"""Odd replies, made out of a client's own good one: the same for all that read a server's reply."""

from __future__ import annotations

import copy
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

from reground.rollout.http import MAX_REPLY
from server import Response

VALUES = {
    "null": "null",
    "a number": "5",
    "a fraction": "0.5",
    "a huge number": "1" + "0" * 400,
    "less than nothing": "-1",
    "NaN": "NaN",
    "infinite": "1e999",
    "a truth": "true",
    "a text": '"text"',
    "an empty text": '""',
    "half a character": '"\\ud800 a"',
    "control bytes": '"\\u001b[2J\\u0007\\u009b"',
    "a list": "[]",
    "a list of numbers": "[1, 2]",
    "an object": '{"a": {"text": 5}}',
    "deep": "[" * 500 + "]" * 500,
}
ESC = "\x1b[31mred\x07"
JSON_LIKE: dict[str, bytes] = {
    "nothing": b"",
    "blanks": b" \r\n",
    "HTML": b"<!DOCTYPE html><p>Welcome",
    "events": b'data: {"choices": []}\n\ndata: [DONE]\n\n',
    "an empty object": b"{}",
    "an array": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "NaN": b"NaN",
    "no UTF-8": b'{"choices": [{"message": {"content": "\xff\xfe"}}]}',
    "half": b'{"choices": [',
    "deep": b"[" * 100_000,
    "deep and closed": b"[" * 100_000 + b"]" * 100_000,
    "many digits": b"9" * 100_000,
    "control bytes": ESC.encode() * 9,
}
RESPONSES: dict[str, Response] = {
    **{name: Response(body) for name, body in JSON_LIKE.items()},
    "compressed, and is not": Response("{}", headers={"Content-Encoding": "gzip"}),
    "half of it compressed": Response(
        gzip.compress(b"{}" * 999)[:20], headers={"Content-Encoding": "gzip"}
    ),
    "too short": Response("{", claimed=4000),
    "a length that is none": Response("{}", headers={"Content-Length": "-7"}),
    "broken chunks": Response("zz\r\n{}\r\n", headers={"Transfer-Encoding": "chunked"}),
    "no content": Response("", 204),
    "reset content": Response("", 205),
    "no HTTP": Response("SSH-2.0-OpenSSH_9.6\r\n", 0),
    "a hang-up": Response("", 0),
    "an endless head": Response("HTTP/1.1 200 OK\r\n", 0, endless=b"X-A: b\r\n" * 999),
    "elsewhere": Response("", 302, {"Location": "http://127.0.0.1:9/"}),
    "nowhere": Response("", 307, {"Location": "http://[:::/"}),
    "to a file": Response("", 301, {"Location": "file:///etc/hostname"}),
    "in circles": Response("", 307, {"Location": "/v1/chat/completions"}),
    "a choice": Response("", 300),
    "not modified": Response("", 304),
    "for lawyers": Response('{"detail": "no"}', 451),
    "teapot": Response(json.dumps({"error": {"message": ESC}}), 418),
    "an odd error": Response('{"error": [[{"message": 5}]]}', 400),
    "an error": Response('{"error": {"message": 5, "code": {}}}', 422),
    "a crash": Response("Traceback (most recent call last):\n", 500),
    "busy": Response("", 429, {"Retry-After": "999999999"}),
    "busy until": Response("", 503, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}),
    "busy, garbage": Response("", 503, {"Retry-After": "\xff soon"}),
    "a status of its own": Response("", 999),
}
"""In the place of any reply: a reason why there is none."""

TOO_LARGE: dict[str, Response] = {
    "large": Response(b'{"a": "' + b"a" * (MAX_REPLY + 1) + b'"}'),
    "a bomb": Response(gzip.compress(b" " * 10**8), headers={"Content-Encoding": "gzip"}),
    "endless": Response("", endless=b" " * 65_536),
    "endless chunks": Response(
        "", headers={"Transfer-Encoding": "chunked"}, endless=b"fff\r\n" + b" " * 4095 + b"\r\n"
    ),
}


def fine(good: Any) -> dict[str, Response]:
    """The good reply, sent otherwise than usual."""
    text = json.dumps(good)
    content = text.encode()
    return {
        "compressed": Response(gzip.compress(content), headers={"Content-Encoding": "gzip"}),
        "deflated": Response(zlib.compress(content), headers={"Content-Encoding": "deflate"}),
        "another type": Response(content, headers={"Content-Type": "text/html"}),
        "a BOM": Response(b"\xef\xbb\xbf" + content),
        "UTF-16": Response(text.encode("utf-16")),
        "UTF-32": Response(text.encode("utf-32")),
        "between blanks": Response(b"\r\n " * 999 + content + b"\n\n"),
        "in chunks": Response(
            b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content),
            headers={"Transfer-Encoding": "chunked"},
        ),
        "with more": Response(json.dumps(good | {"more": [{}] * 99, "": None})),
        "with half a character more": Response(content[:-1] + b', "more": "\\udfff"}'),
    }


def mutated(good: Any) -> dict[str, Response]:
    """The good reply with another value in each place, without it, and with it twice."""
    return {name: Response(content) for name, content in _variants(good)}


def odd_replies(good: Any) -> dict[str, Response]:
    """All of them, more than 150, by what is odd about them."""
    found = mutated(good) | RESPONSES | TOO_LARGE | fine(good)
    assert len(found) > 150
    return found


def places(value: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where values are inside a value of JSON, of a list the first two."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2])
    for key, inner in items:
        yield (*above, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*above, key))


_MARK = '"@@"'  # the place of a value


def _variants(good: Any) -> Iterator[tuple[str, bytes]]:
    for path in places(good):
        name = ".".join(map(str, path))
        holder = odd = copy.deepcopy(good)
        for part in path[:-1]:
            holder = holder[part]
        key, own = path[-1], json.dumps(holder[path[-1]])
        holder[key] = "@@"
        again = own if isinstance(key, int) else f"{json.dumps(key)}: null"
        for kind, value in (VALUES | {"there twice": f"{own}, {again}"}).items():
            yield f"{name} is {kind}", json.dumps(odd).replace(_MARK, value, 1).encode()
        del holder[key]
        yield f"{name} is missing", json.dumps(odd).encode()
