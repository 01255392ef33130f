"""The HTTP API: questions come in as JSON, the model's thread answers them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from reground.errors import UserError
from reground.serving.batching import QueueFullError
from reground.serving.detector import detector_routes
from reground.serving.guard import App, Guard, Refused, Rules
from reground.serving.label_studio import LabelStudio, label_studio_routes
from reground.serving.messages import (
    BatchRequest,
    BatchResponse,
    ErrorMessage,
    GroundRequest,
    GroundResponse,
)
from reground.serving.pages import page_routes
from reground.serving.service import Service

_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorMessage, "description": said}
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


def make_app(service: Service, rules: Rules, studio: LabelStudio | None = None) -> App:
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
    detector_routes(app, service)
    label_studio_routes(app, service, studio)
    page_routes(app)
    _errors(app)
    return service.counts.around(Guard(app, rules))


def _routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/ground", summary="Point at what a text means")
    async def ground(request: GroundRequest, http: Request) -> GroundResponse:
        return await service.ground(request, http)

    @app.post("/v1/ground/batch", summary="Several questions, answered together")
    async def ground_batch(batch: BatchRequest, http: Request) -> BatchResponse:
        async def answer(request: GroundRequest) -> GroundResponse | ErrorMessage:
            try:
                return await service.ground(request, http)
            except (UserError, Refused) as error:
                return ErrorMessage(error=str(error))

        return BatchResponse(results=await asyncio.gather(*map(answer, batch.requests)))

    @app.get("/v1/models", summary="The model that answers")
    async def models() -> dict[str, Any]:
        own = {"id": service.model, "object": "model", "owned_by": "reground"}
        return {"object": "list", "data": [own]}

    @app.get("/health", summary="Whether the server runs")
    async def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "ReGround"}  # as Label Studio asks

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
