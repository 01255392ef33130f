"""From samples to prompts and from completions to answers, for one checkpoint and its family.

Training, evaluation and the Python API ask and read through this one object, so that they cannot
differ in wording, frame or parser.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from reground.data.images import load
from reground.grounding.answers import Answer, parse
from reground.grounding.families import Family, Form, get_family
from reground.grounding.prompts import PromptProfile, load_profile
from reground.grounding.rethink import settled
from reground.grounding.sample import Sample
from reground.grounding.tool_turn import FIRST_TOOL, tool_text
from reground.grounding.turn import user_text
from reground.model.chat import Prompt
from reground.model.load import Checkpoint


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the assistant's turn: its own words, or what a tool said in between."""

    text: str
    is_own: bool


@dataclass(frozen=True, slots=True)
class Prompter:
    """Asks and reads in one family's words."""

    checkpoint: Checkpoint
    family: Family
    profile: PromptProfile

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Prompter:
        """The family and profile that the checkpoint names."""
        family = get_family(checkpoint.family)
        return cls(checkpoint, family, load_profile(checkpoint.prompt or family.prompt))

    def prompt(self, sample: Sample) -> Prompt:
        """The prompt of a sample; its images are loaded here."""
        return self.prompts([sample])[0]

    def each(self, samples: Sequence[Sample]) -> list[Prompt]:
        """A prompt for every sample, their images loaded and encoded side by side."""
        with ThreadPoolExecutor(min(len(samples), os.cpu_count() or 1)) as workers:
            return list(workers.map(self.prompt, samples))

    def prompts(
        self, samples: Sequence[Sample], *, images: Sequence[Image.Image] | None = None
    ) -> list[Prompt]:
        """The prompts of samples about the same images, which are loaded and encoded once.

        ``images`` are RGB images to be shown in place of the samples' own.
        """
        images = images or [load(image) for image in samples[0].images]
        encoded = self.checkpoint.chat.encode_images(images)
        sizes = [image.size for image in encoded]
        texts = [
            user_text(sample, family=self.family, profile=self.profile, sizes=sizes)
            for sample in samples
        ]
        return self.checkpoint.chat.prompts(encoded, texts)

    def gold(self, sample: Sample, prompt: Prompt) -> list[Piece]:
        """What answers the sample perfectly, in the frame of the encoded target image.

        Under think-rethink a sample with a detector's result calls for it and gets it. The answer
        is then the best of the detector's boxes where one is right, and else the true box.
        """
        size = prompt.images[sample.target_image].size
        asks = self.family.form is Form.THINK_RETHINK and sample.tool_results is not None
        told = (
            tool_text({FIRST_TOOL: sample.tool_results}, family=self.family, size=size)
            if asks
            else None
        )
        text = self.family.render(
            settled(sample) if asks else sample.boxes,
            size=size,
            think=sample.think,
            rethink=sample.rethink,
            tool=told,
        )
        if told is None:
            return [Piece(text, is_own=True)]
        before, _, after = text.partition(told)
        return [Piece(before, is_own=True), Piece(told, is_own=False), Piece(after, is_own=True)]

    def read(self, ids: Sequence[int], prompt: Prompt, *, target_image: int) -> Answer:
        """What a completion answers, its boxes in original pixels of the target image."""
        text = self.checkpoint.chat.decode(ids)
        return parse(text, self.family, prompt.images[target_image].size)
