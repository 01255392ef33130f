"""A model behind an OpenAI-compatible server answers samples."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from PIL import Image

from reground.errors import ConfigError, DataError, EndpointError
from reground.evaluation.predicting.question import Add, Question, images_of
from reground.evaluation.predicting.rethink import Ask, think_rethink
from reground.evaluation.records import Draw, Prediction, to_keep
from reground.grounding.boxes import FrameKind
from reground.grounding.codecs import EncodedSize, Form, PixelLimits
from reground.grounding.sample import Sample
from reground.patience import Patience
from reground.protocols.calls import Function
from reground.protocols.choice import Protocols
from reground.protocols.protocol import AnswerProtocol
from reground.protocols.wording import text_of
from reground.rollout.chunks import HeardText
from reground.rollout.completions import Reply
from reground.rollout.endpoint import Client, Endpoint, without_marks
from reground.rollout.http import NoReply

if TYPE_CHECKING:
    from reground.model.load import Resizer


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """An endpoint and how it is asked.

    Images are sent as ``resizer`` makes them, which is then the size that the server encodes;
    without one as they are, which only serves families whose frame does not know that size.
    """

    endpoint: Endpoint
    protocols: Protocols
    calls: bool  # whether some protocol has more than one turn
    resizer: Resizer | None
    max_tokens: int
    draws: int = 1
    temperature: float = 0.0
    blank: bool = False
    weights: None = None  # a server does not tell

    @classmethod
    def of(
        cls, question: Question, protocols: Protocols, used: Sequence[AnswerProtocol]
    ) -> RemoteModel:
        """As the question says, with the protocols that its samples use.

        Raises ``ConfigError`` where it says too little, or asks for what no chat server can do.
        """
        for protocol in used:
            _check_can(protocol)
        family = protocols.family
        if family.codec.frame is FrameKind.INPUT and question.processor is None:
            raise ConfigError(
                f"family {family.name} answers in pixels of the image as it was encoded; say whose "
                "processor encodes it: --processor with a checkpoint's folder or hub id",
                help="a-server-that-does-not-answer",
            )
        if question.endpoint is None:
            raise ConfigError("no server to ask; give --endpoint")
        return cls(
            question.endpoint,
            protocols,
            any(protocol.plan.functions for protocol in used),
            _resizer(question.processor, question) if question.processor else None,
            question.max_tokens,
            question.draws,
            question.temperature,
            question.blank,
        )

    @property
    def pixel_limits(self) -> tuple[int, int] | None:
        """The fewest and most pixels that an image is sent at, where there are limits."""
        return self.resizer.limits if self.resizer else None

    @property
    def place(self) -> Mapping[str, str]:
        """Nothing: a server does not tell."""
        return {}

    def answer(
        self, samples: Sequence[Sample], *, add: Add, left: Collection[str] | None = None
    ) -> None:
        """Answers, several questions at a time, each handed on as it comes.

        A question without a reply becomes a prediction with the reason; after many of them in a
        row, raises ``EndpointError``.
        """
        asyncio.run(
            self._answer_all((each for each in samples if left is None or each.id in left), add)
        )

    async def _answer_all(self, samples: Iterator[Sample], add: Add) -> None:
        patience = Patience("questions", "the endpoint", EndpointError)
        async with aclosing(Client(self.endpoint)) as client:
            await client.check()
            if self.calls:
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
            first, *others = await self.drawn(client, sample, images, sizes)
        except (DataError, NoReply) as error:
            return Prediction(sample, error=str(error))
        return Prediction(
            sample,
            first.text,
            sizes,
            first.num_tokens,
            first.finish,
            others=tuple(others),
            scores=first.scores,
        )

    async def drawn(
        self,
        client: Client,
        sample: Sample,
        images: Sequence[Image.Image],
        sizes: tuple[EncodedSize, ...],
        heard: HeardText | None = None,
    ) -> list[Draw]:
        """The answers to a sample with ``images`` as they are sent; raises ``NoReply``.

        ``heard`` is told the whole text of one draw as it grows.
        """
        protocol = self.protocols.of_sample(sample)
        ask = self.asker(client, sample, images, sizes, heard)
        return [
            await think_rethink(ask, sample, sizes, protocol=protocol, max_tokens=self.max_tokens)
            if protocol.plan.functions
            else _draw(await ask(max_tokens=self.max_tokens), protocol)
            for _ in range(self.draws)
        ]

    def asker(
        self,
        client: Client,
        sample: Sample,
        images: Sequence[Image.Image],
        sizes: tuple[EncodedSize, ...],
        heard: HeardText | None = None,
    ) -> Ask:
        """Asks about the sample, in one part or several."""
        protocol = self.protocols.of_sample(sample)
        text = text_of(protocol.user_turn(plain(sample), sizes))
        thinks = protocol.form is not Form.DIRECT
        return partial(
            client.ask, images, text, temperature=self.temperature, thinks=thinks, heard=heard
        )

    def _images(self, sample: Sample) -> tuple[list[Image.Image], tuple[EncodedSize, ...]]:
        return self.resized(images_of(sample, blank=self.blank))

    def resized(
        self, shown: Sequence[Image.Image]
    ) -> tuple[list[Image.Image], tuple[EncodedSize, ...]]:
        """The images to send, and their sizes before and after."""
        sent = [self.resizer(image) if self.resizer else image for image in shown]
        sizes = [EncodedSize(*old.size, *new.size) for old, new in zip(shown, sent, strict=True)]
        return sent, tuple(sizes)


def _draw(reply: Reply, protocol: AnswerProtocol) -> Draw:
    scores = protocol.scores(reply.pieces, reply.logprobs)
    return Draw(reply.text, reply.num_tokens, reply.finish, to_keep(scores))


def plain(sample: Sample) -> Sample:
    """The sample with a question in which a server sees no marks; spans stay around their words."""
    edges = sorted({0, len(sample.question), *(e for s in sample.spans for e in (s.start, s.end))})
    pieces = [without_marks(sample.question[a:b]) for a, b in pairwise(edges)]
    places = dict(zip(edges, accumulate(map(len, pieces), initial=0), strict=True))
    spans = [replace(s, start=places[s.start], end=places[s.end]) for s in sample.spans]
    return replace(sample, question="".join(pieces), spans=tuple(spans))


def _check_can(protocol: AnswerProtocol) -> None:
    """Raise ``ConfigError`` for a plan that a chat server cannot follow."""
    cannot = None
    if Function.ZOOM in protocol.plan.functions:
        cannot = "put a part of an image into an answer (zoom)"
    elif protocol.plan.max_calls > 1:
        cannot = f"answer {protocol.plan.max_calls} calls, only one"
    if cannot:
        raise ConfigError(
            f"the checkpoint was trained to call under {protocol.name}, and behind a chat server "
            f"nobody can {cannot}; evaluate it in process: --model FOLDER without --endpoint"
        )


def _resizer(path: str, question: Question) -> Resizer:
    """Resizes within the limits of the question and of the server, whose own would come after.

    Raises ``ConfigError`` where asked for others than the server's.
    """
    from reground.model.load import Resizer  # torch

    servers = Resizer.of(path)
    fewest, most = servers.limits
    for flag, limit in (
        ("--min-pixels", question.min_pixels),
        ("--max-pixels", question.max_pixels),
    ):
        if limit is not None and not fewest <= limit <= most:
            raise ConfigError(
                f"{flag} {limit}: the server shows images of {fewest} to {most} pixels, as "
                f"{path} says, and would resize them again; expected a number between",
                help="limits-of-pixels",
            )
    limits = question.limits(any_size=servers.adapter.any_size)
    within = PixelLimits(max(fewest, limits.fewest or fewest), min(most, limits.most or most))
    return Resizer.of(path, limits=within)
