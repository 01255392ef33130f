"""An internet of its own for one test: names, addresses, and a real TLS server behind them."""

from __future__ import annotations

import asyncio.selector_events
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trustme

PUBLIC = "93.184.215.14"  # where the server is, for those who dial it
Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(slots=True)
class Web:
    """What was asked of DNS, which addresses were dialled, and which requests came."""

    names: dict[str, Sequence[str]]
    asked: list[str] = field(default_factory=list)
    dialled: list[tuple[str, int]] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def clear(self) -> None:
        for each in (self.asked, self.dialled, self.requests):
            each.clear()


def plain(body: bytes, status: int = 200, *, claimed: int | None = None, **headers: str) -> Answer:
    """A whole answer, which may claim another length."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if claimed is None else claimed))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return send


def dripping(part: bytes, pause_s: float, *, head: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> Answer:
    """A head, and then a part after a pause, without end."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        while True:
            handler.wfile.write(part)
            time.sleep(pause_s)

    return send


@contextmanager
def internet(names: dict[str, Sequence[str]], pages: dict[str, Answer]) -> Iterator[Web]:
    """DNS that knows ``names`` alone, and ``pages`` at https://images.example.org/ of ``PUBLIC``.

    A name's addresses are taken in turn, one for each question, where they are lists. Whoever dials
    another address than ``PUBLIC`` or loopback is noted and refused.
    """
    web = Web(names)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.requests.append((self.path, dict(self.headers)))
            with suppress(OSError):  # of a client that has had enough
                pages.get(self.path, plain(b"", 404))(self)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("images.example.org", "xn--bcher-kva.example").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    with pytest.MonkeyPatch.context() as patch, authority.cert_pem.tempfile() as trusted:
        patch.setenv("SSL_CERT_FILE", trusted)
        _lead(patch, web, server.server_port)
        yield web
    server.shutdown()
    server.server_close()


def _lead(patch: pytest.MonkeyPatch, web: Web, port: int) -> None:
    """Answer questions to DNS, and lead those who dial ``PUBLIC`` to the server."""
    from reground.data import media

    resolve = socket.getaddrinfo
    loop = asyncio.selector_events.BaseSelectorEventLoop
    dial = loop.sock_connect

    def getaddrinfo(host: Any, service: Any, *rest: Any, **more: Any) -> Any:
        if host in ("127.0.0.1", "localhost", "::1"):
            return resolve(host, service, *rest, **more)
        web.asked.append(str(host))
        if host not in web.names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        known = web.names[host]
        times = web.asked.count(str(host)) - 1
        found = [known[times % len(known)]] if isinstance(known, list) else known
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, service),
            )
            for address in found
        ]

    async def sock_connect(self: Any, sock: Any, address: Any) -> None:
        if address[0] in ("127.0.0.1", "::1") and address[1] == port:
            web.dialled.append(tuple(address[:2]))
        if address[0] not in ("127.0.0.1", "::1"):
            web.dialled.append(tuple(address[:2]))
            if address[0] != PUBLIC:
                raise ConnectionRefusedError
            address = ("127.0.0.1", port)
        await dial(self, sock, address)

    patch.setattr(socket, "getaddrinfo", getaddrinfo)
    patch.setattr(loop, "sock_connect", sock_connect)
    media._trusted.cache_clear()
