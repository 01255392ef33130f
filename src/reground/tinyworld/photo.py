"""The source ``photo``: ``photo:cells`` is a photo that comes with the package, with a question."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from reground.data.images import decoded
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target
from reground.tinyworld import PHOTO

__all__ = ["EXAMPLES", "open", "render"]

_CELLS = "photo:cells"
EXAMPLES = {"a photo of blood cells": _CELLS}


def open(spec: str, *, seed: int, limit: int | None) -> Sequence[Sample]:
    """The one question about the photo; ``DataError`` for another name."""
    _check(spec)
    image = ImageRef(spec, 640, 480)
    target = Target(0, Box(210, 79, 390, 268, image.frame))
    return [Sample("cells", (image,), "the white blood cell", (target,), "photo", 0)][:limit]


def render(path: str) -> Image.Image:
    """The photo; ``DataError`` for another name."""
    _check(path)
    return decoded(PHOTO.read_bytes(), path)


def _check(name: str) -> None:
    if name != _CELLS:
        raise DataError(f"{name[:100]}: no such photo; expected {_CELLS}")
