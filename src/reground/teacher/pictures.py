"""The images of a sample as they are sent: encoded once for all of its calls, when first needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from reground.data.images import data_url, load
from reground.grounding.codecs import EncodedSize, PixelLimits
from reground.grounding.sample import ImageRef


@dataclass(frozen=True, slots=True)
class Sent:
    """Images as a request carries them, and their sizes before and after."""

    urls: tuple[str, ...]
    sizes: tuple[EncodedSize, ...]


class Pictures:
    """The images of one sample, none with more than ``max_pixels`` when sent."""

    def __init__(self, images: Sequence[ImageRef], *, max_pixels: int | None, factor: int) -> None:
        self._images, self._max_pixels, self._factor = images, max_pixels, factor
        self._sent: Sent | None = None
        self._lock = asyncio.Lock()

    @property
    def sizes(self) -> tuple[EncodedSize, ...]:
        """The sizes at which they are sent; known without opening them."""
        limits: Any = {"max_pixels": self._max_pixels, "factor": self._factor}
        return tuple(encoded_size(image, **limits) for image in self._images)

    async def sent(self) -> Sent:
        """The images encoded, the first time; raises ``DataError`` as ``data.images.load`` does."""
        async with self._lock:
            if self._sent is None:
                self._sent = await asyncio.to_thread(_encoded, self._images, self.sizes)
            return self._sent

    def halve(self, refused: Sent) -> bool:
        """From now on send half the pixels of ``refused``; whether anything smaller can be sent."""
        if self._sent is refused and refused.sizes:
            largest = max(size.input_width * size.input_height for size in refused.sizes)
            self._max_pixels, self._sent = max(largest // 2, 1), None
        return self.sizes != refused.sizes


def encoded_size(image: ImageRef, *, max_pixels: int | None = None, factor: int = 1) -> EncodedSize:
    """The size of an image, and that at which it is sent: its own, unless that is limited."""
    size = image.width, image.height
    return EncodedSize(*size, *PixelLimits(most=max_pixels).resized(*size, factor=factor))


def _encoded(images: Sequence[ImageRef], sizes: tuple[EncodedSize, ...]) -> Sent:
    urls = []
    for image, size in zip(images, sizes, strict=True):
        sides = size.input_width, size.input_height  # where they are its own, this is a copy
        urls.append(data_url(load(image).resize(sides, Image.Resampling.BICUBIC)))
    return Sent(tuple(urls), sizes)
