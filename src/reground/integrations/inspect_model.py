"""Our models in Inspect: ``--model reground/tiny``, or ``reground/runs/photos``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo
from PIL import Image

from reground.errors import DataError

MAX_TOKENS = 256
LARGEST = 64  # questions that are answered together


class GroundingModel(ModelAPI):
    """A checkpoint of ours; ``-M`` takes device, dtype, engine, min_pixels and max_pixels.

    Messages are taken as one turn: images in order, then all texts. Questions that come while the
    model answers others are answered together.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        from reground.integrations.chatting import ChatModel  # torch

        self.path = model_name
        self._model = ChatModel.load(model_name, **model_args)
        self._waiting: list[tuple[Any, Any, asyncio.Future[Any]]] = []
        self._lock = asyncio.Lock()

    def max_connections(self) -> int:
        """As many as are answered together."""
        return LARGEST

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """One answer; raises ``DataError`` for what is no turn of texts and images."""
        from reground.integrations.chatting import Turn
        from reground.rollout.policy import Sampling

        if tools:
            raise DataError("a reground model calls no tools; evaluate it on tasks without them")
        sampling = Sampling(
            temperature=config.temperature or 0.0,
            top_p=1.0 if config.top_p is None else config.top_p,
            max_tokens=config.max_tokens or MAX_TOKENS,
            stop=tuple(config.stop_seqs or ()),
        )
        said = await self._said(Turn.of(_parts(input)), (sampling, config.seed or 0))
        output = ModelOutput.from_content(
            self.model_name, said.text, "max_tokens" if said.finish == "length" else "stop"
        )
        output.usage = ModelUsage(
            input_tokens=said.num_read,
            output_tokens=said.num_tokens,
            total_tokens=said.num_read + said.num_tokens,
        )
        return output

    async def _said(self, turn: Any, how: Any) -> Any:
        own: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, how, own))
        async with self._lock:
            if not own.done():
                await self._answer(how)
        return await own

    async def _answer(self, how: Any) -> None:
        """Answer what waits and is sampled alike."""
        batch = [each for each in self._waiting if each[1] == how][:LARGEST]
        self._waiting = [each for each in self._waiting if each not in batch]
        sampling, seed = how
        turns = [turn for turn, _, _ in batch]
        keys = [seed + place for place in range(len(batch))]
        try:
            found = await asyncio.to_thread(self._model.answer, turns, sampling, keys=keys)
        except Exception as error:
            for _, _, future in batch:
                future.set_exception(error)
            return
        for (_, _, future), said in zip(batch, found, strict=True):
            future.set_result(said)


@modelapi(name="reground")
def reground() -> type[ModelAPI]:
    """The models' provider."""
    return GroundingModel


def _parts(messages: Sequence[ChatMessage]) -> Iterator[str | Image.Image]:
    from reground.integrations.chatting import picture

    for message in messages:
        if message.role not in ("system", "user"):
            raise DataError(f"a message of the {message.role}; expected one turn of the user")
        if isinstance(message.content, str):
            yield message.content
            continue
        for part in message.content:
            if part.type == "text":
                yield part.text
            elif part.type == "image":
                yield picture(part.image)
            else:
                raise DataError(f"a part of type {part.type}; expected text or image")
