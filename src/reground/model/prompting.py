"""From samples to prompts and from completions to answers, for one checkpoint.

Training, evaluation and the Python API ask and read through this one object, so that they cannot
differ in wording, frame or parser.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TypeVar

from PIL import Image

from reground.data.images import load
from reground.errors import DataError
from reground.grounding.answers import Answer
from reground.grounding.sample import Sample
from reground.model.chat import EncodedImage, Prompt
from reground.model.load import Checkpoint
from reground.protocols.calls import Function
from reground.protocols.choice import Protocols
from reground.protocols.protocol import AnswerProtocol, Piece

_TAG, _NO_THOUGHT = "<think>", "</think>\n\n"  # after the tag, as Qwen's templates write none

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prompter:
    """A checkpoint and the protocols under which it is asked, chosen sample by sample.

    Raises ``ConfigError`` where a prompt holds a special token that the checkpoint does not have.
    """

    checkpoint: Checkpoint
    protocols: Protocols

    def __post_init__(self) -> None:
        for protocol in self.protocols.made:
            for token in protocol.profile.special_tokens:
                self.checkpoint.chat.special_id(token)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Prompter:
        """Asked as the checkpoint remembers."""
        return cls(checkpoint, Protocols.of(checkpoint.answering))

    def protocol(self, sample: Sample) -> AnswerProtocol:
        """The protocol of the sample; raises ``ConfigError`` where the family does not speak it."""
        return self.protocols.of_sample(sample)

    def prompt(self, sample: Sample) -> Prompt:
        """The prompt of a sample; its images are loaded here."""
        return self.prompts([sample])[0]

    def each(self, samples: Sequence[Sample]) -> list[Prompt]:
        """A prompt for every sample, their images loaded and encoded side by side."""
        return side_by_side(self.prompt, samples)

    def prompts(
        self, samples: Sequence[Sample], *, images: Sequence[Image.Image] | None = None
    ) -> list[Prompt]:
        """The prompts of samples about the same images, which are loaded and encoded once.

        ``images`` are RGB images to be shown in place of the samples' own. Raises ``DataError`` for
        what the model's context does not hold: nothing is ever cut off a prompt.
        """
        chat, shown = self.checkpoint.chat, tuple(images or ())
        encoded = chat.encode_images(images) if images else self._encoded(samples[0])
        pictured = sum(map(chat.num_tokens, encoded))
        self._check_length(samples[0], pictured, pictured)
        sizes = [image.size for image in encoded]
        turns = [self.protocol(sample).user_turn(sample, sizes) for sample in samples]
        prompts = chat.prompts(encoded, turns)
        for sample, prompt in zip(samples, prompts, strict=True):
            self._check_length(sample, len(prompt.ids), pictured)
        looks = any(Function.ZOOM in self.protocol(each).plan.functions for each in samples)
        return [replace(prompt, shown=shown) for prompt in prompts] if looks and shown else prompts

    def _encoded(self, sample: Sample) -> tuple[EncodedImage, ...]:
        """A sample's own images, with the sizes of their files, which may be decoded at less."""
        chat = self.checkpoint.chat
        _, most = chat.adapter.limits(chat.image_processor)
        encoded = chat.encode_images([load(image, most=most) for image in sample.images])
        return tuple(
            replace(own, size=replace(own.size, width=image.width, height=image.height))
            for own, image in zip(encoded, sample.images, strict=True)
        )

    def _check_length(self, sample: Sample, length: int, pictured: int) -> None:
        context = self.checkpoint.context
        if length >= context:
            raise DataError(
                f"sample {sample.id!r}: its prompt has {length} tokens or more, {pictured} of them "
                f"for {len(sample.images)} images, and the model's context holds {context} with "
                "the answer; lower max_pixels, or show fewer images",
                help="prompts-that-are-too-long",
            )

    def gold(self, sample: Sample, prompt: Prompt) -> list[Piece]:
        """What answers the sample perfectly; see :meth:`AnswerProtocol.gold`.

        A thought that the chat template has opened is not opened again, but ended.
        """
        pieces = self.protocol(sample).gold(sample, [image.size for image in prompt.images])
        if not self.checkpoint.chat.opening:
            return pieces
        text = pieces[0].text
        rest = text.removeprefix(_TAG) if text.startswith(_TAG) else f"{_NO_THOUGHT}{text}"
        return [replace(pieces[0], text=rest), *pieces[1:]]

    def text(self, ids: Sequence[int]) -> str:
        """A completion as text, to the token that ends it, which is none of the text.

        It begins with the tag of a thought that the chat template has opened.
        """
        chat = self.checkpoint.chat
        text = chat.decode([*takewhile(lambda each: each not in chat.end_ids, ids)])
        return text if text.lstrip().startswith(_TAG) else chat.opening + text

    def read(self, ids: Sequence[int], prompt: Prompt, *, sample: Sample) -> Answer:
        """What a completion answers, its boxes in original pixels of the sample's target image."""
        size = prompt.images[sample.target_image].size
        return self.protocol(sample).read(self.text(ids), size)

    def scores(
        self, ids: Sequence[int], logprobs: Sequence[float], *, sample: Sample
    ) -> tuple[float | None, ...]:
        """How sure the model was of each box that a completion spells, in [0, 1]."""
        chat = self.checkpoint.chat
        pieces = ["" if each in chat.end_ids else chat.decode([each]) for each in ids]
        return self.protocol(sample).scores(pieces, logprobs)


def side_by_side(make: Callable[[S], T], of: Sequence[S]) -> list[T]:
    """What ``make`` makes of each, in order, in as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        return list(workers.map(make, of))
