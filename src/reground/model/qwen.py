"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: patches of any number, M-RoPE, features for deeper layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import Qwen2VLImageProcessorPil
from transformers.image_utils import SizeDict

from reground.errors import ModelError
from reground.grounding.codecs import EncodedSize
from reground.model.adapter import EncodedImage, Features, Part

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")

# The settings of a processor that the vision tower has as well, by their names there.
_PATCHES = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}


@dataclass(frozen=True, slots=True)
class QwenVL:
    """The Qwen-VL models; see :class:`reground.model.adapter.ModelAdapter`."""

    image_token_id: int
    merge: int
    slot: ClassVar[str] = "<|image_pad|>"
    marks: ClassVar[tuple[str, ...]] = (
        "<|box_start|>",
        "<|box_end|>",
        "<|object_ref_start|>",
        "<|object_ref_end|>",
    )
    banned: ClassVar[tuple[str, ...]] = (
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    )
    axes: ClassVar[int] = 3
    any_size: ClassVar[bool] = True

    @classmethod
    def of(cls, config: Any) -> QwenVL:
        """Of a model's config."""
        return cls(config.image_token_id, config.vision_config.spatial_merge_size)

    def read_processor(self, source: str, config: Any) -> Any:
        """The PIL back end: torchvision need not be there."""
        kind, vision = Qwen2VLImageProcessorPil, config.vision_config
        named = kind.get_image_processor_dict(source)[0].get("image_processor_type") or "Qwen"
        processor = kind.from_pretrained(source) if named.startswith("Qwen") else None
        found = (named, *(getattr(processor, name, None) for name in _PATCHES))
        expected = ("Qwen", *(getattr(vision, name) for name in _PATCHES.values()))
        if found[1:] != expected[1:]:
            raise ModelError(
                f"{source}: its image processor is {found[0]} with patch_size, merge_size and "
                f"temporal_patch_size {found[1:]}, and its model has {expected[1:]}; copy "
                "preprocessor_config.json from the checkpoint that it was made from"
            )
        return processor

    def limits(self, processor: Any) -> tuple[int, int]:
        """Pixels of an image."""
        return processor.size["shortest_edge"], processor.size["longest_edge"]

    def set_limits(self, processor: Any, fewest: int | None, most: int | None) -> None:
        """Pixels of an image."""
        for edge, limit in (("shortest_edge", fewest), ("longest_edge", most)):
            if limit:
                processor.size[edge] = limit

    def smallest(self, processor: Any) -> int:
        """One merged patch."""
        return int((processor.patch_size * processor.merge_size) ** 2)

    def saved_limits(self, processor: Any) -> dict[str, Any]:
        """``min_pixels`` and ``max_pixels`` are what transformers 4 reads, ``size`` 5 and vLLM."""
        fewest, most = self.limits(processor)
        size = {"shortest_edge": fewest, "longest_edge": most}
        return {"size": size, "min_pixels": fewest, "max_pixels": most}

    def resized(self, processor: Any, image: Image.Image) -> Image.Image:
        """The first step of the processor; the rest changes no size."""
        fewest, most = self.limits(processor)
        pixels = processor.resize(
            np.asarray(image).transpose(2, 0, 1),
            size=SizeDict(shortest_edge=fewest, longest_edge=most),
            resample=processor.resample,
            factor=processor.patch_size * processor.merge_size,
        )
        return Image.fromarray(np.asarray(pixels, dtype=np.uint8).transpose(1, 2, 0))

    def encode(self, processor: Any, images: Sequence[Image.Image]) -> list[EncodedImage]:
        """Patches, those that are merged next to each other."""
        out = processor(images=list(images), return_tensors="np")
        values = torch.from_numpy(np.ascontiguousarray(out["pixel_values"], dtype=np.float32))
        grids = [tuple(int(side) for side in grid) for grid in out["image_grid_thw"]]
        parts = values.split([t * h * w for t, h, w in grids])
        patch = processor.patch_size
        return [
            EncodedImage(part, grid, EncodedSize(*image.size, grid[2] * patch, grid[1] * patch))  # type: ignore[arg-type]
            for part, grid, image in zip(parts, grids, images, strict=True)
        ]

    def picture(self, processor: Any, image: EncodedImage) -> Image.Image:
        """The patches put together."""
        merge, side = processor.merge_size, processor.patch_size
        _, rows, columns = image.grid
        patches = image.pixel_values.numpy().reshape(
            rows // merge, columns // merge, merge, merge, 3, -1, side, side
        )
        values = patches[:, :, :, :, :, 0].transpose(4, 0, 2, 5, 1, 3, 6)
        values = values.reshape(3, rows * side, columns * side)
        mean, std = (np.array(each)[:, None, None]
                     for each in (processor.image_mean, processor.image_std))  # fmt: skip
        levels = (values * std + mean) * 255
        pixels = np.rint(levels)
        if (worst := float(np.abs(levels - pixels).max())) > 0.02:
            raise ModelError(
                f"patches of an image lie up to {worst:.2f} levels from whole pixel values; "
                "expected those of an 8-bit RGB image"
            )
        return Image.fromarray(pixels.astype(np.uint8).transpose(1, 2, 0))

    def num_tokens(self, image: EncodedImage) -> int:
        """Merged patches."""
        return math.prod(image.grid) // self.merge**2

    def image_ids(self, tokenizer: Any, image: EncodedImage) -> list[int]:
        """One for each merged patch; the template writes the marks around them."""
        return [self.image_token_id] * self.num_tokens(image)

    def positions(
        self, model: Any, ids: Tensor, mask: Tensor, images: Sequence[EncodedImage]
    ) -> Tensor:
        """M-RoPE, by the model's own rule."""
        found: Tensor
        found, _ = model.model.get_rope_index(
            ids,
            mm_token_type_ids=(ids == self.image_token_id).int(),
            image_grid_thw=_grids(images, ids.device) if images else None,
            attention_mask=mask.long(),
        )
        return found

    def see(self, model: Any, images: Sequence[EncodedImage]) -> Any:
        """All patches in one call."""
        dtype = next(model.model.visual.parameters()).dtype
        pixels = torch.cat([image.pixel_values for image in images]).to(model.device, dtype)
        return model.model.get_image_features(
            pixels, _grids(images, model.device), return_dict=True
        )

    def features(self, seen: Any) -> Features:
        """Those for the input, and those for deeper layers (Qwen3-VL)."""
        return (*seen.pooler_output, *chain(*(getattr(seen, "deepstack_features", None) or ())))

    def joined(self, features: Sequence[Features]) -> Any:
        """Layer by layer."""
        first, *deeper = zip(*features, strict=True)
        return SimpleNamespace(pooler_output=first, deepstack_features=deeper or None)

    def blank(self, model: Any) -> EncodedImage:
        """One merged patch."""
        vision = model.model.visual.config
        values = 3 * vision.temporal_patch_size * vision.patch_size**2
        side = self.merge * vision.patch_size
        return EncodedImage(
            torch.zeros(self.merge**2, values),
            (1, self.merge, self.merge),
            EncodedSize(side, side, side, side),
        )

    def tower(self, model: Any) -> list[nn.Module]:
        """The vision transformer, its mergers in it."""
        return [model.model.visual]

    def part_of(self, name: str) -> Part:
        """By the name's parts.

        >>> of = QwenVL(0, 2).part_of
        >>> of("model.visual.merger.linear_fc1.weight"), of("lm_head.weight")
        ('merger', 'language')
        """
        if "visual." not in name:
            return "language"
        return "merger" if "merger" in name else "vision"


def _grids(images: Sequence[EncodedImage], device: torch.device) -> Tensor:
    """Grids [N, 3] (time, height, width) in patches."""
    return torch.tensor([image.grid for image in images], dtype=torch.long, device=device)
