"""The HTTP API: questions come in as JSON, the model's thread answers them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from reground.api import Grounder, GroundingRequest
from reground.data.images import decoded
from reground.errors import DataError, UserError
from reground.serving.batching import Answered, ModelThread, QueueFullError
from reground.serving.counts import Counts
from reground.serving.guard import App, Guard, Refused, Rules
from reground.serving.messages import (
    BatchRequest,
    BatchResponse,
    GroundRequest,
    GroundResponse,
    Problem,
    response_of,
)

if TYPE_CHECKING:
    from reground.rollout.environment import Start

LOOK_S = 0.05  # between two looks whether a client is still there
AT_ONCE = 4  # requests whose images are decoded at a time
_DATA_URL = re.compile(r"data:[-\w.+/]*+(?:;[-\w.+=]*+)*?;base64,", re.ASCII)
_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": said}
    for status, said in {
        400: "The request is none.",
        401: "The server's key is missing.",
        403: "A page of another origin asks.",
        413: "The body is too large.",
        422: "The question cannot be asked; `error` says why.",
        429: "Too many questions wait; see Retry-After.",
        503: "The model failed, or the server stops.",
        504: "No answer within the server's time.",
    }.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is taken at a time: questions that wait, tokens and seconds of an answer."""

    most_waiting: int = 256
    max_tokens: int = 256
    timeout_s: float = 120.0


@dataclass(slots=True)
class Service:
    """A model under a name, its thread, and what asks it."""

    grounder: Grounder
    model: str
    thread: ModelThread
    limits: Limits
    tool: str | None = None
    counts: Counts = field(default_factory=Counts)
    _decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def ground(self, request: GroundRequest, http: Request) -> GroundResponse:
        """The answer; raises ``UserError`` for a question that cannot be asked."""
        async with self._decoding:
            start = await run_in_threadpool(self._start, request)
        most = min(request.max_tokens or self.limits.max_tokens, self.limits.max_tokens)
        future = self.thread.submit(start, max_tokens=most)
        answered = await self._answered(future, http)
        self.counts.answered(answered)
        sample = start.sample
        return response_of(
            answered,
            sizes=[(image.width, image.height) for image in sample.images],
            protocol=self.grounder.prompter.protocol(sample).name,
            model=self.model,
        )

    def _start(self, request: GroundRequest) -> Start:
        usual = self.grounder.protocol
        tool = self.tool if request.tool_boxes is None else request.tool_boxes
        shows = tool is None or request.protocol is not None or usual.shows_tool
        asked = GroundingRequest(
            images=[decoded(*each) for each in map(_bytes, request.images, range(99))],
            text=request.text,
            target_image=request.target_image,
            tool=tool,
            protocol=request.protocol if shows else "piter",
        )
        return self.grounder.start(asked, id="asked")

    async def _answered(self, future: Future[Answered], http: Request) -> Answered:
        """The answer, while the client waits for it and in time."""
        waiting = asyncio.wrap_future(future)
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                while not waiting.done():
                    await asyncio.wait([waiting], timeout=LOOK_S)
                    if not waiting.done() and await http.is_disconnected():
                        raise Refused(499, "the client has gone")
        except TimeoutError:
            raise Refused(504, f"no answer within {self.limits.timeout_s:g} s") from None
        finally:
            waiting.cancel()
        if isinstance(error := waiting.exception(), Exception):
            raise Refused(503, f"the model failed: {type(error).__name__}") from error
        return waiting.result()


def _bytes(url: str, number: int) -> tuple[bytes, str]:
    """What a data URL holds, and a name for it; raises ``DataError`` for any other URL."""
    name = f"image {number}"
    found = _DATA_URL.match(url)
    if not found:
        raise DataError(f"{name}: expected a data URL, data:image/png;base64,...")
    try:
        return base64.b64decode(url[found.end() :], validate=True), name
    except (binascii.Error, ValueError):
        raise DataError(f"{name}: not base64; expected data:image/png;base64,...") from None


def make_app(service: Service, rules: Rules) -> App:
    """The application inside its guard; what that refuses is counted, too."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.thread.close)

    app = FastAPI(
        title="ReGround",
        description="Images and a phrase go in, boxes in pixels come out.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=_RESPONSES,
    )
    _routes(app, service)
    _errors(app)
    return service.counts.around(Guard(app, rules))


def _routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/ground", summary="Point at what a text means")
    async def ground(request: GroundRequest, http: Request) -> GroundResponse:
        return await service.ground(request, http)

    @app.post("/v1/ground/batch", summary="Several questions, answered together")
    async def ground_batch(batch: BatchRequest, http: Request) -> BatchResponse:
        async def answer(request: GroundRequest) -> GroundResponse | Problem:
            try:
                return await service.ground(request, http)
            except (UserError, Refused) as error:
                return Problem(error=str(error))

        return BatchResponse(results=await asyncio.gather(*map(answer, batch.requests)))

    @app.get("/v1/models", summary="The model that answers")
    async def models() -> dict[str, Any]:
        own = {"id": service.model, "object": "model", "owned_by": "reground"}
        return {"object": "list", "data": [own]}

    @app.get("/health", summary="Whether the server runs")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", summary="Whether questions are answered now")
    async def ready() -> JSONResponse:
        is_ready = service.thread.is_open
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @app.get("/metrics", summary="Counts for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.counts.text(service.thread.waiting))


def _errors(app: FastAPI) -> None:
    """Every error is one sentence under ``error``."""

    def said(status: int, sentence: str, **headers: str) -> JSONResponse:
        return JSONResponse({"error": sentence}, status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        return said(422, f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}")

    @app.exception_handler(UserError)
    async def mistaken(_: Request, error: UserError) -> JSONResponse:
        return said(422, str(error))

    @app.exception_handler(QueueFullError)
    async def full(_: Request, error: QueueFullError) -> JSONResponse:
        return said(429, str(error), **{"Retry-After": str(error.retry_s)})

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return said(error.status, str(error))

    @app.exception_handler(HTTPException)
    async def routed(_: Request, error: HTTPException) -> JSONResponse:
        return said(error.status_code, str(error.detail), **dict(error.headers or {}))
