"""Conversation in, ids and pixels out, as one object that cannot disagree with itself."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reground.data.images import MAX_ASPECT
from reground.errors import DataError, ModelError
from reground.grounding.families import EncodedSize

_MARK_NAMES = {"<|box_start|>", "<|box_end|>", "<|object_ref_start|>", "<|object_ref_end|>"}
_MARKS = re.compile("(" + "|".join(re.escape(name) for name in sorted(_MARK_NAMES)) + ")")

# Private-use characters: no template, tokenizer or user writes them.
_SLOT = "\ue000reground\ue001"


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """What the vision tower gets for one image.

    ``pixel_values`` [num_patches, patch_dim] float32; ``grid`` is (time, height, width) in patches;
    ``size`` is the recorded size before and after resizing.
    """

    pixel_values: Tensor
    grid: tuple[int, int, int]
    size: EncodedSize


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation, ending where the assistant begins.

    ``ids`` hold one image token for every merged patch of ``images``, in order.
    """

    ids: tuple[int, ...]
    images: tuple[EncodedImage, ...]


class Chat:
    """Renders conversations for one checkpoint, by that checkpoint's own template and processor.

    ``tokenizer`` and ``image_processor`` are those of transformers; ``image_token_id`` is read
    from the model's config.
    """

    def __init__(self, tokenizer: Any, image_processor: Any, *, image_token_id: int) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.image_token_id = image_token_id
        self._lock = threading.Lock()

    @property
    def factor(self) -> int:
        """Sides of encoded images are multiples of this many pixels."""
        return int(self.image_processor.patch_size * self.image_processor.merge_size)

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
    def banned_ids(self) -> tuple[int, ...]:
        """Vision tokens, which a policy must never sample: they would stand for absent pixels."""
        names = (
            "<|vision_start|>",
            "<|vision_end|>",
            "<|vision_pad|>",
            "<|image_pad|>",
            "<|video_pad|>",
        )
        vocabulary = self.tokenizer.get_vocab()
        return tuple(sorted(vocabulary[name] for name in names if name in vocabulary))

    def prompt(self, images: Sequence[Image.Image], text: str) -> Prompt:
        """One user turn: the images in order, then ``text``, which cannot inject special tokens."""
        return self.prompts(self.encode_images(images), [text])[0]

    def prompts(self, encoded: Sequence[EncodedImage], texts: Sequence[str]) -> list[Prompt]:
        """A prompt for each text about the same images."""
        pieces = self._template(len(encoded)).split(_SLOT)
        before: list[int] = []
        for image, piece in zip(encoded, pieces[:-2], strict=True):
            before += [*self._encode_template(piece), *self._patches(image)]
        before += self._encode_template(pieces[-2])
        after = self._encode_template(pieces[-1])
        return [Prompt((*before, *self.encode(text), *after), tuple(encoded)) for text in texts]

    def image_ids(self, image: EncodedImage) -> list[int]:
        """Ids of one image outside a prompt, between the marks that the template puts around it."""
        start, end = self._image_marks
        return [*start, *self._patches(image), *end]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; strings such as ``<|im_end|>`` in it become ordinary text."""
        return self._ids(text, split_special_tokens=True)

    def encode_answer(self, text: str) -> list[int]:
        """Ids of an answer of our own making: box and reference marks are the special tokens.

        That is how checkpoints with such tokens write their boxes; never for user or tool text.
        """
        ids: list[int] = []
        for piece in _MARKS.split(text):
            mark = self.tokenizer.convert_tokens_to_ids(piece) if piece in _MARK_NAMES else None
            ids += self.encode(piece) if mark is None else [mark]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of sampled ids, special tokens included, since some families answer with them."""
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def encode_images(self, images: Sequence[Image.Image]) -> tuple[EncodedImage, ...]:
        """Resize and cut RGB images into patches, as the checkpoint's processor does.

        Raises ``DataError`` for an image longer than 200 times its short side.
        """
        if not images:
            return ()
        for image in images:
            _check_aspect(image)
        out = self.image_processor(images=list(images), return_tensors="np")
        values = torch.from_numpy(np.ascontiguousarray(out["pixel_values"], dtype=np.float32))
        grids = [tuple(int(side) for side in grid) for grid in out["image_grid_thw"]]
        parts = values.split([t * h * w for t, h, w in grids])
        patch = self.image_processor.patch_size
        return tuple(
            EncodedImage(part, grid, EncodedSize(*image.size, grid[2] * patch, grid[1] * patch))  # type: ignore[arg-type]
            for part, grid, image in zip(parts, grids, images, strict=True)
        )

    def num_tokens(self, image: EncodedImage) -> int:
        """How many image tokens stand for an image: its merged patches."""
        return math.prod(image.grid) // int(self.image_processor.merge_size) ** 2

    def _patches(self, image: EncodedImage) -> list[int]:
        return [self.image_token_id] * self.num_tokens(image)

    @cached_property
    def _image_marks(self) -> tuple[list[int], list[int]]:
        """What the template writes before and behind an image: read off two in a row."""
        _, between, end, _ = self._template(2).split(_SLOT)
        if not between.startswith(end):
            raise ModelError(
                f"the chat template writes {end!r} behind its last image and {between!r} between "
                "two; expected the same end of every image, as in Qwen-VL templates"
            )
        start = between.removeprefix(end)
        return self._encode_template(start), self._encode_template(end)

    def _encode_template(self, piece: str) -> list[int]:
        return self._ids(piece, split_special_tokens=False)

    def _ids(self, text: str, *, split_special_tokens: bool) -> list[int]:
        # The tokenizer keeps this option as a state of its own between calls, and training asks
        # it from two threads.
        with self._lock:
            ids: list[int] = self.tokenizer(
                text, add_special_tokens=False, split_special_tokens=split_special_tokens
            ).input_ids
        return ids

    def _template(self, num_images: int) -> str:
        """The template with a slot in place of each image's tokens and of the text."""
        content = [{"type": "image"}] * num_images + [{"type": "text", "text": _SLOT}]
        rendered: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        rendered = rendered.replace("<|image_pad|>", _SLOT)
        if rendered.count(_SLOT) != num_images + 1:
            raise ModelError(
                f"the chat template made {rendered.count(_SLOT) - 1} image places for {num_images} "
                "images; expected one <|image_pad|> for each, as in Qwen-VL templates"
            )
        return rendered


def _check_aspect(image: Image.Image) -> None:
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise DataError(
            f"found an image of {image.width} x {image.height} pixels, expected sides that differ "
            f"by a factor of at most {MAX_ASPECT}, as the image processor does; crop it"
        )
