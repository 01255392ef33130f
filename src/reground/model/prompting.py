"""From samples to prompts and from completions to answers, for one checkpoint and its family.

Training, evaluation and the Python API ask and read through this one object, so that they cannot
differ in wording, frame or parser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from reground.data.images import load
from reground.grounding.answers import Answer, parse
from reground.grounding.families import Family, get_family
from reground.grounding.prompts import PromptProfile, load_profile
from reground.grounding.sample import Sample
from reground.grounding.turn import user_text
from reground.model.chat import Prompt
from reground.model.load import Checkpoint


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

    def ask(self, images: Sequence[Image.Image], question: str) -> Prompt:
        """The prompt of a question about RGB images."""
        text = self.profile.render(question=question, num_images=len(images))
        return self.checkpoint.chat.prompt(images, text)

    def gold(self, sample: Sample, prompt: Prompt) -> str:
        """The text that answers the sample perfectly, in the frame of the encoded target image."""
        size = prompt.images[sample.target_image].size
        return self.family.render(sample.boxes, size=size, think=sample.think)

    def read(self, ids: Sequence[int], prompt: Prompt, *, target_image: int) -> Answer:
        """What a completion answers, its boxes in original pixels of the target image."""
        text = self.checkpoint.chat.decode(ids)
        return parse(text, self.family, prompt.images[target_image].size)
