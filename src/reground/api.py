"""Grounding in Python: the same model, prompt and parser as training and evaluation.

grounder = Grounder.from_pretrained("tiny")
grounding = grounder.ground(["photo.jpg"], "the cup left of the laptop")
grounding.answer.boxes  # in pixels of the photo
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from reground.data.images import load
from reground.errors import DataError
from reground.grounding.answers import Answer

if TYPE_CHECKING:
    from reground.model.prompting import Prompter
    from reground.rollout.policy import Policy


@dataclass(frozen=True, slots=True)
class Grounding:
    """One answer: what was parsed, the text it was parsed from, and the image its boxes are in."""

    answer: Answer
    text: str
    image: int


@dataclass(frozen=True, slots=True)
class Grounder:
    """A checkpoint that answers questions about images with boxes."""

    prompter: Prompter
    policy: Policy

    @classmethod
    def from_pretrained(
        cls, path: str = "tiny", *, family: str | None = None, prompt: str | None = None
    ) -> Grounder:
        """Load a folder, a hub id or ``tiny``; ``family`` and ``prompt`` override what it names."""
        from reground.model.load import load as load_checkpoint
        from reground.model.prompting import Prompter
        from reground.rollout.transformers_policy import TransformersPolicy

        checkpoint = load_checkpoint(path, family=family, prompt=prompt)
        return cls(Prompter.of(checkpoint), TransformersPolicy(checkpoint))

    def ground(
        self,
        images: Sequence[str | Path | Image.Image],
        text: str,
        *,
        target_image: int | None = None,
        max_tokens: int = 256,
    ) -> Grounding:
        """The boxes of what ``text`` describes, in original pixels of the answered image.

        That image is the one the answer names; otherwise ``target_image``, or the last one.
        Raises ``DataError`` for images that cannot be read and for an index outside ``images``.
        """
        from reground.rollout.policy import Sampling

        target = len(images) - 1 if target_image is None else target_image
        if not 0 <= target < len(images):
            raise DataError(
                f"found image {target} of {len(images)} images, expected 0 to {len(images) - 1}"
            )
        if not text.strip():
            raise DataError("found an empty text; say what to look for")
        loaded = [
            im.convert("RGB") if isinstance(im, Image.Image) else load(str(im)) for im in images
        ]
        prompt = self.prompter.ask(loaded, text)
        ((completion,),) = self.policy.generate(
            [prompt], n=1, sampling=Sampling(max_tokens=max_tokens)
        )
        answer = self.prompter.read(completion.ids, prompt, target_image=target)
        if answer.image_index is not None and 0 <= answer.image_index < len(images):
            target = answer.image_index
            answer = self.prompter.read(completion.ids, prompt, target_image=target)
        return Grounding(answer, self.prompter.checkpoint.chat.decode(completion.ids), target)
