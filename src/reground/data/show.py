"""Pictures of samples: true boxes green, a detector's blue, predicted ones orange."""

from __future__ import annotations

import logging
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from reground.data.fonts import font_for
from reground.data.images import load
from reground.grounding.boxes import Box, Frame
from reground.grounding.sample import Detection, Sample, Target

_LOG = logging.getLogger(__name__)
_HEIGHT = 320  # of every image in a picture, in pixels
_WIDTH = 1400  # of a row of pictures, unless one alone is wider
_MARGIN, _LINE = 8, 20
_TRUTH, _TOOL, _PREDICTED = "#1f9d3a", "#2f6fde", "#ff8c00"


def draw(
    sample: Sample, *, out: Path, predicted: Sequence[Target] = (), font: Path | None = None
) -> None:
    """Write one sample's picture as a PNG (see :func:`picture`)."""
    _save(picture(sample, predicted=predicted, font=font), out)


def contact_sheet(samples: Iterable[Sample], *, out: Path, font: Path | None = None) -> None:
    """Write the pictures of several samples in rows as a PNG."""
    rows: list[list[Image.Image]] = []
    for one in map(partial(picture, font=font), samples):
        if rows and sum(part.width + _MARGIN for part in [*rows[-1], one]) <= _WIDTH:
            rows[-1].append(one)
        else:
            rows.append([one])
    _save(_stacked([_side_by_side(row) for row in rows]), out)


def picture(
    sample: Sample, *, predicted: Sequence[Target] = (), font: Path | None = None
) -> Image.Image:
    """The sample's images side by side with target, detector's and ``predicted`` boxes.

    Below stands the question, then the chain, if any, in a ``font`` that has the letters. Images
    are scaled to one height.
    """
    panels = [_panel(sample, index, predicted) for index in range(len(sample.images))]
    joined = _side_by_side(panels)
    caption = sample.question if sample.think is None else f"{sample.question} | {sample.think}"
    return _stacked([joined, _caption(f"{sample.id}: {caption}", joined.width, font)])


def _panel(sample: Sample, index: int, predicted: Sequence[Target]) -> Image.Image:
    image = load(sample.images[index])
    width = max(1, round(image.width * _HEIGHT / image.height))
    scaled = image.resize((width, _HEIGHT), Image.Resampling.LANCZOS)
    kinds: list[tuple[Sequence[Target | Detection], str]] = [
        (sample.targets, _TRUTH),
        (sample.tool_results or (), _TOOL),
        (predicted, _PREDICTED),
    ]
    marks = [(mark.box, colour) for marks, colour in kinds for mark in marks if mark.image == index]
    return _with_boxes(scaled, marks) if marks else scaled


def _with_boxes(image: Image.Image, marks: Sequence[tuple[Box, str]]) -> Image.Image:
    with warnings.catch_warnings():  # Pillow images are drawn on without OpenCV just as well
        warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
        import supervision
    frame = Frame.pixels(image.width, image.height)
    corners = np.array([box.to(frame).clipped().xyxy for box, _ in marks])
    annotator = supervision.BoxAnnotator(
        color=supervision.ColorPalette.from_hex([colour for _, colour in marks]),
        thickness=2,
        color_lookup=supervision.ColorLookup.INDEX,
    )
    drawn: Image.Image = annotator.annotate(image.copy(), supervision.Detections(xyxy=corners))
    return drawn


def _caption(text: str, width: int, chosen: Path | None) -> Image.Image:
    font = font_for(text, chosen)
    if font is None:
        _LOG.warning("no font here has the letters of %r; name one with --font", text[:60])
        text, font = "(in letters that no font here has)", font_for("")
    num_letters = max(16, width // 7)
    lines = textwrap.wrap(text, num_letters) or [""]
    strip = Image.new("RGB", (width, _LINE * len(lines)), "white")
    for number, line in enumerate(lines):
        ImageDraw.Draw(strip).text((0, _LINE * number), line, fill="black", font=font)
    return strip


def _side_by_side(parts: Sequence[Image.Image]) -> Image.Image:
    width = sum(part.width for part in parts) + _MARGIN * (len(parts) - 1)
    joined = Image.new("RGB", (width, max(part.height for part in parts)), "white")
    left = 0
    for part in parts:
        joined.paste(part, (left, 0))
        left += part.width + _MARGIN
    return joined


def _stacked(parts: Sequence[Image.Image]) -> Image.Image:
    turned = [part.transpose(Image.Transpose.TRANSPOSE) for part in parts]
    return _side_by_side(turned).transpose(Image.Transpose.TRANSPOSE)


def _save(image: Image.Image, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    image.save(out, format="PNG")
