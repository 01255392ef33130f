"""Models that answer over HTTP: what decodes a question, and waits for its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastapi import Request
from PIL import Image
from starlette.concurrency import run_in_threadpool

from reground.api import Grounder, GroundingRequest, Way
from reground.data.images import decoded, inline
from reground.data.media import MediaHosts
from reground.grounding.sample import Sample
from reground.serving.batching import Answered, AnswerThread
from reground.serving.counts import ServerCounts
from reground.serving.guard import Refused
from reground.serving.messages import GroundRequest, GroundResponse, response_of
from reground.serving.remote import RemoteGrounder, RemoteStart
from reground.serving.request_log import RequestLog
from reground.serving.streaming import Pieces, event

if TYPE_CHECKING:
    from reground.rollout.environment import Start
    from reground.rollout.tools.runner import ToolRunner

AT_ONCE = 4  # questions whose images are decoded at a time
MOST_PIXELS = 50_000_000  # of a question's images; a bomb of 80 million fits in a small file


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is taken at a time: questions that wait, tokens and seconds of an answer."""

    most_waiting: int = 256
    max_tokens: int = 256
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model under the name by which requests ask for it, and the thread that it answers in."""

    name: str
    grounder: Grounder | RemoteGrounder
    thread: AnswerThread


@dataclass(slots=True)
class Asking:
    """A question on its way: its answer so far, as ids or as a text, and the answer to come."""

    model: ServedModel
    start: Start | RemoteStart
    future: asyncio.Future[Answered] = field(init=False)
    so_far: tuple[int, ...] | str = ()
    min_score: float | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, so_far: tuple[int, ...] | str) -> None:
        """Take what was sampled so far."""
        self.so_far = so_far
        self.news.set()

    @property
    def text(self) -> str:
        """All of the answer so far, once it is sure how it begins (:meth:`Prompter.text`)."""
        if isinstance(self.so_far, str):
            return self.so_far
        if isinstance(self.model.grounder, RemoteGrounder):
            return ""
        prompter = self.model.grounder.prompter
        text = prompter.text((*self.start.begun, *self.so_far))
        opening = prompter.checkpoint.chat.opening
        is_open = opening and "<think>".startswith(text.removeprefix(opening).lstrip())
        return "" if is_open else text


@dataclass(slots=True)
class Service:
    """Models, and what asks them; the first is asked where a request names none."""

    models: Sequence[ServedModel]
    limits: Limits
    tool: ToolRunner | None = None
    log: RequestLog | None = None
    media: MediaHosts = field(default_factory=MediaHosts)
    counts: ServerCounts = field(default_factory=ServerCounts)
    _decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    @property
    def is_open(self) -> bool:
        """Whether every model takes questions."""
        return all(each.thread.is_open for each in self.models)

    @property
    def waiting(self) -> int:
        """How many questions wait."""
        return sum(each.thread.waiting for each in self.models)

    def close(self) -> None:
        """Answer what waits, then end."""
        for each in self.models:
            each.thread.close()

    def named(self, name: str | None) -> ServedModel:
        """The model of that name, the first for None; raises ``Refused`` for an unknown name."""
        for each in self.models:
            if name in (None, each.name):
                return each
        known = ", ".join(each.name for each in self.models)
        raise Refused(404, f"found the model {(name or '')[:100]!r}, expected one of: {known}")

    async def ground(self, request: GroundRequest, http: Request) -> GroundResponse:
        """The answer; raises ``UserError`` for a question that cannot be asked."""
        asking = await self.begin_ground(request)
        return self.response(asking, await self.answered(asking, http))

    async def begin_ground(self, request: GroundRequest, *, hears: bool = False) -> Asking:
        """A question on its way; raises as :meth:`ground`."""
        model = self.named(request.model)
        fetched = await self.media.fetched(request.images)

        def start() -> Start | RemoteStart:
            images = pictures(request.images, fetched)
            tool = self.tool if request.tool_boxes is None else request.tool_boxes
            asked = GroundingRequest(
                images=images,
                text=request.text,
                target_image=request.target_image,
                tool=tool,
                protocol=request.protocol,
            )
            return started(model.grounder, asked)

        way = replace(self.way(request.max_tokens), first=request.first)
        asking = await self.begin(start, model, way, hears=hears)
        asking.min_score = request.min_score
        return asking

    def response(self, asking: Asking, answered: Answered) -> GroundResponse:
        """An answer as it is sent."""
        sample = asking.start.sample
        found = answered.grounding.at_least(asking.min_score)
        return response_of(
            replace(answered, grounding=found),
            sizes=[(image.width, image.height) for image in sample.images],
            protocol=asking.model.grounder.protocol_of(sample).name,
            model=asking.model.name,
        )

    async def ask(
        self,
        make: Callable[[], GroundingRequest],
        http: Request,
        *,
        model: ServedModel,
        max_tokens: int | None = None,
    ) -> tuple[Sample, Answered]:
        """What a question became, and its answer; ``make`` decodes its images, in another thread.

        Raises ``UserError`` for a question that cannot be asked, ``Refused`` for want of an answer.
        """
        way = self.way(max_tokens)
        asking = await self.begin(lambda: started(model.grounder, make()), model, way)
        return asking.start.sample, await self.answered(asking, http)

    def way(self, max_tokens: int | None = None) -> Way:
        """Greedy answers of so many tokens, within the server's limit."""
        return Way(max_tokens=min(max_tokens or self.limits.max_tokens, self.limits.max_tokens))

    async def begin(
        self,
        start: Callable[[], Start | RemoteStart],
        model: ServedModel,
        way: Way,
        *,
        key: int = 0,
        hears: bool = False,
    ) -> Asking:
        """Put a question, which ``start`` makes in another thread, into the model's queue.

        Raises as ``start`` does, and ``QueueFullError``. ``hears`` is whether to hear it so far.
        """
        loop = asyncio.get_running_loop()

        def listener(so_far: tuple[int, ...] | str) -> None:
            loop.call_soon_threadsafe(asking.hear, so_far)

        with model.thread.expecting():
            async with self._decoding:
                asking = Asking(model, await run_in_threadpool(start))
            coming = model.thread.submit(
                asking.start, way, key=key, listener=listener if hears else None
            )
        asking.future = asyncio.wrap_future(coming)
        asking.future.add_done_callback(lambda _: asking.news.set())
        return asking

    async def answered(self, asking: Asking, http: Request) -> Answered:
        """The answer, while the client waits for it and in time; raises ``Refused``."""
        async with aclosing(self.heard(asking, http)) as heard:
            async for _ in heard:
                pass
        error = asking.future.exception()
        if isinstance(error, Refused):
            raise error
        if isinstance(error, Exception):
            raise Refused(503, f"the model failed: {type(error).__name__}") from error
        answered = asking.future.result()
        self.counts.answered(answered)
        if self.log:
            self.log.add(self._record(asking, answered))
        return answered

    def _record(self, asking: Asking, answered: Answered) -> dict[str, Any]:
        """An answer as it is kept, without the pixels of its images."""
        said = self.response(asking, answered).model_dump(mode="json")
        sample = asking.start.sample
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "asked": sample.question,
            "images": [[image.width, image.height] for image in sample.images],
            "target_image": sample.target_image,
            **said,
        }

    async def pieces(
        self, asking: Asking, http: Request, pieces: Pieces, own: Callable[[str], str] = str
    ) -> AsyncGenerator[str, None]:
        """The text of an answer in pieces until the answer is there; raises as :meth:`heard`.

        ``own`` is what of the text is sent.
        """
        async with aclosing(self.heard(asking, http)) as heard:
            async for text in heard:
                if piece := pieces.more(own(text)):
                    yield piece

    async def ground_events(
        self, request: GroundRequest, http: Request
    ) -> AsyncGenerator[str, None]:
        """The text as it comes, then the answer, as events; raises as :meth:`ground`."""
        asking, pieces = await self.begin_ground(request, hears=True), Pieces()
        async for piece in self.pieces(asking, http, pieces):
            yield event({"text": piece}, "text")
        answered = await self.answered(asking, http)
        if piece := pieces.more(answered.grounding.text, True):
            yield event({"text": piece}, "text")
        yield event(self.response(asking, answered).model_dump_json(), "answer")

    async def heard(self, asking: Asking, http: Request) -> AsyncGenerator[str, None]:
        """The text so far, again and again until the answer is there.

        Raises ``Refused`` where the client has gone or the time is over; whoever stops to listen
        lets the model stop, too.
        """
        until = time.monotonic() + self.limits.timeout_s
        gone = asyncio.create_task(_gone(http))
        gone.add_done_callback(lambda _: asking.news.set())
        try:
            while not asking.future.done():
                with suppress(TimeoutError):
                    await asyncio.wait_for(asking.news.wait(), until - time.monotonic())
                if asking.future.done():
                    return
                if gone.done():
                    raise Refused(499, "the client has gone")
                if not asking.news.is_set() or time.monotonic() > until:
                    raise Refused(504, f"no answer within {self.limits.timeout_s:g} s")
                asking.news.clear()
                if asking.so_far:
                    yield asking.text
        finally:
            gone.cancel()
            asking.future.cancel()


async def _gone(http: Request) -> None:
    """Return once the client of a request, whose body was read, has gone."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


def started(grounder: Grounder | RemoteGrounder, asked: GroundingRequest) -> Start | RemoteStart:
    """A question as a prompt; a tool is shown under piter where the usual protocol shows none."""
    hides = asked.protocol is None and not grounder.protocol.shows_tool
    if asked.tool is not None and hides:
        asked = replace(asked, protocol="piter")
    return grounder.start(asked, id="asked")


def pictures(urls: Sequence[str], fetched: Mapping[str, bytes]) -> list[Image.Image]:
    """The images of data URLs, and of addresses that were ``fetched``; raises ``DataError``."""
    images: list[Image.Image] = []
    left = MOST_PIXELS
    for number, url in enumerate(urls):
        name = f"image {number}"
        data = fetched[url] if url in fetched else inline(url, name)
        images.append(decoded(data, name, most=left))
        left -= images[-1].width * images[-1].height
    return images
