"""A view of a photo: a crop, then flips, written into the path of an image.

``photo.jpg#view=LEFT,UPPER,RIGHT,LOWER,FLIPS`` is that part of photo.jpg, so that a sample about it
is a sample like any other: it can be stored, drawn and checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import Image

from reground.grounding.boxes import Box, Frame

_VIEW = re.compile(r"(?P<path>.*)#view=(\d+),(\d+),(\d+),(\d+),(h?v?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class View:
    """A crop in pixels of the upright image, then flips: left-right, top-bottom."""

    left: int
    upper: int
    right: int
    lower: int
    mirrored: bool
    upside_down: bool

    def path_of(self, path: str) -> str:
        """The path that means this view of ``path``."""
        flips = "h" * self.mirrored + "v" * self.upside_down
        return f"{path}#view={self.left},{self.upper},{self.right},{self.lower},{flips}"

    def image(self, image: Image.Image) -> Image.Image:
        """The view's pixels."""
        seen = image.crop((self.left, self.upper, self.right, self.lower))
        if self.mirrored:
            seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return seen.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if self.upside_down else seen

    def box(self, box: Box) -> Box:
        """A box of the whole image (in its pixels) as one of the view."""
        width, height = self.right - self.left, self.lower - self.upper
        x1, x2 = box.x1 - self.left, box.x2 - self.left
        y1, y2 = box.y1 - self.upper, box.y2 - self.upper
        if self.mirrored:
            x1, x2 = width - x2, width - x1
        if self.upside_down:
            y1, y2 = height - y2, height - y1
        return Box(x1, y1, x2, y2, Frame.pixels(width, height))


def split_view(path: str) -> tuple[str, View | None]:
    """A path and the view that it asks for, if any.

    >>> split_view("a.jpg#view=0,0,64,48,h")[0]
    'a.jpg'
    """
    found = _VIEW.fullmatch(path)
    if found is None:
        return path, None
    left, upper, right, lower = (int(found[number]) for number in range(2, 6))
    return found["path"], View(left, upper, right, lower, "h" in found[6], "v" in found[6])
