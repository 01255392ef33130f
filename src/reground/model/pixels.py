"""Images at the very size at which a checkpoint's processor encodes them, without its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from transformers import Qwen2VLImageProcessorPil
from transformers.image_utils import SizeDict

from reground.model.load import read_processor


@dataclass(frozen=True, slots=True)
class Resizer:
    """The first step of a checkpoint's image processor; the rest changes no size."""

    processor: Qwen2VLImageProcessorPil

    @classmethod
    def of(cls, path: str) -> Resizer:
        """Of a checkpoint (folder, run, hub id or ``tiny``); raises ``ModelError`` without one."""
        return cls(read_processor(path))

    @property
    def limits(self) -> tuple[int, int]:
        """The fewest and most pixels that an image is encoded at."""
        size: Any = self.processor.size
        return size["shortest_edge"], size["longest_edge"]

    def __call__(self, image: Image.Image) -> Image.Image:
        """The RGB image as it is encoded; resizing it again changes nothing."""
        fewest, most = self.limits
        pixels = self.processor.resize(
            np.asarray(image).transpose(2, 0, 1),
            size=SizeDict(shortest_edge=fewest, longest_edge=most),
            resample=self.processor.resample,
            factor=self.processor.patch_size * self.processor.merge_size,
        )
        return Image.fromarray(np.asarray(pixels, dtype=np.uint8).transpose(1, 2, 0))
