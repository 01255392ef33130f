"""Images at the very size at which a checkpoint's processor encodes them, without its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from reground.model.adapter import ModelAdapter
from reground.model.load import read_processor


@dataclass(frozen=True, slots=True)
class Resizer:
    """A checkpoint's image processor, as far as it resizes."""

    adapter: ModelAdapter
    processor: Any

    @classmethod
    def of(cls, path: str) -> Resizer:
        """Of a checkpoint (folder, run, hub id or ``tiny``); raises ``ModelError`` without one."""
        return cls(*read_processor(path))

    @property
    def limits(self) -> tuple[int, int]:
        """The fewest and most pixels that an image is encoded at."""
        return self.adapter.limits(self.processor)

    def __call__(self, image: Image.Image) -> Image.Image:
        """The RGB image as it is encoded; resizing it again changes nothing."""
        return self.adapter.resized(self.processor, image)
