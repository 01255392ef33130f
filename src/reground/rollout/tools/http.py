"""A detector behind HTTP.

Each question is one POST of the JSON object::

    {"image": "<the whole image as PNG, base64>", "expression": "the red cup"}

and the server answers with status 200 and the JSON object::

    {"boxes": [{"box": [x1, y1, x2, y2], "label": "cup", "score": 0.87}, ...]}

Boxes are left, upper, right and lower edge in pixels of the image that was sent; ``label`` (text)
and ``score`` (a number, higher is surer) may be missing or null, other fields are ignored, and no
box is an empty list. A server in need of time answers 429 or 5xx, with Retry-After if it likes.
A key in the environment variable REGROUND_TOOL_KEY is sent as ``Authorization: Bearer KEY``.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from reground.data.images import base64_png
from reground.errors import ConfigError, DataError
from reground.grounding.boxes import Box, Frame
from reground.grounding.sample import Detection, Sample
from reground.rollout.http import Address, JsonClient, NoReply, key_of
from reground.rollout.tools.tool import Request, ToolError

KEY = "REGROUND_TOOL_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpDetector:
    """A server at ``url`` that speaks the protocol above.

    It is asked up to ``concurrency`` questions at a time. A request without its whole reply within
    ``timeout_s`` seconds, a failed connection and a status 408, 409, 425, 429 or 5xx are tried
    again ``retries`` times, after as long as Retry-After says (two minutes at most, and no longer
    than a reply may take) or ever longer pauses. A reply larger than 4 MB is not read. Raises
    ``ConfigError`` where the address or the key cannot be used.
    """

    url: str = field(repr=False)  # which may hold a key
    concurrency: int = 8
    timeout_s: float = 30.0
    retries: int = 3
    by_image = True  # it is sent nothing but the image and the expression

    def __post_init__(self) -> None:
        if self._address.user:
            raise ConfigError(
                f"{self._address}: the address of the detector holds a password; put a key into "
                f"the environment variable {KEY}"
            )
        key_of(KEY)

    @property
    def _address(self) -> Address:
        return Address.of(
            self.url, whose="a detector", example="http://127.0.0.1:8080/detect", error=ConfigError
        )

    @property
    def name(self) -> str:
        """Its address, without what may be a key."""
        return str(self._address)

    @property
    def settings(self) -> str:
        """Its address: a server does not tell its weights. What may be a key is hashed."""
        query = self._address.url.query
        return self.name + (f" {hashlib.sha256(query).hexdigest()}" if query else "")

    def detect(
        self, requests: Sequence[Request]
    ) -> Sequence[tuple[Detection | None, ...] | ToolError]:
        """Its boxes for each request, or why there are none. Not for use inside an event loop."""
        return asyncio.run(self._detect(requests))

    async def _detect(
        self, requests: Sequence[Request]
    ) -> list[tuple[Detection | None, ...] | ToolError]:
        places = asyncio.Semaphore(self.concurrency)
        client = JsonClient(
            self._address, variable=KEY, timeout_s=self.timeout_s, retries=self.retries
        )

        async def answer(request: Request) -> tuple[Detection | None, ...] | ToolError:
            async with places:
                try:
                    body = await asyncio.to_thread(_body, request)
                    return _detections(
                        await client.ask("POST", self._address, body), request.sample
                    )
                except (ToolError, DataError, NoReply) as error:
                    return ToolError(str(error))

        async with aclosing(client):
            return list(await asyncio.gather(*map(answer, requests)))


def _body(request: Request) -> dict[str, str]:
    return {"image": base64_png(request.image()), "expression": request.expression}


def _detections(reply: object, sample: Sample) -> tuple[Detection | None, ...]:
    boxes = reply.get("boxes") if isinstance(reply, dict) else None
    if not isinstance(boxes, list):
        raise ToolError('the reply holds no list "boxes"')
    frame = sample.images[sample.target_image].frame
    return tuple(_detection(row, number, sample, frame) for number, row in enumerate(boxes))


def _detection(row: Any, number: int, sample: Sample, frame: Frame) -> Detection | None:
    edges = row.get("box") if isinstance(row, dict) else None
    if not isinstance(edges, list) or len(edges) != 4 or not all(map(_is_number, edges)):
        raise ToolError(f'boxes[{number}] of the reply has no "box" of four numbers')
    label, score = row.get("label"), row.get("score")
    if not (label is None or isinstance(label, str)):
        raise ToolError(f"boxes[{number}] of the reply has a label that is no text")
    if not (score is None or _is_number(score)):
        raise ToolError(f"boxes[{number}] of the reply has a score that is no number")
    try:
        x1, y1, x2, y2 = map(float, edges)
        return Detection(sample.target_image, Box(x1, y1, x2, y2, frame), label, score)
    except (ValueError, OverflowError):  # NaN, an infinity, or an integer beyond every float
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
