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
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from reground.data.images import base64_png
from reground.errors import ConfigError, DataError
from reground.grounding.boxes import Box, Frame
from reground.grounding.sample import Detection, Sample
from reground.patience import retry_after_s
from reground.rollout.tools.tool import Request, ToolError, reason

KEY = "REGROUND_TOOL_KEY"
MAX_REPLY = 4_000_000  # bytes; ten thousand boxes with labels are one million
_LONGEST_PAUSE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpDetector:
    """A server at ``url`` that speaks the protocol above.

    It is asked up to ``concurrency`` questions at a time. A request without its whole reply within
    ``timeout_s`` seconds, a failed connection and a status 408, 429 or 5xx are tried again
    ``retries`` times, after as long as Retry-After says (two minutes at most) or ever longer
    pauses. A reply larger than ``MAX_REPLY`` is not read. Raises ``ConfigError`` where the address
    or the key cannot be used.
    """

    url: str
    concurrency: int = 8
    timeout_s: float = 30.0
    retries: int = 3
    by_image = True  # it is sent nothing but the image and the expression

    def __post_init__(self) -> None:
        try:
            address = httpx2.URL(self.url)
        except httpx2.InvalidURL:
            address = httpx2.URL()
        if address.scheme not in ("http", "https") or not address.host:
            raise ConfigError(
                f"{self.url!r} is no address of a detector; expected one such as "
                "http://127.0.0.1:8080/detect"
            )
        if address.userinfo:
            raise ConfigError(
                f"the address of the detector on {address.host} holds a password, which would "
                f"stand in logs; put a key into the environment variable {KEY}"
            )
        _key()

    @property
    def name(self) -> str:
        """Its address."""
        return self.url

    @property
    def settings(self) -> str:
        """Its address: a server does not tell its weights."""
        return self.url

    def detect(
        self, requests: Sequence[Request]
    ) -> Sequence[tuple[Detection | None, ...] | ToolError]:
        """Its boxes for each request, or why there are none. Not for use inside an event loop."""
        return asyncio.run(self._detect(requests))

    async def _detect(
        self, requests: Sequence[Request]
    ) -> list[tuple[Detection | None, ...] | ToolError]:
        places = asyncio.Semaphore(self.concurrency)
        # Compressed replies would have no size to hold them to.
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if key := _key():
            headers["Authorization"] = f"Bearer {key}"
        async with httpx2.AsyncClient(headers=headers, timeout=None) as client:

            async def answer(request: Request) -> tuple[Detection | None, ...] | ToolError:
                async with places:
                    try:
                        return await self._answer(client, request)
                    except (ToolError, DataError) as error:
                        return ToolError(_without_key(str(error)))

            return list(await asyncio.gather(*map(answer, requests)))

    async def _answer(
        self, client: httpx2.AsyncClient, request: Request
    ) -> tuple[Detection | None, ...]:
        body = await asyncio.to_thread(_body, request)
        for attempt in range(self.retries):
            try:
                return _detections(await self._post(client, body), request.sample)
            except _Again as again:
                pause = 0.5 * 2**attempt if again.pause_s is None else again.pause_s
                await asyncio.sleep(min(pause, _LONGEST_PAUSE_S))
        return _detections(await self._post(client, body), request.sample)

    async def _post(self, client: httpx2.AsyncClient, body: bytes) -> bytes:
        """The content of a reply with status 200; raises ``ToolError``, ``_Again`` if it may."""
        try:
            async with asyncio.timeout(self.timeout_s):  # of the whole exchange, however it drips
                async with client.stream("POST", self.url, content=body) as response:
                    content = await _read(response)
        except TimeoutError:
            raise _Again(f"no reply within {self.timeout_s:g} s") from None
        except httpx2.HTTPError as error:
            raise _Again(f"{type(error).__name__}: {reason(error)}") from None
        status = response.status_code
        if status == 200:
            return content
        message = f"status {status}: {reason(content[:2000].decode(errors='replace'))}"
        if status in (408, 429) or status >= 500:
            raise _Again(message, retry_after_s(response.headers.get("Retry-After", "")))
        raise ToolError(message)


class _Again(ToolError):
    """What may be better after a pause; None where the server does not say how long."""

    def __init__(self, message: str, pause_s: float | None = None) -> None:
        super().__init__(message)
        self.pause_s = pause_s


def _body(request: Request) -> bytes:
    return json.dumps(
        {"image": base64_png(request.image()), "expression": request.expression}
    ).encode()


async def _read(response: httpx2.Response) -> bytes:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ToolError("the reply is compressed, expected it as it is")
    content = bytearray()
    async for part in response.aiter_raw():
        content += part
        if len(content) > MAX_REPLY:
            raise ToolError(f"the reply is larger than {MAX_REPLY // 1_000_000} MB")
    return bytes(content)


def _detections(content: bytes, sample: Sample) -> tuple[Detection | None, ...]:
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        start = reason(content[:60].decode(errors="replace"))
        raise ToolError(f"the reply is no JSON; it begins: {start}") from None
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


def _key() -> str | None:
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{KEY} holds characters that no key has; set it again")
    return key or None


def _without_key(text: str) -> str:
    """For servers that quote a key which they refuse."""
    key = _key()
    return text.replace(key, "***") if key else text
