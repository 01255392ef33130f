"""A model that answers over HTTP: what decodes a question, and waits for its answer."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fastapi import Request
from PIL import Image
from starlette.concurrency import run_in_threadpool

from reground.api import Grounder, GroundingRequest
from reground.data.images import decoded
from reground.data.media import MediaHosts
from reground.errors import DataError
from reground.grounding.sample import Sample
from reground.serving.batching import Answered, ModelThread
from reground.serving.counts import ServerCounts
from reground.serving.guard import Refused
from reground.serving.messages import GroundRequest, GroundResponse, response_of

if TYPE_CHECKING:
    from reground.rollout.environment import Start

LOOK_S = 0.05  # between two looks whether a client is still there
AT_ONCE = 4  # questions whose images are decoded at a time
MOST_PIXELS = 50_000_000  # of a question's images; a bomb of 80 million fits in a small file
_DATA_URL = re.compile(r"data:[-\w.+/]*+(?:;[-\w.+=]*+)*?;base64,", re.ASCII)


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
    media: MediaHosts = field(default_factory=MediaHosts)
    counts: ServerCounts = field(default_factory=ServerCounts)
    _decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def ground(self, request: GroundRequest, http: Request) -> GroundResponse:
        """The answer; raises ``UserError`` for a question that cannot be asked."""

        fetched = await self.media.fetched(request.images)

        def asked() -> GroundingRequest:
            return GroundingRequest(
                images=_decoded(request.images, fetched),
                text=request.text,
                target_image=request.target_image,
                tool=self.tool if request.tool_boxes is None else request.tool_boxes,
                protocol=request.protocol,
            )

        sample, answered = await self.ask(asked, http, request.max_tokens)
        return response_of(
            answered,
            sizes=[(image.width, image.height) for image in sample.images],
            protocol=self.grounder.prompter.protocol(sample).name,
            model=self.model,
        )

    async def ask(
        self, make: Callable[[], GroundingRequest], http: Request, max_tokens: int | None = None
    ) -> tuple[Sample, Answered]:
        """What a question became, and its answer; ``make`` decodes its images, in another thread.

        Raises ``UserError`` for a question that cannot be asked, ``Refused`` for want of an answer.
        """
        async with self._decoding:
            start = await run_in_threadpool(lambda: self._start(make()))
        most = min(max_tokens or self.limits.max_tokens, self.limits.max_tokens)
        answered = await self._answered(self.thread.submit(start, max_tokens=most), http)
        self.counts.answered(answered)
        return start.sample, answered

    def _start(self, asked: GroundingRequest) -> Start:
        hides = asked.protocol is None and not self.grounder.protocol.shows_tool
        if asked.tool is not None and hides:
            asked = replace(asked, protocol="piter")
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


def _decoded(urls: Sequence[str], fetched: Mapping[str, bytes]) -> list[Image.Image]:
    """The images of data URLs, and of addresses that were ``fetched``."""
    images: list[Image.Image] = []
    left = MOST_PIXELS
    for number, url in enumerate(urls):
        name = f"image {number}"
        data = fetched[url] if url in fetched else inline(url, name)
        images.append(decoded(data, name, most=left))
        left -= images[-1].width * images[-1].height
    return images


def inline(url: str, name: str) -> bytes:
    """What a data URL holds; raises ``DataError`` for any other URL."""
    found = _DATA_URL.match(url)
    if not found:
        raise DataError(f"{name}: expected a data URL, data:image/png;base64,...")
    return unpacked(url[found.end() :], name)


def unpacked(text: str, name: str) -> bytes:
    """The bytes of base64; raises ``DataError`` for anything else."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{name}: not base64; expected the bytes of an image in base64") from None
