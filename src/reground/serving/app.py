"""The server: an API that models answer, the page in front of it, pages to review chains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from reground.errors import UserError
from reground.serving.batching import QueueFullError
from reground.serving.chat import PATH, chat_routes
from reground.serving.detector import detector_routes
from reground.serving.guard import App, Guard, Refused, Rules, error_body
from reground.serving.label_studio import LabelStudio, label_studio_routes
from reground.serving.messages import (
    BatchRequest,
    BatchResponse,
    ErrorMessage,
    GroundRequest,
    GroundResponse,
)
from reground.serving.pages import page_routes
from reground.serving.review import ReviewPages, review_routes
from reground.serving.service import Service
from reground.serving.streaming import event, event_stream
from reground.teacher.store import Store

_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorMessage, "description": said}
    for status, said in {
        400: "The request is none.",
        401: "The server's key is missing.",
        403: "A page of another origin asks.",
        404: "There is no such address, or no such model.",
        413: "The body is too large.",
        422: "The question cannot be asked; `error` says why.",
        429: "Too many questions wait; see Retry-After.",
        503: "The model failed, or the server stops.",
        504: "No answer within the server's time.",
    }.items()
}


def make_app(
    service: Service | None,
    rules: Rules,
    review: ReviewPages | None = None,
    studio: LabelStudio | None = None,
) -> App:
    """Questions to models, a review, or both, inside the guard; what that refuses is counted."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Open all along, so that SQLite does not tidy up behind each single request.
        with Store.open(review.session.path) if review else nullcontext():
            yield
        if service:
            await run_in_threadpool(service.close)

    app = FastAPI(
        title="ReGround",
        description="Images and a phrase go in, boxes in pixels come out.",
        openapi_url="/openapi.json" if service else None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=_RESPONSES,
    )
    _errors(app)
    if review:
        review_routes(app, review)
    if not service:
        return Guard(app, rules)
    _routes(app, service)
    chat_routes(app, service)
    detector_routes(app, service)
    label_studio_routes(app, service, studio)
    page_routes(app)
    return service.counts.around(Guard(app, rules))


def _routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/ground", summary="Point at what a text means", response_model=GroundResponse)
    async def ground(request: GroundRequest, http: Request) -> GroundResponse | Response:
        if request.stream or "text/event-stream" in http.headers.get("accept", ""):
            events = service.ground_events(request, http)
            return await event_stream(events, failed=lambda e: event({"error": str(e)}, "error"))
        return await service.ground(request, http)

    @app.post("/v1/ground/batch", summary="Several questions, answered together")
    async def ground_batch(batch: BatchRequest, http: Request) -> BatchResponse:
        async def answer(request: GroundRequest) -> GroundResponse | ErrorMessage:
            try:
                if request.stream:
                    raise Refused(422, "several answers come together; leave stream out")
                return await service.ground(request, http)
            except (UserError, Refused) as error:
                return ErrorMessage(error=str(error))

        return BatchResponse(results=await asyncio.gather(*map(answer, batch.requests)))

    @app.get("/v1/models", summary="The models that answer, the usual one first")
    async def models() -> dict[str, Any]:
        own = {"object": "model", "owned_by": "reground"}
        return {"object": "list", "data": [{"id": each.name} | own for each in service.models]}

    @app.get("/health", summary="Whether the server runs")
    async def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "ReGround"}  # as Label Studio asks

    @app.get("/ready", summary="Whether questions are answered now")
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": service.is_open}, 200 if service.is_open else 503)

    @app.get("/metrics", summary="Counts for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.counts.text(service.waiting))


def _errors(app: FastAPI) -> None:
    """Every error is one sentence under ``error``, where OpenAI's route has more beside it."""

    def said(
        request: Request, status: int, sentence: str, param: str | None = None, **headers: str
    ) -> JSONResponse:
        path = request.url.path
        status = 400 if status == 422 and path == PATH else status  # as OpenAI's API says it
        return JSONResponse(error_body(path, status, sentence, param), status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        problem = first["msg"].removeprefix("Value error, ")
        sentence = f"{where or 'the body'}: {problem[:1].lower()}{problem[1:]}"
        return said(request, 422, sentence, where or None)

    @app.exception_handler(UserError)
    async def mistaken(request: Request, error: UserError) -> JSONResponse:
        return said(request, 422, str(error))

    @app.exception_handler(QueueFullError)
    async def full(request: Request, error: QueueFullError) -> JSONResponse:
        return said(request, 429, str(error), **{"Retry-After": str(error.retry_s)})

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return said(request, error.status, str(error))

    @app.exception_handler(HTTPException)
    async def routed(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        return said(request, error.status_code, str(error.detail), **headers)
