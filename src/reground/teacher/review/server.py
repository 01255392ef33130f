"""The local page over a session: the standard library's server, for one reviewer's browsers.

It listens on 127.0.0.1 alone, yet other users of the machine and other pages in the browser can
reach it too. So every address begins with a token that only the reviewer knows; the browser is
started with a ticket that is good for one use, since other users can read command lines. Host and
Origin must name this machine, so that no other page becomes "the same origin" by its DNS.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
import threading
import webbrowser
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

from reground.errors import DataError, RunError, UserError
from reground.evaluation.reporting.pages import render
from reground.teacher.review.results import changes
from reground.teacher.review.session import OutdatedError, RefusedError, Session
from reground.teacher.store import Store

_HOST = "127.0.0.1"
_LOCAL = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]+)?")  # any port: it may be forwarded
_MAX_BODY = 200_000  # bytes of a decision
_MAX_LISTED = 200  # edits, and rejections, on the page of results
_PACKAGE = "reground.teacher.review"
_TIMEOUT_S = 30.0  # of a browser that says nothing
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; "
    "script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class ReviewServer(ThreadingHTTPServer):
    """Serves ``session`` on 127.0.0.1; port 0 takes a free one. Raises ``RunError`` for a taken."""

    daemon_threads = True

    def __init__(self, session: Session, *, port: int = 0) -> None:
        try:
            super().__init__((_HOST, port), _Handler)
        except OSError as error:
            raise RunError(
                f"port {port} cannot be used ({error.strerror}); choose another --port, or 0 for a "
                "free one",
                help="port-in-use",
            ) from None
        self.session = session
        self.token = secrets.token_urlsafe(24)
        self.ticket: str | None = secrets.token_urlsafe(24)
        self.decoding = threading.Semaphore(2)  # large images at a time, whatever a browser asks

    @property
    def url(self) -> str:
        """Where the reviewer's page is."""
        return f"http://{_HOST}:{self.server_port}/{self.token}/"

    def run(self, *, open_browser: bool) -> None:
        """Serve until Ctrl-C; every decision is stored as it is made."""
        if open_browser:
            opened = f"http://{_HOST}:{self.server_port}/open/{self.ticket}"
            threading.Thread(target=webbrowser.open, args=[opened], daemon=True).start()
        # Open all along, so that SQLite does not tidy up behind each single request.
        with Store.open(self.session.path), suppress(KeyboardInterrupt):
            self.serve_forever()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Bugs are shown; a browser that hangs up is none."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@dataclass(frozen=True, slots=True)
class _HttpReply:
    body: bytes
    content_type: str
    status: HTTPStatus = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)


class _HttpError(UserError):
    """A request that is answered with a status and one sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


# Of errors of a session; others are ours.
_STATUS = {
    RefusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    OutdatedError: HTTPStatus.CONFLICT,
    DataError: HTTPStatus.NOT_FOUND,
}


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        """The page, its parts, a chain, an image, the results; by POST a decision on a chain."""
        try:
            self._check_local()
            reply = self._routed()
        except _HttpError as error:
            reply = _text(str(error), status=error.status)
        except IndexError:
            reply = _text("there is no such chain", status=HTTPStatus.NOT_FOUND)
        except UserError as error:
            status = _STATUS.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)
            reply = _text(str(error), status=status)
        with suppress(ConnectionError):  # of a browser that went on
            self._send(reply)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing: the terminal is the reviewer's."""

    def _check_local(self) -> None:
        host = self.headers.get("Host", "")
        origin = self.headers.get("Origin", f"http://{host}")
        if not _LOCAL.fullmatch(host) or origin != f"http://{host}":
            raise _HttpError(HTTPStatus.FORBIDDEN, "this page is for this machine alone")

    def _routed(self) -> _HttpReply:
        session, method = self.server.session, self.command
        path, _, query = self.path.partition("?")
        token, *rest = path.removeprefix("/").split("/")
        if (method, token) == ("GET", "open") and len(rest) == 1:
            return self._redeemed(rest[0])
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise _HttpError(
                HTTPStatus.FORBIDDEN, "unknown address; take the one that the terminal shows"
            )
        match (method, rest):
            case ("GET", []):
                return self._to_page()
            case ("GET", [""]):
                return _page("review.html.j2", session)
            case ("GET", ["review.css"]):
                return _text(render("review.css", _PACKAGE), "text/css")
            case ("GET", ["review.js"]):
                script = files(_PACKAGE).joinpath("templates/review.js")
                return _text(script.read_text(encoding="utf-8"), "text/javascript")
            case ("GET", ["results"]):
                return self._results()
            case ("GET", ["samples", index]):
                return _json(session.sample(_number(index)))
            case ("POST", ["samples", index]):
                return self._decided(_number(index))
            case ("GET", ["images", index, number]):
                return self._image(_number(index), _number(number), query)
        raise _HttpError(HTTPStatus.NOT_FOUND, "there is no such page")

    def _redeemed(self, ticket: str) -> _HttpReply:
        """The way to the page, for the one who comes first with the ticket."""
        known = self.server.ticket
        if known is None or not secrets.compare_digest(ticket.encode(), known.encode()):
            raise _HttpError(
                HTTPStatus.FORBIDDEN, "used already; take the address that the terminal shows"
            )
        self.server.ticket = None
        return self._to_page()

    def _to_page(self) -> _HttpReply:
        return _HttpReply(
            b"", "text/plain", HTTPStatus.FOUND, {"Location": f"/{self.server.token}/"}
        )

    def _results(self) -> _HttpReply:
        """What all reviewers found, with what this one has left."""
        session = self.server.session
        found, reasoning = session.results()
        listed = found.edits[:_MAX_LISTED]
        return _page(
            "results.html.j2",
            session,
            positions={sample_id: n for n, sample_id in enumerate(session.queue, start=1)},
            results=found,
            edits=[(each, changes(reasoning[each.sample], each.text or "")) for each in listed],
            rejections=found.rejections[:_MAX_LISTED],
        )

    def _decided(self, index: int) -> _HttpReply:
        session, body = self.server.session, self._body()
        session.decide(index, call=body["call"], decision=body["decision"], text=body.get("text"))
        unjudged = session.unjudged()
        after = [each for each in unjudged if each > index] or unjudged
        return _json({"next": after[0] if after else None, "left": len(unjudged)})

    def _image(self, index: int, number: int, query: str) -> _HttpReply:
        side = _number(parse_qs(query).get("side", ["1600"])[0])
        with self.server.decoding:
            image = self.server.session.image(index, number, side=side)
        kept = {"Cache-Control": "private, max-age=3600"}
        return _HttpReply(image.body, image.content_type, headers=kept)

    def _body(self) -> dict[str, Any]:
        """A decision as the page sends it; JSON by its type, which no other page's form can be."""
        length = self.headers.get("Content-Length", "")
        is_json = self.headers.get_content_type() == "application/json"
        if not (is_json and re.fullmatch("[0-9]{1,9}", length)):
            raise _HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected a decision as JSON")
        if int(length) > _MAX_BODY:
            raise _HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the text is too long")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            body = None
        if not _is_decision(body):
            raise _HttpError(
                HTTPStatus.BAD_REQUEST, "expected {call: number, decision: word, text: text}"
            )
        return dict(body)

    def _send(self, reply: _HttpReply) -> None:
        self.send_response(reply.status)
        headers = {
            "Content-Type": reply.content_type,
            "Content-Length": str(len(reply.body)),
            "Cache-Control": "no-store",
        }
        for name, value in (headers | _HEADERS | reply.headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise IndexError(text)
    return int(text)


def _is_decision(body: Any) -> bool:
    return (
        isinstance(body, dict)
        and type(body.get("call")) is int
        and isinstance(body.get("decision"), str)
        and isinstance(body.get("text"), str | None)
    )


def _text(
    text: str, content_type: str = "text/plain", *, status: HTTPStatus = HTTPStatus.OK
) -> _HttpReply:
    return _HttpReply(text.encode(), f"{content_type}; charset=utf-8", status)


def _json(value: Any) -> _HttpReply:
    return _HttpReply(json.dumps(value).encode(), "application/json")


def _page(template: str, session: Session, **more: Any) -> _HttpReply:
    page = render(template, _PACKAGE, session=session, unjudged=session.unjudged(), **more)
    return _text(page, "text/html")
