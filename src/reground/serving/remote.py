"""A model behind an OpenAI-compatible server: prompt, frames and reader are ours."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from reground.api import Grounding, GroundingRequest, Way, question_of
from reground.data.images import data_url
from reground.data.media import is_address
from reground.errors import ConfigError
from reground.grounding.answers import Answer, Status
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import ImageRef, Sample
from reground.protocols.protocol import AnswerProtocol
from reground.serving.batching import Answered, Listener, QueueFullError
from reground.serving.guard import Refused

if TYPE_CHECKING:
    from reground.evaluation.predicting.remote import RemoteModel
    from reground.serving.chat_messages import ChatRequest

AT_ONCE = 32  # questions that the other server has
NO_IMAGE = ImageRef("", 1, 1)  # a sample has an image, and messages may have none
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RemoteStart:
    """A question about images as they are sent, or ``messages`` that are passed on as they are."""

    sample: Sample
    images: Sequence[Image.Image]
    sizes: tuple[EncodedSize, ...]
    messages: Sequence[dict[str, Any]] | None = None
    continues: bool = False
    begun: tuple[int, ...] = ()  # ids are the other server's


@dataclass(frozen=True, slots=True)
class RemoteGrounder:
    """What a ``Grounder`` is for a checkpoint, for a model behind a server."""

    model: RemoteModel

    @property
    def protocol(self) -> AnswerProtocol:
        """How it asks and reads."""
        return self.model.protocols.get(self.model.protocols.usual)

    def protocol_of(self, sample: Sample) -> AnswerProtocol:
        """How it asks about a sample, and reads what comes back."""
        return self.model.protocols.of_sample(sample)

    def start(self, request: GroundingRequest, *, id: str) -> RemoteStart:
        """A question, its tool asked; raises as :meth:`reground.api.Grounder.start`."""
        sample, images = question_of(request, id=id, protocols=self.model.protocols)
        name = self.protocol_of(sample).name
        if self.protocol_of(sample).plan.functions and not self.model.calls:
            raise ConfigError(f"{name} takes a server that was started with --protocol {name}")
        return RemoteStart(sample, *self.model.resized(images))

    def start_as_it_is(self, request: ChatRequest, images: Sequence[Image.Image]) -> RemoteStart:
        """Messages that are passed on, and their images as the other server sees them."""
        refs = tuple(ImageRef("", image.width, image.height) for image in images) or (NO_IMAGE,)
        text = next((each.text for each in reversed(request.messages) if each.role == "user"), "")
        sample = Sample("asked", refs, text, (), "chat", len(refs) - 1)
        messages = [each.model_dump(mode="json", exclude_none=True) for each in request.messages]
        _show(messages, images)
        sizes = self.model.resized(images)[1]
        return RemoteStart(sample, images, sizes, messages, request.continue_final_message)


def _show(messages: Sequence[dict[str, Any]], images: Sequence[Image.Image]) -> None:
    """Put the images in place of their addresses, which the other server would fetch unguarded."""
    at_hand = iter(images)
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part["type"] == "image_url":
                image, shown = next(at_hand), part["image_url"]
                shown["url"] = data_url(image) if is_address(shown["url"]) else shown["url"]


class RemoteThread:
    """Asks the other server, ``AT_ONCE`` questions at a time; as ``ModelThread`` does otherwise."""

    def __init__(self, grounder: RemoteGrounder, *, most_waiting: int) -> None:
        from reground.rollout.endpoint import Client

        self._model, self._most = grounder.model, most_waiting
        self._coming: set[Future[Answered]] = set()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote", daemon=True)
        self._thread.start()
        self._places = asyncio.Semaphore(AT_ONCE)
        self._client = Client(self._model.endpoint)

    def check(self) -> None:
        """Raise ``EndpointError`` where the server cannot be asked for the model."""
        self._run(self._client.check()).result()
        if self._model.calls:
            self._run(self._client.check_goes_on()).result()

    @property
    def waiting(self) -> int:
        """How many questions wait to be sent."""
        return max(0, len(self._coming) - AT_ONCE)

    @property
    def is_open(self) -> bool:
        """Whether questions are taken."""
        return not self._closed and self._thread.is_alive()

    def expecting(self) -> AbstractContextManager[None]:
        """Nothing waits for questions on their way: each is sent by itself."""
        return nullcontext()

    def submit(
        self, start: RemoteStart, way: Way, *, key: int = 0, listener: Listener | None = None
    ) -> Future[Answered]:
        """The answer to come, of which ``listener`` hears the text; raises ``QueueFullError``."""
        if self.waiting >= self._most:
            raise QueueFullError(self.waiting, 1 + self.waiting // AT_ONCE)
        coming = self._run(self._answered(start, way, key, listener, time.monotonic()))
        self._coming.add(coming)
        coming.add_done_callback(self._coming.discard)
        return coming

    def close(self) -> None:
        """Wait for what was asked, then end."""
        self._closed = True
        while self._coming:
            time.sleep(0.01)
        self._run(self._client.aclose()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _answered(
        self, start: RemoteStart, way: Way, key: int, heard: Listener | None, since: float
    ) -> Answered:
        from reground.rollout.http import NoReply

        async with self._places:
            begin = time.monotonic()
            try:
                ask = self._asked if start.messages is None else self._passed_on
                grounding = await ask(start, way, key, heard)
            except NoReply as error:
                raise Refused(502, f"the model's server gave no answer: {error}") from None
        return Answered(grounding, begin - since, time.monotonic() - begin, 1)

    async def _asked(
        self, start: RemoteStart, way: Way, key: int, heard: Listener | None
    ) -> Grounding:
        """A question under its protocol."""
        model = replace(self._model, temperature=way.temperature, max_tokens=way.max_tokens)
        asked = (self._client, start.sample, start.images, start.sizes)
        (draw,) = await model.drawn(*asked, heard)
        found = self._read(start, draw.text, draw.num_tokens or 0, draw.finish == "length")
        found = replace(found, scores=draw.scores)
        think = found.answer.think
        if not way.first or think is None or found.answer.tool_call is None:
            return found
        protocol = model.protocols.of_sample(start.sample)
        begun = protocol.first_answer(think)
        reply = await model.asker(*asked)(max_tokens=way.max_tokens, so_far=begun)
        early = self._read(start, begun + reply.text, 0, False)
        scores = protocol.scores((begun, *reply.pieces), (0.0, *reply.logprobs))
        return found.with_first(replace(early, scores=scores))

    async def _passed_on(
        self, start: RemoteStart, way: Way, key: int, heard: Listener | None
    ) -> Grounding:
        """Somebody's messages, as they are."""
        options: dict[str, Any] = {"temperature": way.temperature, "max_tokens": way.max_tokens}
        if way.temperature:
            options |= {"top_p": way.top_p, "seed": key}
        if way.stop:
            options |= {"stop": list(way.stop)}
        if start.continues:
            options |= {"continue_final_message": True, "add_generation_prompt": False}
        reply = await self._client.pass_on(start.messages or (), options, heard=heard)
        found = self._read(start, reply.text, reply.num_tokens or 0, reply.finish == "length")
        return replace(found, num_read=reply.num_prompt_tokens or 0)

    def _read(self, start: RemoteStart, text: str, num_tokens: int, is_cut: bool) -> Grounding:
        sample, answer = start.sample, Answer(Status.NO_ANSWER)
        if start.sizes:
            protocol = self._model.protocols.of_sample(sample)
            answer = protocol.read(text, start.sizes[sample.target_image])
            named = answer.image_index
            if named is not None and 0 <= named < len(start.sizes):
                sample = replace(sample, target_image=named)
                answer = protocol.read(text, start.sizes[named])
        return Grounding(answer, text, sample, num_tokens=num_tokens, is_cut=is_cut)
