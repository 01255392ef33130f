"""Pictures of samples: true boxes green, a detector's blue, predicted ones orange."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from reground.data.images import load
from reground.grounding.boxes import Box, Frame
from reground.grounding.sample import Detection, Sample, Target

_HEIGHT = 320  # of every image in a picture, in pixels
_WIDTH = 1400  # of a row of pictures, unless one alone is wider
_MARGIN, _LINE = 8, 20
_TRUTH, _TOOL, _PREDICTED = "#1f9d3a", "#2f6fde", "#ff8c00"


def draw(sample: Sample, *, out: Path, predicted: Sequence[Target] | None = None) -> None:
    """Write one sample's picture as a PNG (see :func:`picture`)."""
    _save(picture(sample, predicted=predicted), out)


def contact_sheet(
    samples: Iterable[Sample],
    *,
    out: Path,
    predicted: Mapping[str, Sequence[Target]] | None = None,
) -> None:
    """Write the pictures of several samples in rows as a PNG; ``predicted`` goes by sample id."""
    answers = predicted or {}
    pictures = [picture(sample, predicted=answers.get(sample.id)) for sample in samples]
    rows: list[list[Image.Image]] = []
    for one in pictures:
        if rows and sum(part.width + _MARGIN for part in [*rows[-1], one]) <= _WIDTH:
            rows[-1].append(one)
        else:
            rows.append([one])
    _save(_stacked([_side_by_side(row) for row in rows]), out)


def picture(sample: Sample, *, predicted: Sequence[Target] | None = None) -> Image.Image:
    """The sample's images side by side with target, detector's and ``predicted`` boxes.

    Below stands the question, then the chain, if any. Images are scaled to one height.
    """
    panels = [_panel(sample, index, predicted or ()) for index in range(len(sample.images))]
    joined = _side_by_side(panels)
    caption = sample.question if sample.think is None else f"{sample.question} | {sample.think}"
    return _stacked([joined, _caption(f"{sample.id}: {caption}", joined.width)])


def _panel(sample: Sample, index: int, predicted: Sequence[Target]) -> Image.Image:
    image = load(sample.images[index])
    width = max(1, round(image.width * _HEIGHT / image.height))
    scaled = image.resize((width, _HEIGHT), Image.Resampling.LANCZOS)
    tool = sample.tool_results or ()
    kinds: list[tuple[Sequence[Target | Detection], str]] = [
        (sample.targets, _TRUTH),
        (tool, _TOOL),
        (predicted, _PREDICTED),
    ]
    for places, colour in kinds:
        boxes = [place.box for place in places if place.image == index]
        scaled = _with_boxes(scaled, boxes, colour)
    return scaled


def _with_boxes(image: Image.Image, boxes: Sequence[Box], colour: str) -> Image.Image:
    if not boxes:
        return image
    with warnings.catch_warnings():  # Pillow images are drawn on without OpenCV just as well
        warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
        import supervision
    frame = Frame.pixels(image.width, image.height)
    corners = np.array([box.to(frame).clipped().xyxy for box in boxes])
    annotator = supervision.BoxAnnotator(
        color=supervision.Color.from_hex(colour),
        thickness=2,
        color_lookup=supervision.ColorLookup.INDEX,
    )
    drawn: Image.Image = annotator.annotate(image.copy(), supervision.Detections(xyxy=corners))
    return drawn


def _caption(text: str, width: int) -> Image.Image:
    font = ImageFont.load_default(14)
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
    height = sum(part.height for part in parts) + _MARGIN * (len(parts) - 1)
    joined = Image.new("RGB", (max(part.width for part in parts), height), "white")
    upper = 0
    for part in parts:
        joined.paste(part, (0, upper))
        upper += part.height + _MARGIN
    return joined


def _save(image: Image.Image, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    image.save(out, format="PNG")
