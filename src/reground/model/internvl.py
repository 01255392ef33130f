"""InternVL 3 (and 2.5, 2 in transformers' form): tiles of one size, positions of plain text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import GotOcr2ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from reground.errors import ModelError
from reground.grounding.codecs import EncodedSize
from reground.model.adapter import EncodedImage, Features, Part

MODEL_TYPES = ("internvl",)


@dataclass(frozen=True, slots=True)
class InternVL:
    """InternVL; see :class:`reground.model.adapter.ModelAdapter`.

    ``tokens_per_tile`` image tokens stand for each tile.
    """

    image_token_id: int
    tokens_per_tile: int
    slot: ClassVar[str] = "<IMG_CONTEXT>"
    marks: ClassVar[tuple[str, ...]] = ("<box>", "</box>", "<ref>", "</ref>")
    banned: ClassVar[tuple[str, ...]] = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    axes: ClassVar[int] = 1
    any_size: ClassVar[bool] = False

    @classmethod
    def of(cls, config: Any) -> InternVL:
        """Of a model's config."""
        return cls(config.image_token_id, config.image_seq_length)

    def read_processor(self, source: str, config: Any) -> Any:
        """The PIL back end, which cuts tiles, as InternVL's processor asks for."""
        processor = GotOcr2ImageProcessorPil.from_pretrained(source, crop_to_patches=True)
        height, width = config.vision_config.image_size
        if (processor.size["height"], processor.size["width"]) != (height, width):
            raise ModelError(
                f"{source}: its image processor cuts tiles of {processor.size}, and its model has "
                f"those of {height} x {width} pixels; copy preprocessor_config.json from the "
                "checkpoint that it was made from"
            )
        return processor

    def limits(self, processor: Any) -> tuple[int, int]:
        """Of all tiles but the small picture that goes along."""
        return processor.min_patches * _area(processor), processor.max_patches * _area(processor)

    def set_limits(self, processor: Any, fewest: int | None, most: int | None) -> None:
        """In whole tiles, of which there is at least one."""
        if fewest:
            processor.min_patches = max(1, -(-fewest // _area(processor)))
        if most:
            processor.max_patches = max(processor.min_patches, most // _area(processor))

    def smallest(self, processor: Any) -> int:
        """One tile."""
        return _area(processor)

    def saved_limits(self, processor: Any) -> dict[str, Any]:
        """In tiles."""
        return {"min_patches": processor.min_patches, "max_patches": processor.max_patches}

    def resized(self, processor: Any, image: Image.Image) -> Image.Image:
        """The image itself: its boxes are in thousandths, whatever its size."""
        return image

    def encode(self, processor: Any, images: Sequence[Image.Image]) -> list[EncodedImage]:
        """Tiles of each image, and after several of them all of it as one more."""
        out = processor(images=list(images), return_tensors="np")
        values = torch.from_numpy(np.ascontiguousarray(out["pixel_values"], dtype=np.float32))
        parts = values.split([int(number) for number in out["num_patches"]])
        return [
            _encoded(processor, image, tiles) for image, tiles in zip(images, parts, strict=True)
        ]

    def picture(self, processor: Any, image: EncodedImage) -> Image.Image:
        """There is none: the small picture was made from the image before it was resized."""
        raise ModelError("vLLM rollouts of InternVL are not supported; leave engine out")

    def num_tokens(self, image: EncodedImage) -> int:
        """So many for each tile."""
        return len(image.pixel_values) * self.tokens_per_tile

    def image_ids(self, tokenizer: Any, image: EncodedImage) -> list[int]:
        """The tokens of all tiles between their marks."""
        start, end = tokenizer.convert_tokens_to_ids(["<img>", "</img>"])
        return [start, *[self.image_token_id] * self.num_tokens(image), end]

    def positions(
        self, model: Any, ids: Tensor, mask: Tensor, images: Sequence[EncodedImage]
    ) -> Tensor:
        """One after the other, pads left out."""
        return (mask.long().cumsum(-1) - 1).clamp(min=0)[None]

    def see(self, model: Any, images: Sequence[EncodedImage]) -> Any:
        """All tiles in one call."""
        pixels = torch.cat([image.pixel_values for image in images])
        dtype = next(model.model.vision_tower.parameters()).dtype
        return model.model.get_image_features(
            pixel_values=pixels.to(model.device, dtype), return_dict=True
        )

    def features(self, seen: Any) -> Features:
        """Those for the input, [tiles, tokens, hidden]."""
        return (seen.pooler_output,)

    def joined(self, features: Sequence[Features]) -> Any:
        """Tile by tile."""
        return SimpleNamespace(pooler_output=torch.cat([*itertools.chain(*features)]))

    def blank(self, model: Any) -> EncodedImage:
        """One tile."""
        height, width = model.config.vision_config.image_size
        size = EncodedSize(width, height, width, height)
        return EncodedImage(torch.zeros(1, 3, height, width), (1, 1, 1), size)

    def tower(self, model: Any) -> list[nn.Module]:
        """The vision transformer and the projector after it."""
        return [model.model.vision_tower, model.model.multi_modal_projector]

    def part_of(self, name: str) -> Part:
        """By the name's parts.

        >>> InternVL(0, 256).part_of("model.multi_modal_projector.linear_1.weight")
        'merger'
        """
        if "multi_modal_projector." in name:
            return "merger"
        return "vision" if "vision_tower." in name else "language"


def _area(processor: Any) -> int:
    return int(processor.size["height"] * processor.size["width"])


def _encoded(processor: Any, image: Image.Image, tiles: Tensor) -> EncodedImage:
    height, width = tiles.shape[-2:]
    columns, rows = get_optimal_tiled_canvas(
        (image.height, image.width), (height, width), processor.min_patches, processor.max_patches
    )
    size = EncodedSize(*image.size, columns * width, rows * height)
    return EncodedImage(tiles, (1, rows, columns), size)
