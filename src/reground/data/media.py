"""Images by address: from hosts that are named, by an address that was looked up once and checked.

Servers of models were attacked through the addresses of images, CVE-2025-6242 among others: an
address of the machine itself, a name that changes between a check and its use, a redirect, a proxy.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from ssl import SSLContext
from typing import Any, Self

import httpx2

from reground.errors import ConfigError, DataError, shown

MAX_BYTES = 32_000_000  # of a question's images
TIME_S = 15.0  # for a question's images
_PLAIN = re.compile(r"[!-\[\]-~]{1,2000}")
_ADDRESS = re.compile(r"https?:", re.IGNORECASE)
# The last part of a name is no number: 127.0.0.1 and 0x7f.1 are addresses.
_NAME = re.compile(r"(?:[a-z0-9_-]+\.)*[a-z][a-z0-9-]*(?::[1-9]\d{0,4})?", re.ASCII)
# What is no global unicast address: IANA's special-purpose registries (RFC 6890 and later ones),
# and where Azure keeps what its machines may know about themselves.
_LOCAL_4 = tuple(
    map(
        IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32"),
            *("169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24"),
            *("192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
            "224.0.0.0/3",
        ),
    )
)
_GLOBAL_6 = IPv6Network("2000::/3")  # without what is mapped, translated, link-local, multicast
_LOCAL_6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))


@dataclass(frozen=True, slots=True)
class MediaHosts:
    """The hosts that images are fetched from; none by default.

    An image is fetched over https, from the address that its host's name has at that moment, with a
    certificate for that name. All addresses of the name have to be global ones. No redirect is
    followed, no proxy asked, nothing compressed read, and no more than ``MAX_BYTES``.
    """

    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """The hosts by their exact names, ``NAME:PORT`` for another port than 443.

        Raises ``ConfigError`` for what is no name, an IP address among others.
        """
        lower = [name.lower() for name in names]
        for name in lower:
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"{shown(name)!r}: no host that images may come from; expected an exact name "
                    "such as images.example.org or images.example.org:8443"
                )
        return cls(frozenset(name.removesuffix(":443") for name in lower))

    async def fetched(self, texts: Iterable[str]) -> dict[str, bytes]:
        """What the addresses (http:, https:) among ``texts`` hold, all within ``TIME_S`` seconds.

        Raises ``DataError`` for an address that is not allowed, or that gives no reply of use.
        """
        found: dict[str, bytes] = {}
        left = MAX_BYTES
        try:
            async with asyncio.timeout(TIME_S):
                for text in filter(is_address, dict.fromkeys(texts)):
                    found[text] = await self._fetch(text, left)
                    left -= len(found[text])
        except TimeoutError:
            raise DataError(f"the images did not come within {TIME_S:g} s; send them") from None
        return found

    def fetched_now(self, texts: Iterable[str]) -> dict[str, bytes]:
        """:meth:`fetched`, for callers that do not wait otherwise, notebooks among them."""
        if not (addresses := [*filter(is_address, texts)]):
            return {}
        with ThreadPoolExecutor(1) as worker:  # where no loop runs yet
            return worker.submit(asyncio.run, self.fetched(addresses)).result()

    async def _fetch(self, text: str, most: int) -> bytes:
        url = self._allowed(text)
        host, port, name = url.host, url.port or 443, _short(text)
        last = DataError(f"{name}: {host} has no address")
        for address in await _addresses(host, port, name):
            try:
                return await downloaded(
                    url.copy_with(host=address),
                    name,
                    most=most,
                    headers={"Host": url.netloc.decode()},
                    extensions={"sni_hostname": host},  # whose certificate it has to be
                )
            except httpx2.ConnectError:
                last = DataError(f"{name}: {host} cannot be reached, or proves to be another")
        raise last

    def _allowed(self, text: str) -> httpx2.URL:
        """The address, if it is one of https at a host of the list."""
        name = _short(text)
        if not _PLAIN.fullmatch(text):
            raise DataError(
                f"{name}: no address; expected at most 2,000 letters, digits and marks of ASCII, "
                "without spaces and backslashes"
            )
        try:
            url = httpx2.URL(text).copy_with(fragment=None)
            netloc = url.netloc.decode()
        except (httpx2.InvalidURL, ValueError):
            raise DataError(f"{name}: no address; expected https://HOST/PATH") from None
        if url.scheme != "https":
            raise DataError(f"{name}: expected an address that begins with https://")
        if url.userinfo:
            raise DataError(f"{name}: holds a user; expected https://HOST/PATH")
        if netloc not in self.names:
            raise DataError(
                f"{name}: images are not fetched from there; send the image, or allow its host "
                "(reground serve --allow-media-host, Grounder.from_pretrained(media_hosts=))"
            )
        return url


def is_address(text: str) -> bool:
    """Whether a text is meant as an address, and no path or data URL."""
    return _ADDRESS.match(text) is not None


def is_global(address: str) -> bool:
    """Whether an IP address is a global unicast one, of no special purpose.

    >>> is_global("93.184.215.14"), is_global("10.0.0.1"), is_global("::ffff:93.184.215.14")
    (True, False, False)
    """
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv4Address):
        return not any(found in local for local in _LOCAL_4)
    return found in _GLOBAL_6 and not any(found in local for local in _LOCAL_6)


async def downloaded(
    url: httpx2.URL, name: str, *, most: int, headers: dict[str, str], **how: Any
) -> bytes:
    """One GET: the body of a plain reply of status 200 and at most ``most`` bytes.

    Raises ``DataError`` for any other reply, by ``name``, and ``httpx2.ConnectError``.
    """
    asked = {
        "Accept": "image/*, */*;q=0.5",
        "Accept-Encoding": "identity",
        "User-Agent": "reground",
    } | headers
    content = bytearray()
    client = httpx2.AsyncClient(
        headers=asked, verify=_trusted(), trust_env=False, follow_redirects=False, timeout=None
    )
    try:
        async with client, client.stream("GET", url, **how) as reply:
            if reply.status_code != 200:
                why = "it redirects, which is not followed" if reply.is_redirect else "expected 200"
                raise DataError(f"{name}: found status {reply.status_code}; {why}")
            if reply.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise DataError(f"{name}: the reply is compressed, which was not asked for")
            if (stated := reply.headers.get("Content-Length", "")).isdecimal():
                _check(int(stated[:18]), most, name)
            async for part in reply.aiter_raw():
                content += part
                _check(len(content), most, name)
    except httpx2.ConnectError:
        raise
    except (httpx2.HTTPError, OSError, ValueError) as error:
        raise DataError(f"{name}: no reply of use ({type(error).__name__})") from None
    return bytes(content)


def _check(size: int, most: int, name: str) -> None:
    if size > most:
        raise DataError(f"{name}: larger than the {most:,} bytes that are left for images")


async def _addresses(host: str, port: int, name: str) -> list[str]:
    """All addresses of a name, asked for once; raises ``DataError`` unless each is global."""
    loop = asyncio.get_running_loop()
    try:
        known = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise DataError(f"{name}: {host} has no address") from None
    addresses = list(dict.fromkeys(str(each[4][0]) for each in known))
    if not all(map(is_global, addresses)):
        raise DataError(f"{name}: {host} has an address that only machines nearby can reach")
    return addresses


@cache
def _trusted() -> SSLContext:
    return httpx2.create_ssl_context()


def _short(text: str) -> str:
    """An address in a message, without its query, in which keys may be."""
    return shown(text.partition("?")[0], limit=100)
