"""Prompts for an engine that takes images: our ids unexpanded, our pixels to the last bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from reground.errors import EngineError
from reground.model.chat import Chat, EncodedImage


def collapsed(ids: Sequence[int], images: Sequence[EncodedImage], chat: Chat) -> list[int]:
    """``ids`` with one image token in place of each image's."""
    counts = iter([chat.num_tokens(image) for image in images])
    short, place = [], 0
    while place < len(ids):
        short.append(ids[place])
        place += next(counts) if ids[place] == chat.image_token_id else 1
    return short


def picture(image: EncodedImage, chat: Chat) -> Image.Image:
    """The RGB image that the patches were cut from, exactly; encoding it again changes nothing."""
    processor = chat.image_processor
    merge, side = processor.merge_size, processor.patch_size
    _, rows, columns = image.grid
    patches = image.pixel_values.numpy().reshape(
        rows // merge, columns // merge, merge, merge, 3, -1, side, side
    )
    values = patches[:, :, :, :, :, 0].transpose(4, 0, 2, 5, 1, 3, 6)
    values = values.reshape(3, rows * side, columns * side)
    mean, std = (np.array(each)[:, None, None] for each in
                 (processor.image_mean, processor.image_std))  # fmt: skip
    levels = (values * std + mean) * 255
    pixels = np.rint(levels)
    if (worst := float(np.abs(levels - pixels).max())) > 0.02:
        raise EngineError(
            f"patches of an image lie up to {worst:.2f} levels from whole pixel values; expected "
            "those of an 8-bit RGB image"
        )
    return Image.fromarray(pixels.astype(np.uint8).transpose(1, 2, 0))
