"""The model as a detector for others: for ReGround's own tools, and for CVAT."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, Field

from reground.api import GroundingRequest
from reground.data.images import decoded, unpacked
from reground.serving.messages import (
    EXAMPLE,
    EXAMPLE_TEXT,
    LONGEST_TEXT,
    FoundBox,
    found_boxes,
)
from reground.serving.service import MOST_PIXELS, Service

MOST_LABELS = 32
Phrase = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT, examples=[EXAMPLE_TEXT])]
File = Annotated[
    str, Field(description="The bytes of an image file in base64.", examples=[EXAMPLE])
]


class DetectRequest(BaseModel):
    """A question of ReGround's tools (``reground tool run --help``)."""

    image: File
    expression: Phrase


class DetectResponse(BaseModel):
    """The boxes that answer it."""

    boxes: list[FoundBox]


class CvatRequest(BaseModel):
    """A question of a CVAT detector function."""

    image: File
    threshold: Annotated[
        float, Field(ge=0, le=1, description="The least score of a box; 0 for all.")
    ] = 0.0


class CvatShape(BaseModel):
    """A box as CVAT reads it."""

    confidence: str
    label: str
    points: Annotated[tuple[float, float, float, float], Field(description="x1, y1, x2, y2")]
    type: Literal["rectangle"] = "rectangle"


def detector_routes(app: FastAPI, service: Service) -> None:
    """Add the routes."""

    @app.post("/detect", summary="A detector for ReGround's tools")
    async def detect(request: DetectRequest, http: Request) -> DetectResponse:
        boxes = await _boxes(service, request.image, request.expression, http)
        return DetectResponse(boxes=boxes)

    @app.post("/cvat", summary="A detector function for CVAT")
    async def cvat(
        request: CvatRequest,
        labels: Annotated[
            list[Phrase],
            Query(min_length=1, max_length=MOST_LABELS, description="Phrases; repeatable."),
        ],
        http: Request,
    ) -> list[CvatShape]:
        found = await asyncio.gather(
            *(_boxes(service, request.image, label, http) for label in labels)
        )
        return [
            CvatShape(confidence=f"{box.score or 0:.4f}", label=label, points=box.box)
            for label, boxes in zip(labels, found, strict=True)
            for box in boxes
            if (box.score or 0) >= request.threshold
        ]


async def _boxes(service: Service, image: str, phrase: str, http: Request) -> list[FoundBox]:
    """The boxes of one phrase in one image; raises as ``Service.ask``."""

    def asked() -> GroundingRequest:
        picture = decoded(unpacked(image, "image"), "image", most=MOST_PIXELS)
        return GroundingRequest(images=[picture], text=phrase, tool=service.tool)

    _, answered = await service.ask(asked, http, model=service.named(None))
    return found_boxes(answered.grounding)
