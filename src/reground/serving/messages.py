"""What is asked and answered over HTTP, as JSON."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from reground.grounding.answers import Status
from reground.grounding.names import ProtocolName
from reground.grounding.sample import Detection

if TYPE_CHECKING:
    from reground.api import Grounding
    from reground.serving.batching import Answered

MOST_IMAGES = 16
LONGEST_TEXT = 4_000  # letters
MOST_BOXES = 100
MOST_TOGETHER = 32
EXAMPLE = base64.b64encode((Path(__file__).parent / "scene.png").read_bytes()).decode()
EXAMPLE_TEXT = "the ring"

Side = Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)]
XYXY = tuple[Side, Side, Side, Side]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GroundRequest(_Strict):
    """A question about one image or several."""

    images: Annotated[
        list[str],
        Field(
            min_length=1,
            max_length=MOST_IMAGES,
            description="Each a data URL (data:image/png;base64,...) of a JPEG, PNG, WebP, ..., or "
            "an https address on a host that the server allows (--allow-media-host).",
            examples=[[f"data:image/png;base64,{EXAMPLE}"]],
        ),
    ]
    text: Annotated[
        str,
        Field(
            min_length=1,
            max_length=LONGEST_TEXT,
            description="What to point at.",
            examples=[EXAMPLE_TEXT],
        ),
    ]
    target_image: Annotated[
        int | None, Field(ge=0, description="The image to point in, from 0; default: the last.")
    ] = None
    tool_boxes: Annotated[
        list[XYXY] | None,
        Field(
            max_length=MOST_BOXES,
            description="A detector's boxes [x1, y1, x2, y2] in pixels of the target image, for "
            "the model to check. Under a protocol that shows none, piter is taken.",
        ),
    ] = None
    protocol: ProtocolName | None = None
    model: Annotated[str | None, Field(description="A name of /v1/models; default: the first.")] = (
        None
    )
    min_score: Annotated[
        float | None,
        Field(ge=0, le=1, description="With a box less sure the answer is abstained, no boxes."),
    ] = None
    max_tokens: Annotated[int | None, Field(ge=1, description="At most the server's limit.")] = None
    first: Annotated[
        bool,
        Field(description="Ask for the boxes of the first thought, too: a short second answer."),
    ] = False
    stream: Annotated[
        bool, Field(description="Events: `text` as it comes, at last `answer`; or `error`.")
    ] = False


class BatchRequest(_Strict):
    """Several questions."""

    requests: Annotated[list[GroundRequest], Field(min_length=1, max_length=MOST_TOGETHER)]


class FoundBox(BaseModel):
    """A box in pixels of the image that was sent, and how sure the model is of it."""

    box: Annotated[tuple[float, float, float, float], Field(description="x1, y1, x2, y2")]
    score: Annotated[
        float | None,
        Field(description="Geometric mean probability of the tokens of the box's numbers."),
    ] = None
    label: str | None = None


class Timings(BaseModel):
    """Where the time went, in milliseconds."""

    waited_ms: float
    model_ms: float
    batch: Annotated[int, Field(description="Questions that the model took together.")]


class GroundResponse(BaseModel):
    """An answer; without boxes unless ``status`` is ok, and ok without one: nothing is there."""

    boxes: list[FoundBox]
    image: Annotated[int, Field(description="The image that the boxes are in, from 0.")]
    width: int
    height: int
    status: Status
    text: Annotated[str, Field(description="What the model wrote.")]
    think: str | None = None
    rethink: str | None = None
    tool: Annotated[
        list[FoundBox] | None, Field(description="A detector's boxes, which the model was shown.")
    ] = None
    first: Annotated[
        list[FoundBox] | None,
        Field(
            description="Boxes of the first thought, where `first` asks for them: what the model "
            "answers before it sees a detector's, under think_rethink. Null where it gives none."
        ),
    ] = None
    protocol: ProtocolName
    model: str
    timings: Timings


class ErrorMessage(BaseModel):
    """Why there is no answer, in one sentence."""

    error: str


class BatchResponse(BaseModel):
    """The answers, in the order of the questions."""

    results: list[GroundResponse | ErrorMessage]


def found_boxes(grounding: Grounding) -> list[FoundBox]:
    """The boxes of an answer, each with its score."""
    scores = grounding.scores or (None,) * len(grounding.answer.boxes)
    return [
        FoundBox(box=box.xyxy, score=score)
        for box, score in zip(grounding.answer.boxes, scores, strict=True)
    ]


def _listed(found: Sequence[Detection] | None) -> list[FoundBox] | None:
    if found is None:
        return None
    return [FoundBox(box=own.box.xyxy, score=own.score, label=own.label) for own in found]


def response_of(
    answered: Answered, *, sizes: list[tuple[int, int]], protocol: ProtocolName, model: str
) -> GroundResponse:
    """An answer as it is sent."""
    found = answered.grounding
    answer = found.answer
    width, height = sizes[found.image]
    return GroundResponse(
        boxes=found_boxes(found),
        image=found.image,
        width=width,
        height=height,
        status=answer.status,
        text=found.text,
        think=answer.think,
        rethink=answer.rethink,
        tool=_listed(found.tool),
        first=_listed(found.first),
        protocol=protocol,
        model=model,
        timings=Timings(
            waited_ms=round(1000 * answered.waited_s, 1),
            model_ms=round(1000 * answered.model_s, 1),
            batch=answered.batch,
        ),
    )
