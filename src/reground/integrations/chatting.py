"""A checkpoint that completes whatever turn a harness makes: images, then a text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from reground.api import Grounder
from reground.data.images import decoded, inline, load
from reground.errors import DataError
from reground.model.chat import Message, Prompt
from reground.model.prompting import Prompter
from reground.rollout.policy import Policy, Sampling


@dataclass(frozen=True, slots=True)
class Turn:
    """RGB images in order, and the text after them."""

    images: tuple[Image.Image, ...]
    text: str

    @classmethod
    def of(cls, parts: Iterable[str | Image.Image]) -> Turn:
        """A turn of texts and images in any order; a chat template here puts images first."""
        parts = list(parts)
        images = [part.convert("RGB") for part in parts if isinstance(part, Image.Image)]
        return cls(tuple(images), "\n".join(part for part in parts if isinstance(part, str)))


@dataclass(frozen=True, slots=True)
class Said:
    """What came back: its text, how many tokens it has, and how many it was asked with."""

    text: str
    num_tokens: int
    num_read: int
    finish: Literal["stop", "length", "stop_string"]


@dataclass(frozen=True, slots=True)
class ChatModel:
    """A checkpoint, and what samples from it."""

    prompter: Prompter
    policy: Policy

    @classmethod
    def load(
        cls,
        path: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        engine: Literal["transformers", "vllm"] = "transformers",
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> ChatModel:
        """Load a folder, a run, a hub id or ``tiny``; raises as ``Grounder.from_pretrained``."""
        grounder = Grounder.from_pretrained(
            path,
            device=device,
            dtype=dtype,
            engine=engine,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
        )
        return cls(grounder.prompter, grounder.policy)

    def answer(
        self, turns: Sequence[Turn], sampling: Sampling, *, keys: Sequence[int] | None = None
    ) -> list[Said]:
        """A completion of each turn; ``keys`` seed sampled ones.

        Raises ``DataError`` for a turn that the model's context does not hold.
        """
        prompts = [self._prompt(turn) for turn in turns]
        completions = self.policy.generate(prompts, n=1, sampling=sampling, keys=keys)
        return [
            Said(self._text(own.ids, sampling.stop), len(own.ids), len(prompt.ids), own.finish)
            for prompt, (own,) in zip(prompts, completions, strict=True)
        ]

    def _prompt(self, turn: Turn) -> Prompt:
        checkpoint = self.prompter.checkpoint
        encoded = checkpoint.chat.encode_images(turn.images)
        prompt = checkpoint.chat.conversation([Message("user", [*encoded, turn.text])])
        if len(prompt.ids) >= checkpoint.context:
            raise DataError(
                f"found a prompt of {len(prompt.ids)} tokens, and the model's context holds "
                f"{checkpoint.context} with the answer; lower max_pixels, or show fewer images"
            )
        return prompt

    def _text(self, ids: Sequence[int], stop: Sequence[str]) -> str:
        """The text up to the first stop string, which is none of it."""
        text = self.prompter.text(ids)
        ends = [place for each in stop if (place := text.find(each)) >= 0]
        return text[: min(ends, default=len(text))]


def picture(source: str) -> Image.Image:
    """The image at a path or in a ``data:`` address; raises ``DataError`` as ``load`` does."""
    if not source.startswith("data:"):
        return load(source)
    name = "image of a message"
    return decoded(inline(source, name), name)
