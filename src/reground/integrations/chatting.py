"""A checkpoint that completes whatever turn a harness makes: images, then a text."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from reground.data.images import decoded, load
from reground.errors import DataError
from reground.grounding.codecs import PixelLimits
from reground.model.chat import Chat, Prompt
from reground.model.load import answering_of
from reground.model.prompting import Prompter
from reground.model.runtime import Runtime
from reground.protocols.choice import Protocols
from reground.protocols.wording import Segment
from reground.rollout.opening import opened
from reground.rollout.policy import Policy, Sampling

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII)


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
        runtime = Runtime.resolve(device=device, dtype=dtype)
        limits = PixelLimits(min_pixels, max_pixels)
        checkpoint, policy = opened(path, runtime, engine=engine, limits=limits)
        return cls(Prompter(checkpoint, Protocols.of(answering_of(path))), policy)

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
        chat = checkpoint.chat
        encoded = chat.encode_images(turn.images)
        prompt = chat.prompts(encoded, [segments(turn.text, chat)])[0]
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


def segments(text: str, chat: Chat) -> list[Segment]:
    """A harness's text, in which the marks of boxes and phrases are the tokens that they name.

    Our own tasks write them where our prompts have them; no other special token is read.
    """
    known = [mark for mark in chat.adapter.marks if mark in chat.tokenizer.get_added_vocab()]
    if not known:
        return [Segment(text)]
    pieces = re.split("(" + "|".join(map(re.escape, known)) + ")", text)
    return [Segment(piece, is_special=piece in known) for piece in pieces if piece]


def picture(source: str) -> Image.Image:
    """The image at a path or in a ``data:`` address; raises ``DataError`` as ``load`` does."""
    head = _DATA_URL.match(source)
    if head is None:
        return load(source)
    try:
        return decoded(base64.b64decode(source[head.end() :], validate=True), "image of a message")
    except binascii.Error:
        raise DataError(
            "image of a message: no base64; expected data:image/png;base64,..."
        ) from None
