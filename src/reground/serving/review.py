"""The pages over one reviewer's session, of ``reground teach review``.

Other users of the machine can reach the server, too. So every address holds a token that only the
reviewer knows; the browser is started with a ticket that is good for one use, since other users can
read command lines.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from reground.errors import DataError, UserError
from reground.evaluation.reporting.pages import render
from reground.serving.guard import Refused
from reground.serving.pages import POLICY
from reground.teacher.review.results import changes
from reground.teacher.review.session import OutdatedError, RefusedError, Session

_MAX_LISTED = 200  # edits, and rejections, on the page of results
_PACKAGE = "reground.teacher.review"
_STATUS = {RefusedError: 422, OutdatedError: 409, DataError: 404}  # of others: 500, they are ours
_HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}


class DecisionRequest(BaseModel):
    """A decision on the chain ``call``, as the page sends it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    call: int
    decision: str
    text: str | None = None


def _secret() -> str:
    return secrets.token_urlsafe(24)


@dataclass(slots=True)
class ReviewPages:
    """A session, the token of its addresses, and the ticket that opens the page once."""

    session: Session
    token: str = field(default_factory=_secret)
    ticket: str | None = field(default_factory=_secret)
    _decoding: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(2))

    @property
    def path(self) -> str:
        """Where the reviewer's page is on the server."""
        return f"/review/{self.token}/"

    def check(self, token: str) -> None:
        """Raise ``Refused`` for another token."""
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            raise Refused(403, "unknown address; take the one that the terminal shows")

    def redeemed(self, ticket: str) -> Response:
        """The way to the page, for the one who comes first with the ticket."""
        known = self.ticket
        if known is None or not secrets.compare_digest(ticket.encode(), known.encode()):
            raise Refused(403, "used already; take the address that the terminal shows")
        self.ticket = None
        return RedirectResponse(self.path, 302, headers=_HEADERS)

    def page(self, template: str, **more: Any) -> Response:
        """A page about the session."""
        unjudged = self.session.unjudged()
        page = render(template, _PACKAGE, session=self.session, unjudged=unjudged, **more)
        return _sent(page, "text/html")

    def results(self) -> Response:
        """What all reviewers found, with what this one has left."""
        found, reasoning = self.session.results()
        listed = found.edits[:_MAX_LISTED]
        return self.page(
            "results.html.j2",
            positions={sample_id: n for n, sample_id in enumerate(self.session.queue, start=1)},
            results=found,
            edits=[(each, changes(reasoning[each.sample], each.text or "")) for each in listed],
            rejections=found.rejections[:_MAX_LISTED],
        )

    def image(self, index: int, number: int, side: int) -> Response:
        """An image, two of which are decoded at a time, whatever a browser asks."""
        with self._decoding:
            image = self.session.image(index, number, side=side)
        kept = _HEADERS | {"Cache-Control": "private, max-age=3600"}
        return Response(image.body, media_type=image.content_type, headers=kept)

    def decided(self, index: int, asked: DecisionRequest) -> Response:
        """Store a decision; says what comes next."""
        self.session.decide(index, call=asked.call, decision=asked.decision, text=asked.text)
        unjudged = self.session.unjudged()
        after = [each for each in unjudged if each > index] or unjudged
        following = {"next": after[0] if after else None, "left": len(unjudged)}
        return JSONResponse(following, headers=_HEADERS)


def review_routes(app: FastAPI, review: ReviewPages) -> None:
    """Add the routes, all of them behind the token."""
    behind = APIRouter(
        prefix="/review/{token}", dependencies=[Depends(review.check)], include_in_schema=False
    )

    @app.get("/review/open/{ticket}", include_in_schema=False)
    def opened(ticket: str) -> Response:
        return review.redeemed(ticket)

    @behind.get("")
    def without_slash() -> Response:
        return RedirectResponse(review.path, 302, headers=_HEADERS)

    @behind.get("/")
    def page() -> Response:
        with _said():
            return review.page("review.html.j2")

    @behind.get("/review.css")
    def style() -> Response:
        return _sent(render("review.css", _PACKAGE), "text/css")

    @behind.get("/review.js")
    def script() -> Response:
        own = files(_PACKAGE).joinpath("templates/review.js")
        return _sent(own.read_text(encoding="utf-8"), "text/javascript")

    @behind.get("/results")
    def results() -> Response:
        with _said():
            return review.results()

    @behind.get("/samples/{index:int}")
    def sample(index: int) -> Response:
        with _said():
            return JSONResponse(review.session.sample(index), headers=_HEADERS)

    @behind.post("/samples/{index:int}")
    def decide(index: int, asked: DecisionRequest) -> Response:
        with _said():
            return review.decided(index, asked)

    @behind.get("/images/{index:int}/{number:int}")
    def image(index: int, number: int, side: Annotated[int, Field(ge=1)] = 1600) -> Response:
        with _said():
            return review.image(index, number, side)

    app.include_router(behind)

    @app.api_route("/review/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
    def unknown(rest: str) -> Response:
        review.check(rest.partition("/")[0])
        raise Refused(404, "there is no such page")


@contextmanager
def _said() -> Iterator[None]:
    """Give errors of a session their status."""
    try:
        yield
    except IndexError:
        raise Refused(404, "there is no such chain") from None
    except UserError as error:
        raise Refused(_STATUS.get(type(error), 500), str(error)) from error


def _sent(text: str, kind: str) -> Response:
    return Response(text, media_type=f"{kind}; charset=utf-8", headers=_HEADERS)
