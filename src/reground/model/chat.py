"""Conversation in, ids and pixels out, as one object that cannot disagree with itself."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from PIL import Image

from reground.data.images import MAX_ASPECT
from reground.errors import ConfigError, DataError, ModelError
from reground.model.adapter import EncodedImage as EncodedImage
from reground.model.adapter import ModelAdapter
from reground.protocols.wording import Segment

# Private-use characters: no template, tokenizer or user writes them.
_SLOT = "\ue000reground\ue001"
_THOUGHT = re.compile(r"<think>\s*+\Z")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation, ending where the assistant begins.

    ``ids`` hold one image token for every merged patch of ``images``, in order. ``shown`` are
    the pictures themselves, where they are not those of the sample's files and may be looked at.
    """

    ids: tuple[int, ...]
    images: tuple[EncodedImage, ...]
    shown: tuple[Image.Image, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody (``user``, ``assistant``, ``system``) says: texts and images in order."""

    role: str
    parts: Sequence[str | EncodedImage]


class Chat:
    """Renders conversations for one checkpoint, by that checkpoint's own template and processor.

    ``tokenizer`` and ``image_processor`` are those of transformers; ``end_ids`` end a turn beside
    the tokenizer's own end.
    """

    def __init__(
        self,
        tokenizer: Any,
        image_processor: Any,
        adapter: ModelAdapter,
        *,
        end_ids: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.adapter = adapter
        self.end_ids = frozenset((self.end_id, *end_ids))
        self._lock = threading.Lock()

    @property
    def image_token_id(self) -> int:
        """The token that stands for a piece of an image."""
        return self.adapter.image_token_id

    def picture(self, image: EncodedImage) -> Image.Image:
        """The RGB image that was encoded, after resizing: encoding it again changes nothing."""
        return self.adapter.picture(self.image_processor, image)

    @property
    def pixel_limits(self) -> tuple[int, int]:
        """The fewest and most pixels that an image is encoded at."""
        return self.adapter.limits(self.image_processor)

    @property
    def end_id(self) -> int:
        """The id that ends an assistant turn."""
        return int(self.tokenizer.eos_token_id)

    @property
    def pad_id(self) -> int:
        """The id that fills padded places; it is never attended to."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id)

    @cached_property
    def opening(self) -> str:
        """What a template that lets the assistant begin in a thought writes: the tag and blanks."""
        found = _THOUGHT.search(self._template(0))
        return found[0] if found else ""

    @cached_property
    def banned_ids(self) -> tuple[int, ...]:
        """Vision tokens, which a policy must never sample: they would stand for absent pixels."""
        known = self.tokenizer.get_vocab()
        return tuple(sorted(known[name] for name in self.adapter.banned if name in known))

    def prompt(self, images: Sequence[Image.Image], text: str) -> Prompt:
        """One user turn: the images in order, then ``text``, which cannot inject special tokens."""
        return self.prompts(self.encode_images(images), [text])[0]

    def prompts(
        self, encoded: Sequence[EncodedImage], turns: Sequence[str | Sequence[Segment]]
    ) -> list[Prompt]:
        """A prompt for each turn about the same images; a text holds no special tokens."""
        pieces = self._template(len(encoded)).split(_SLOT)
        before: list[int] = []
        for image, piece in zip(encoded, pieces[:-2], strict=True):
            before += [*self._ids(piece), *self.adapter.image_ids(self.tokenizer, image)]
        before += self._ids(pieces[-2])
        after = self._ids(pieces[-1])
        return [Prompt((*before, *self.turn_ids(turn), *after), tuple(encoded)) for turn in turns]

    def conversation(self, messages: Sequence[Message]) -> Prompt:
        """Messages as the template writes them, then the assistant's begin.

        Marks of boxes and objects in their texts are the special tokens of these names; all else
        is plain. Raises ``DataError`` where the template does not write the messages as they are.
        """
        parts = [part for message in messages for part in message.parts]
        wanted = [_SLOT if isinstance(part, str) else self.adapter.slot for part in parts]
        between = re.split(f"({_SLOT}|{re.escape(self.adapter.slot)})", self._written(messages))
        if between[1::2] != wanted:
            raise DataError(
                "the model's chat template does not write these messages as they are; expected "
                "turns of user and assistant, perhaps a system's before them, and images before "
                "the text"
            )
        ids = self._ids(between[0])
        for part, after in zip(parts, between[2::2], strict=True):
            if isinstance(part, str):
                ids += self.encode_answer(part)
            else:
                ids += self.adapter.image_ids(self.tokenizer, part)
            ids += self._ids(after)
        return Prompt(tuple(ids), tuple(part for part in parts if not isinstance(part, str)))

    def turn_ids(self, turn: str | Sequence[Segment]) -> list[int]:
        """Ids of a turn: special tokens are what it says to be one, and nothing else."""
        segments = [Segment(turn)] if isinstance(turn, str) else turn
        return [
            id
            for each in segments
            for id in ([self.special_id(each.text)] if each.is_special else self.encode(each.text))
        ]

    def special_id(self, token: str) -> int:
        """The id of a special token that a prompt may hold.

        Raises ``ConfigError`` for one that the tokenizer does not have, and for those of images.
        """
        if token in self.adapter.banned:
            raise ConfigError(
                f"the prompt holds the special token {token}, which stands for a piece of an "
                "image; take it out: the chat template puts images into the prompt"
            )
        known = self.tokenizer.get_added_vocab()
        if token not in known:
            raise ConfigError(
                f"the prompt holds the special token {token}, which the model's tokenizer does "
                "not have; use a prompt for this model, or write the token without its dollar sign"
            )
        return int(known[token])

    def image_ids(self, image: EncodedImage) -> list[int]:
        """Ids of one image outside a prompt, between the marks that the template puts around it."""
        start, end = self._image_marks
        return [*start, *self.adapter.image_ids(self.tokenizer, image), *end]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; strings such as ``<|im_end|>`` in it become ordinary text."""
        return self._ids(text, split_special_tokens=True)

    def encode_answer(self, text: str) -> list[int]:
        """Ids of an answer of our own making: box and reference marks are the special tokens.

        That is how checkpoints with such tokens write their boxes; never for user or tool text.
        """
        ids: list[int] = []
        known = self.tokenizer.get_added_vocab()
        for piece in self._marks.split(text):
            is_mark = piece in self.adapter.marks and piece in known
            ids += [known[piece]] if is_mark else self.encode(piece)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of sampled ids, special tokens included, since some families answer with them."""
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def encode_images(self, images: Sequence[Image.Image]) -> tuple[EncodedImage, ...]:
        """Resize and cut RGB images, as the checkpoint's processor does.

        Raises ``DataError`` for an image longer than 200 times its short side.
        """
        if not images:
            return ()
        for image in images:
            if max(image.size) > MAX_ASPECT * min(image.size):
                raise DataError(
                    f"found an image of {image.width} x {image.height} pixels, expected sides that "
                    f"differ by a factor of at most {MAX_ASPECT}, as the image processor does; "
                    "crop it"
                )
        return tuple(self.adapter.encode(self.image_processor, images))

    def num_tokens(self, image: EncodedImage) -> int:
        """How many image tokens stand for an image."""
        return self.adapter.num_tokens(image)

    @cached_property
    def _marks(self) -> re.Pattern[str]:
        return re.compile("(" + "|".join(re.escape(mark) for mark in self.adapter.marks) + ")")

    @cached_property
    def _image_marks(self) -> tuple[list[int], list[int]]:
        """What the template writes before and after an image: read off two in a row."""
        _, between, end, _ = self._template(2).split(_SLOT)
        if not between.startswith(end):
            raise ModelError(
                f"the chat template writes {end!r} behind its last image and {between!r} between "
                "two; expected the same end of every image"
            )
        start = between.removeprefix(end)
        return self._ids(start), self._ids(end)

    def _ids(self, text: str, *, split_special_tokens: bool = False) -> list[int]:
        # The tokenizer keeps this option as a state of its own between calls, and training asks
        # it from two threads.
        with self._lock:
            ids: list[int] = self.tokenizer(
                text, add_special_tokens=False, split_special_tokens=split_special_tokens
            ).input_ids
        return ids

    def _written(self, messages: Sequence[Message]) -> str:
        """The template with a slot in place of each part; empty where it refuses the messages."""
        content = [
            {
                "role": each.role,
                "content": [
                    {"type": "text", "text": _SLOT} if isinstance(part, str) else {"type": "image"}
                    for part in each.parts
                ],
            }
            for each in messages
        ]
        try:
            rendered: str = self.tokenizer.apply_chat_template(
                content, tokenize=False, add_generation_prompt=True
            )
        except TemplateError:
            return ""
        return rendered

    def _template(self, num_images: int) -> str:
        """The template with a slot in place of each image's tokens and of the text."""
        content = [{"type": "image"}] * num_images + [{"type": "text", "text": _SLOT}]
        rendered: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        rendered = rendered.replace(self.adapter.slot, _SLOT)
        if rendered.count(_SLOT) != num_images + 1:
            raise ModelError(
                f"the chat template made {rendered.count(_SLOT) - 1} image places for {num_images} "
                f"images; expected one {self.adapter.slot} for each"
            )
        return rendered
