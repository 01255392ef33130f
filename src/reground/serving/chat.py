"""``POST /v1/chat/completions``: the model as programs that speak OpenAI's protocol use it.

Whoever names a model as it is served writes its prompt: the messages reach it as they are, as
``reground eval --endpoint`` and other harnesses need it. Whoever names MODEL:PROTOCOL sends images
and a phrase, and the server writes that protocol's prompt, answers its calls and reads the answer.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from fastapi import FastAPI, Request
from fastapi.responses import Response
from PIL import Image

from reground.api import GroundingRequest, Way
from reground.errors import DataError
from reground.grounding.names import ProtocolName
from reground.grounding.sample import ImageRef, Sample
from reground.serving.batching import Answered
from reground.serving.chat_messages import ChatRequest, TextPart
from reground.serving.guard import Refused, error_body
from reground.serving.messages import MOST_IMAGES
from reground.serving.remote import NO_IMAGE, RemoteGrounder, RemoteStart
from reground.serving.service import Asking, ServedModel, Service, pictures, started
from reground.serving.streaming import Pieces, event, event_stream

if TYPE_CHECKING:
    from reground.api import Grounder
    from reground.rollout.environment import Start
    from reground.rollout.tools.runner import ToolRunner

PATH = "/v1/chat/completions"


def chat_routes(app: FastAPI, service: Service) -> None:
    """Add the route."""

    @app.post(PATH, summary="OpenAI's chat completions", response_model=dict[str, Any])
    async def complete(request: ChatRequest, http: Request) -> dict[str, Any] | Response:
        completion = await _begun(service, request)
        if not request.stream:
            answered = await service.answered(completion.asking, http)
            return completion.whole(answered, service)
        events = _events(completion, service, http)
        return await event_stream(events, failed=_failed)


@dataclass(slots=True)
class _Completion:
    """A completion on its way: who is asked for what, and how much of its text was there before."""

    request: ChatRequest
    asking: Asking
    begun: int  # letters of the answer that the client wrote
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def text(self, whole: str) -> str:
        """What the model wrote of an answer, to the first string at which it was to stop."""
        text = whole[self.begun :]
        ends = [place for stop in self.request.stops if (place := text.find(stop)) >= 0]
        if not ends or self.request.include_stop_str_in_output:
            return text
        return text[: min(ends)]

    def whole(self, answered: Answered, service: Service) -> dict[str, Any]:
        """The response that is sent at once."""
        message = {"role": "assistant", "content": self.text(answered.grounding.text)}
        choice = {
            "index": 0,
            "message": message | {"refusal": None},
            "logprobs": None,
            "finish_reason": _finish(answered),
        }
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": self.usage(answered),
            "grounding": self.grounding(answered, service),
        }

    def chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        """An event of the response that is streamed."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event(self._head("chat.completion.chunk") | {"choices": [choice]} | more)

    def usage(self, answered: Answered) -> dict[str, int]:
        """How many tokens were read and sampled."""
        read, sampled = answered.grounding.num_read, answered.grounding.num_tokens
        return {
            "prompt_tokens": read,
            "completion_tokens": sampled,
            "total_tokens": read + sampled,
        }

    def grounding(self, answered: Answered, service: Service) -> dict[str, Any] | None:
        """What the answer says, as ``/v1/ground`` tells it; None where there was no image."""
        if self.asking.start.sample.images[0] is NO_IMAGE:
            return None
        found = service.response(self.asking, answered)
        return found.model_dump(mode="json", exclude={"text", "model"})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.request.model,
        }


async def _begun(service: Service, request: ChatRequest) -> _Completion:
    """Put a request into the queue; raises as :meth:`Service.begin`."""
    model, protocol = _named(service, request.model)
    way = Way(
        max_tokens=service.way(request.most).max_tokens,
        temperature=request.temperature,
        top_p=request.top_p if request.temperature else 1.0,
        stop=None if protocol else request.stops,
    )

    urls = [url for each in request.messages for url in each.urls]
    if len(urls) > MOST_IMAGES:
        raise DataError(f"found {len(urls)} images, expected at most {MOST_IMAGES}")
    fetched = await service.media.fetched(urls)

    def start() -> Start | RemoteStart:
        images = pictures(urls, fetched)
        if protocol:
            return started(model.grounder, _question(request, protocol, images, service.tool))
        if isinstance(model.grounder, RemoteGrounder):
            return model.grounder.start_as_it_is(request, images)
        return _as_it_is(model.grounder, request, images)

    key = secrets.randbits(56) if request.seed is None else request.seed % 2**56
    asking = await service.begin(start, model, way, key=key, hears=request.stream)
    return _Completion(request, asking, len(asking.text) if asking.start.begun else 0)


def _named(service: Service, name: str) -> tuple[ServedModel, ProtocolName | None]:
    """The model of NAME or NAME:PROTOCOL; raises ``Refused`` for an unknown one."""
    before, _, last = name.rpartition(":")
    for protocol in get_args(ProtocolName):
        if last == protocol and before in (each.name for each in service.models):
            return service.named(before), protocol
    return service.named(name), None


def _question(
    request: ChatRequest,
    protocol: ProtocolName,
    images: Sequence[Image.Image],
    tool: ToolRunner | None,
) -> GroundingRequest:
    """What one message asks; the prompt around it is the server's."""
    if len(request.messages) != 1 or request.messages[0].role != "user":
        raise DataError(
            f"found {len(request.messages)} messages, expected one of the user, with images and "
            f"a phrase: the server writes the prompt of {protocol} itself; name the model without "
            "it to write your own"
        )
    if request.stops:
        raise DataError("found stop, which protocols have of their own; leave it out")
    (message,) = request.messages
    if not message.urls:
        raise DataError("found a message without an image; expected an image_url")
    return GroundingRequest(images=images, text=message.text, tool=tool, protocol=protocol)


def _as_it_is(grounder: Grounder, request: ChatRequest, images: Sequence[Image.Image]) -> Start:
    """The messages as a prompt, the last of the assistant's as the begin of the answer."""
    from reground.model.chat import Message
    from reground.rollout.environment import Start

    chat, so_far = grounder.prompter.checkpoint.chat, request.so_far
    asked = request.messages if so_far is None else request.messages[:-1]
    encoded = iter(chat.encode_images(images))
    messages = [
        Message(
            "system" if each.role == "developer" else each.role,
            [part.text if isinstance(part, TextPart) else next(encoded) for part in each.parts],
        )
        for each in asked
    ]
    prompt = chat.conversation(messages)
    begun = tuple(chat.encode_answer((so_far or "").removeprefix(chat.opening)))
    _check_length(len(prompt.ids) + len(begun), grounder.prompter.checkpoint.context)
    refs = tuple(ImageRef("", image.width, image.height) for image in images)
    text = next((each.text for each in reversed(asked) if each.role == "user"), "")
    sample = Sample("asked", refs or (NO_IMAGE,), text, (), "chat", max(len(refs) - 1, 0))
    return Start(sample, prompt, begun)


def _check_length(length: int, context: int) -> None:
    if length >= context:
        raise DataError(
            f"found messages of {length} tokens, and the model's context holds {context} with the "
            "answer; shorten them, or show fewer or smaller images"
        )


async def _events(
    completion: _Completion, service: Service, http: Request
) -> AsyncGenerator[str, None]:
    """The chunks of a response; raises as :meth:`Service.answered`."""
    request, asking = completion.request, completion.asking
    uses = request.stream_options is not None and request.stream_options.include_usage
    unknown: dict[str, Any] = {"usage": None} if uses else {}
    pieces = Pieces(request.stops)
    delta = {"role": "assistant", "content": ""}
    async for piece in service.pieces(asking, http, pieces, completion.text):
        yield completion.chunk(delta | {"content": piece}, **unknown)
        delta = {}
    answered = await service.answered(asking, http)
    rest = pieces.more(completion.text(answered.grounding.text), is_whole=True)
    if rest or delta:
        yield completion.chunk(delta | {"content": rest}, **unknown)
    found = completion.grounding(answered, service)
    yield completion.chunk({}, _finish(answered), grounding=found, **unknown)
    if uses:
        head = completion._head("chat.completion.chunk")
        yield event(head | {"choices": [], "usage": completion.usage(answered)})
    yield event("[DONE]")


def _failed(error: Exception) -> str:
    status = error.status if isinstance(error, Refused) else 400
    return event(error_body(PATH, status, str(error)))


def _finish(answered: Answered) -> str:
    return "length" if answered.grounding.is_cut else "stop"
