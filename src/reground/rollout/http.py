"""Requests over HTTP in one way: in time, of bounded size, to one server, and no key is shown.

A server is another's program: it may drip, send without end, redirect, or quote what it was sent.
Whatever it does becomes its reply or a ``NoReply``, whose message is fit to be shown.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from ssl import SSLContext
from typing import Any, Self
from urllib.parse import unquote_plus

import httpx2

from reground.errors import ConfigError, UserError
from reground.patience import pause_s, retry_after_s

MAX_REPLY = 4_000_000  # bytes; ten thousand boxes with labels are one million
_CONNECT_S = 30.0  # a machine that is gone does not even refuse
_MOST_SHOWN = 300  # characters of what a server says
_LEAST_HIDDEN = 4  # characters: a shorter key is in every text
_PASSING = (408, 409, 425, 429)  # and 5xx: what the same request may get past
_HOPS = 3
_HIDDEN = "(the key)"
_STREAMED = 16  # as many bytes again: each token of a stream has its own wrapping

Hears = Callable[[bytes], None]
"""Is given the parts of a reply as they come; raises ``NoReply`` for what it cannot use."""

logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs addresses, in which keys may be


class NoReply(Exception):
    """A request that got no usable reply; the message is the reason, fit to be shown.

    ``status`` is the server's, if it answered with one that is no success, and ``code`` its own
    name for the error, if it gives one. ``may_pass`` is whether the same request may get a reply
    later, after ``retry_after_s`` seconds where the server says so. What the useless reply took is
    in ``num_prompt_tokens`` and ``num_tokens``.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        code: str | None = None,
        may_pass: bool = True,
        retry_after_s: float | None = None,
        num_prompt_tokens: int = 0,
        num_tokens: int = 0,
    ) -> None:
        super().__init__(reason)
        self.status, self.code = status, code
        self.may_pass, self.retry_after_s = may_pass, retry_after_s
        self.num_prompt_tokens, self.num_tokens = num_prompt_tokens, num_tokens


class Late(NoReply):
    """No reply in time."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is; ``str`` shows it without the keys in it.

    >>> str(Address.of("http://me:pass@host:8000/v1?api-key=abc", whose="a server", example=""))
    'http://(the key)@host:8000/v1?(the key)'
    """

    url: httpx2.URL = field(repr=False)

    @classmethod
    def of(
        cls, text: str, *, whose: str, example: str, error: type[UserError] = ConfigError
    ) -> Self:
        """Raises ``error`` where ``text`` is no address over HTTP."""
        try:
            url = httpx2.URL(text).copy_with(fragment=None)
            port = 1 if url.port is None else url.port
            if url.scheme in ("http", "https") and url.host and 0 < port < 65_536:
                url.host.encode("idna")  # as sockets do
                return cls(url)
        except (httpx2.InvalidURL, ValueError):
            pass
        raise error(
            f"{escaped(without_keys(text))!r}: no address of {whose}; expected an address such as "
            f"{example}"
        )

    def __str__(self) -> str:
        user = f"{_HIDDEN}@" if self.url.userinfo else ""
        path, mark, _ = self.url.raw_path.decode().partition("?")
        place = f"{self.url.scheme}://{user}{self.url.netloc.decode()}{path}".rstrip("/")
        return place + (f"?{_HIDDEN}" if mark else "")

    @property
    def user(self) -> tuple[str, str] | None:
        """Name and password, where they are in it."""
        return (self.url.username, self.url.password) if self.url.userinfo else None

    def at(self, path: str, *, instead: bool = False) -> Address:
        """The address of a path below this one, or ``instead`` of its own."""
        own, mark, query = self.url.raw_path.partition(b"?")
        path = path if instead else own.decode().rstrip("/") + path
        return Address(self.url.copy_with(raw_path=path.encode() + mark + query))

    @property
    def keys(self) -> list[str]:
        """What in it may be a key, as it is written and as it is meant."""
        query = self.url.query.decode()
        written = [*re.split("[&;=]", query), *self.url.userinfo.decode().split(":")]
        basic = [b64encode(":".join(self.user).encode()).decode()] if self.user else []
        return [*written, *map(unquote_plus, written), *basic]


def without_keys(text: str) -> str:
    """An address, or what should be one, without user, password and query.

    >>> without_keys("http//me:pa/ss@host:99999/v1?key"), without_keys("http://host/v1")
    ('http//(the key)@host:99999/v1?(the key)', 'http://host/v1')
    """
    where, mark, _ = text.partition("?")
    front, at, host = where.rpartition("@")
    scheme = front[: front.find("//") + 2] if "//" in front else ""
    return (f"{scheme}{_HIDDEN}@" if at else "") + host + (f"?{_HIDDEN}" if mark else "")


def shown(spec: str) -> str:
    """A spec that may be an address, without the keys in it."""
    return without_keys(spec) if "://" in spec else spec


def escaped(text: str) -> str:
    r"""The text without anything that a terminal would obey or not show.

    >>> escaped("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def key_of(variable: str) -> str | None:
    """The key in an environment variable; raises ``ConfigError`` where it cannot be one."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{variable} holds characters that no key has; set it again")
    return key or None


class JsonClient:
    """Asks the server at ``address``; to be closed by ``aclose``.

    A whole reply has to be there within ``timeout_s`` seconds and to have at most ``max_bytes``. A
    request that may get a reply later is tried again ``retries`` times. The key is that of the
    environment's ``variable``. A redirect to another server is not followed.
    """

    def __init__(
        self,
        address: Address,
        *,
        variable: str | None,
        timeout_s: float,
        retries: int = 0,
        max_bytes: int = MAX_REPLY,
    ) -> None:
        self.address = address
        self._timeout_s, self._retries, self._max_bytes = timeout_s, retries, max_bytes
        key = key_of(variable) if variable else None
        self._keys = sorted({key or "", *address.keys}, key=len, reverse=True)
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        self._client = httpx2.AsyncClient(
            headers=headers | ({"Authorization": f"Bearer {key}"} if key else {}),
            auth=address.user,
            verify=_trusted(),
            timeout=httpx2.Timeout(None, connect=_CONNECT_S),
            limits=httpx2.Limits(max_connections=None),
        )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def send(
        self,
        method: str,
        address: Address,
        body: Any = None,
        *,
        timeout_s: float | None = None,
        retries: int | None = None,
        hears: Hears | None = None,
    ) -> bytes:
        """What a success answers; raises ``NoReply``. ``body`` is sent as JSON.

        ``hears`` is given the parts of a success as they come, which then are not kept; once it was
        given one, the request is not tried again.
        """
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if content else {}
        headers |= {"Accept": "text/event-stream, application/json"} if hears else {}
        url = address.url.copy_with(userinfo=b"")  # which would be logged
        request = self._client.build_request(method, url, headers=headers, content=content)
        timeout_s, attempt = timeout_s or self._timeout_s, 0
        most = self._retries if retries is None else retries
        has_begun = False

        def hear(part: bytes) -> None:
            nonlocal has_begun
            has_begun = True
            assert hears
            hears(part)

        while True:
            try:
                return await self._once(request, timeout_s, hear if hears else None)
            except NoReply as error:
                if has_begun or not error.may_pass or attempt >= most:
                    raise
                await asyncio.sleep(min(pause_s(attempt, error.retry_after_s), timeout_s))
            attempt += 1

    async def ask(self, method: str, address: Address, body: Any = None, **how: Any) -> Any:
        """The JSON that a success answers; raises ``NoReply`` as ``send`` does, and for others."""
        return self.parsed(await self.send(method, address, body, **how))

    def parsed(self, content: bytes) -> Any:
        """What JSON holds; raises ``NoReply``."""
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            start = self.quoted(content[:60].decode(errors="replace")) or "nothing"
            raise NoReply(f"the reply is no JSON; it begins: {start}") from None

    def quoted(self, words: object) -> str:
        """The first line of a server's words, fit to be shown: without keys and control bytes."""
        line = next((line for line in str(words).splitlines() if line.strip()), "").strip()
        for key in self._keys:
            line = line.replace(key, _HIDDEN) if len(key) >= _LEAST_HIDDEN else line
        return escaped(line[:_MOST_SHOWN])

    async def _once(self, request: httpx2.Request, timeout_s: float, hears: Hears | None) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):  # of the whole exchange, however it drips
                response, content = await self._exchanged(request, hears)
        except TimeoutError:
            raise Late(f"no reply within {timeout_s:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            raise NoReply(f"{type(error).__name__}: {self.quoted(error)}") from None
        if response.is_success:
            return content
        raise self._refused(response, content)

    async def _exchanged(
        self, request: httpx2.Request, hears: Hears | None
    ) -> tuple[httpx2.Response, bytes]:
        """The reply; a redirect within the server is followed."""
        for _ in range(_HOPS):
            response = await self._client.send(request, stream=True)
            try:
                content = await self._read(response, hears)
            finally:
                await response.aclose()
            other = response.next_request
            if other is None or _place(other) != _place(request):
                break
            request = other
        return response, content

    async def _read(self, response: httpx2.Response, hears: Hears | None) -> bytes:
        content, size = bytearray(), 0
        heard = hears if response.is_success else None
        most_bytes = self._max_bytes * (_STREAMED if heard else 1)
        async for part in response.aiter_bytes():  # decompressed
            size += len(part)
            if heard:
                heard(part)
            else:
                content += part
            if size > most_bytes:
                most = f"{most_bytes // 1_000_000} MB"
                raise NoReply(f"the reply is larger than {most}", may_pass=False)
        return bytes(content)

    def _refused(self, response: httpx2.Response, content: bytes) -> NoReply:
        status, (said, code) = response.status_code, _complaint(content)
        if response.has_redirect_location:
            place = without_keys(response.headers.get("Location", ""))
            said = f"it redirects to {place}, which is not followed; name that address if it is it"
        return NoReply(
            f"status {status}: {self.quoted(said)}".rstrip(": "),
            status=status,
            code=code,
            may_pass=status in _PASSING or status >= 500,
            retry_after_s=retry_after_s(response.headers.get("Retry-After", "")),
        )


@cache  # a tenth of a second, and an engine is asked by many clients
def _trusted() -> SSLContext:
    return httpx2.create_ssl_context()


def _place(request: httpx2.Request) -> tuple[str, str, str, int | None]:
    url = request.url
    return request.method, url.scheme, url.host, url.port


def _complaint(content: bytes) -> tuple[str, str | None]:
    """What an error's body says, and its code, as OpenAI's API and FastAPI write them."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    error = found.get("error", found) if isinstance(found, dict) else found
    error = error if isinstance(error, dict) else {"message": error}
    raw = content[:2000].decode(errors="replace")
    said = next((error[n] for n in ("message", "detail") if isinstance(error.get(n), str)), raw)
    return said, error["code"] if isinstance(error.get("code"), str) else None
