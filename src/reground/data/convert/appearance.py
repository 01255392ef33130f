"""A sentence about one box, from its place, its size and its pixels: a chain without a teacher."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image

from reground.grounding.boxes import Box, Frame, place

# Share of the image's area below which an object is small, or medium.
_SMALL, _MEDIUM = 0.01, 0.08
# Hue in degrees up to which a colour has the name; red closes the circle.
_HUES = ((15, "red"), (45, "orange"), (70, "yellow"), (165, "green"), (240, "blue"))
_LATE_HUES = ((300, "purple"), (345, "pink"), (360, "red"))


def describe(phrase: str, box: Box, image: Image.Image | None) -> str:
    """A chain that names size, colour (if there are pixels) and place, in words only.

    >>> from reground.grounding.boxes import THOUSAND
    >>> describe("the platelet", Box(40, 40, 90, 90, THOUSAND), Image.new("RGB", (99, 99), "blue"))
    'the platelet is small and blue, at the top left.'
    """
    colour = f" and {colour_word(image, box)}" if image else ""
    return f"{phrase} is {size_word(box)}{colour}, at the {place(box)}."


def size_word(box: Box) -> str:
    """Small, medium or large, by the box's share of the image's area."""
    share = box.area / (box.frame.width * box.frame.height)
    return "small" if share < _SMALL else "medium" if share < _MEDIUM else "large"


def colour_word(image: Image.Image, box: Box) -> str:
    """The name of the mean colour in the middle of the box (half its width and height).

    The middle alone, because the corners of a box mostly show what is behind the object. The box
    is in any frame of ``image``.
    """
    box = box.to(Frame.pixels(image.width, image.height))
    half_width, half_height = box.width / 4, box.height / 4
    left = int(min(max(box.cx - half_width, 0), image.width - 1))
    upper = int(min(max(box.cy - half_height, 0), image.height - 1))
    right = int(min(max(box.cx + half_width, left + 1), image.width))
    lower = int(min(max(box.cy + half_height, upper + 1), image.height))
    patch = np.asarray(image.crop((left, upper, right, lower)), dtype=np.float64)
    red, green, blue = patch.reshape(-1, 3).mean(axis=0) / 255
    return _name(*colorsys.rgb_to_hsv(float(red), float(green), float(blue)))


def _name(hue: float, saturation: float, value: float) -> str:
    if value < 0.2:
        return "black"
    if saturation < 0.08:
        return "white" if value > 0.85 else "grey"
    degrees = hue * 360
    name = next(name for limit, name in (*_HUES, *_LATE_HUES) if degrees <= limit)
    if name in ("red", "orange") and value > 0.7 and saturation < 0.4:
        return "pink"
    return "brown" if name == "orange" and value < 0.65 else name
