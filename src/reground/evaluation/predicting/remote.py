"""A model behind an OpenAI-compatible server answers samples."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from reground.errors import ConfigError, DataError, EndpointError
from reground.evaluation.predicting.question import Add, Question, images_of
from reground.evaluation.predicting.rethink import think_rethink
from reground.evaluation.records import Prediction
from reground.grounding.boxes import FrameKind
from reground.grounding.families import EncodedSize, Family, Form, get_family
from reground.grounding.prompts import PromptProfile, load_profile
from reground.grounding.sample import Sample
from reground.grounding.turn import user_text
from reground.patience import Patience
from reground.rollout.endpoint import Client, Endpoint, NoReply, check_plain

if TYPE_CHECKING:
    from reground.model.pixels import Resizer


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """An endpoint and how it is asked.

    Images are sent as ``resizer`` makes them, which is then the size that the server encodes;
    without one as they are, which only serves families whose frame does not know that size.
    """

    endpoint: Endpoint
    family: Family
    profile: PromptProfile
    resizer: Resizer | None
    max_tokens: int
    blank: bool = False
    weights: None = None  # a server does not tell

    @classmethod
    def of(cls, question: Question) -> RemoteModel:
        """As the question says; raises ``ConfigError`` where it says too little."""
        if question.endpoint is None or question.family is None:
            raise ConfigError("an endpoint does not say how its model answers; give --family")
        family = get_family(question.family_for(question.family))
        if family.frame is FrameKind.INPUT and question.processor is None:
            raise ConfigError(
                f"family {family.name} answers in pixels of the image as it was encoded; say whose "
                "processor encodes it: --processor with a checkpoint's folder or hub id"
            )
        return cls(
            question.endpoint,
            family,
            load_profile(question.prompt_for(family.name) or family.prompt),
            _resizer(question.processor) if question.processor else None,
            question.max_tokens,
            question.blank,
        )

    @property
    def pixel_limits(self) -> tuple[int, int] | None:
        """The fewest and most pixels that an image is sent at, where there are limits."""
        return self.resizer.limits if self.resizer else None

    def answer(self, samples: Sequence[Sample], *, add: Add) -> None:
        """Greedy answers, several at a time, each handed on as it comes.

        A question without a reply becomes a prediction with the reason; after many of them in a
        row, raises ``EndpointError``.
        """
        asyncio.run(self._answer_all(iter(samples), add))

    async def _answer_all(self, samples: Iterator[Sample], add: Add) -> None:
        patience = Patience("questions", "the endpoint", EndpointError)
        async with aclosing(Client(self.endpoint)) as client:
            await client.check()
            if self.family.form is Form.THINK_RETHINK:
                await client.check_goes_on()

            async def work() -> None:
                for sample in samples:  # shared by all workers
                    prediction = await self._answer(client, sample)
                    add(prediction)
                    patience.note(prediction.error)

            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(self.endpoint.concurrency):
                        workers.create_task(work())
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None

    async def _answer(self, client: Client, sample: Sample) -> Prediction:
        try:
            images, sizes = await asyncio.to_thread(self._images, sample)
            text = user_text(sample, family=self.family, profile=self.profile, sizes=sizes)
            check_plain(text)
            ask = partial(client.ask, images, text, temperature=0.0)
            if self.family.form is Form.THINK_RETHINK:
                return await think_rethink(
                    ask, sample, sizes, family=self.family, max_tokens=self.max_tokens
                )
            reply = await ask(max_tokens=self.max_tokens)
        except (DataError, NoReply) as error:
            return Prediction(sample, error=str(error))
        return Prediction(sample, reply.text, sizes, reply.num_tokens, reply.finish)

    def _images(self, sample: Sample) -> tuple[list[Image.Image], tuple[EncodedSize, ...]]:
        """The images to send, and their sizes before and after."""
        shown = images_of(sample, blank=self.blank)
        sent = [self.resizer(image) if self.resizer else image for image in shown]
        sizes = [EncodedSize(*old.size, *new.size) for old, new in zip(shown, sent, strict=True)]
        return sent, tuple(sizes)


def _resizer(path: str) -> Resizer:
    from reground.model.pixels import Resizer  # torch

    return Resizer.of(path)
