"""Lines of text below a picture, each in a font that has its letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from reground.data.fonts import Font, drawable

_LINE = 20  # pixels from line to line


@dataclass(frozen=True, slots=True)
class Entry:
    """A text; one with a colour has a swatch of it."""

    text: str
    colour: str | None = None


def text_block(
    entries: Sequence[Entry], width: int, chosen: Path | None, most: int | None
) -> Image.Image:
    """The entries in lines of at most ``width`` pixels, ``most`` of each, on white.

    ``chosen`` is the file of a font; without one each entry gets one that has its letters.
    """
    indent = _LINE if any(entry.colour for entry in entries) else 0
    lines: list[tuple[str, str | None, Font]] = []
    for entry in entries:
        text, font = drawable(entry.text, chosen)
        own = wrapped(text, font, width - indent)
        if most and len(own) > most:
            own = [*own[: most - 1], f"{own[most - 1][:-1]}…"]
        lines += [(line, None if n else entry.colour, font) for n, line in enumerate(own)]
    strip = Image.new("RGB", (width, _LINE * len(lines)), "white")
    pen = ImageDraw.Draw(strip)
    for number, (line, colour, font) in enumerate(lines):
        if colour:
            pen.rectangle((2, _LINE * number + 3, 14, _LINE * number + 15), fill=colour)
        pen.text((indent, _LINE * number), line, fill="black", font=font)
    return strip


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """Lines of at most ``width`` pixels; a word, or a text without blanks, is cut where it must."""
    lines = [""]
    for word in " ".join(text.split()).split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines += [word] if lines[-1] else []
        lines[-1] = word
        while font.getlength(lines[-1]) > width and len(lines[-1]) > 1:
            fits = _that_fit(lines[-1], font, width)
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return lines


def _that_fit(text: str, font: Font, width: int) -> int:
    """How many of a text's letters fit, at least one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low
