"""Who may ask, and how much: checked before a request is read."""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64decode
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL = ("127.0.0.1", "localhost", "[::1]")
# No key: for what watches, and pages, which ask for it.
OPEN = ("/health", "/ready", "/", "/docs")
OWN = ("/page/", "/review/")  # no key: their parts; a review's addresses hold a secret of their own
# OpenAI's names of errors by status.
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Names by which the server may be called, origins of other pages, the key, and limits.

    ``hosts`` are names without ports. No page of another origin may ask but those of ``origins``.
    A request's body has at most ``max_body`` bytes and comes within ``body_s`` seconds.
    """

    hosts: tuple[str, ...] = LOCAL
    origins: tuple[str, ...] = ()
    api_key: str | None = None
    max_body: int = 32_000_000
    body_s: float = 30.0


class Refused(Exception):
    """A request that is refused with a status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True)
class Guard:
    """Middleware around ``app``: refuses what the rules do not allow, with one sentence."""

    app: App
    rules: Rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        allowed = self._allowed(headers)
        answer, asked = self.app, receive
        try:
            self._check(scope, headers)
            asked = _after(await self._body(headers, receive), receive)
            if scope["method"] == "OPTIONS" and allowed:
                answer = Response(status_code=204)
        except Refused as refused:
            body = error_body(scope["path"], refused.status, str(refused))
            answer = JSONResponse(body, refused.status)
        await answer(scope, asked, _with_headers(send, allowed))

    def _check(self, scope: Scope, headers: Headers) -> None:
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        name = _name(hosts[0]) if len(hosts) == 1 else None
        if name not in self.rules.hosts:
            raise Refused(421, "the server is not known by this name; start it with --host-name")
        own = f"{scope['scheme']}://{hosts[0]}".lower()
        if any(each.lower() != own and each not in self.rules.origins for each in origins):
            raise Refused(403, "pages of other origins may not ask; see --allow-origin")
        is_open = scope["path"] in OPEN or scope["path"].startswith(OWN)
        if self.rules.api_key and not is_open and scope["method"] != "OPTIONS":
            given = headers.get("x-api-key", _key(headers.get("authorization", "")))
            if not secrets.compare_digest(given.encode(), self.rules.api_key.encode()):
                raise Refused(401, "expected the server's key: Authorization: Bearer KEY")

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body, within the limits of bytes and time."""
        stated = headers.get("content-length", "0")
        if not (stated.isascii() and stated.isdecimal()) or len(stated) > 18:
            raise Refused(400, "the content-length is no number")
        if int(stated) > self.rules.max_body:
            raise self._too_large()
        parts: list[bytes] = []
        total = 0
        try:
            async with asyncio.timeout(self.rules.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(499, "the client has gone")
                    parts.append(message.get("body", b""))
                    total += len(parts[-1])
                    if total > self.rules.max_body:
                        raise self._too_large()
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            sentence = f"the body did not come within {self.rules.body_s:g} s"
            raise Refused(408, sentence) from None

    def _too_large(self) -> Refused:
        return Refused(413, f"the body is larger than {self.rules.max_body:,} bytes")

    def _allowed(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """What lets a page of a named origin read the answer."""
        origin = headers.get("origin", "")
        if origin not in self.rules.origins:
            return []
        return [
            (b"access-control-allow-origin", origin.encode()),
            (b"access-control-allow-headers", b"authorization, content-type, x-api-key"),
            (b"vary", b"origin"),
        ]


def error_body(path: str, status: int, sentence: str, param: str | None = None) -> dict[str, Any]:
    """An error as JSON: one sentence under ``error``, and on OpenAI's route in OpenAI's shape.

    >>> error_body("/v1/ground", 422, "no image")
    {'error': 'no image'}
    """
    if not path.startswith("/v1/chat/"):
        return {"error": sentence}
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    code = _CODES.get(status)
    return {"error": {"message": sentence, "type": kind, "param": param, "code": code}}


def _name(host: str) -> str:
    """The name of a Host header, without its port.

    >>> _name("[::1]:8000"), _name("LocalHost:80"), _name("a.b")
    ('[::1]', 'localhost', 'a.b')
    """
    name, _, port = host.rpartition(":")
    return (name if name and port.isdecimal() else host).lower()


def _key(authorization: str) -> str:
    """The key of an Authorization header: a bearer's, or a basic one's password.

    >>> _key("Bearer abc"), _key("Basic dXNlcjphYmM=")
    ('abc', 'abc')
    """
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != "basic":
        return authorization.removeprefix("Bearer ")
    with suppress(ValueError):
        return b64decode(given, validate=True).decode().partition(":")[2]
    return ""


def _after(body: bytes, receive: Receive) -> Receive:
    """Receive the body at once, and then whatever comes: that the client has gone."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return receive_again


def _with_headers(send: Send, more: list[tuple[bytes, bytes]]) -> Send:
    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *HEADERS, *more]
        await send(message)

    return send_with
