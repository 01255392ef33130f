"""Pictures of samples: true boxes, a detector's, predicted ones; and sheets of many."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path, PurePath

from PIL import Image, ImageDraw

from reground.data.captions import Entry, text_block
from reground.data.fonts import font_for
from reground.data.images import load
from reground.data.schemes import is_endless
from reground.errors import DataError
from reground.grounding.boxes import Box, Frame
from reground.grounding.sample import Detection, ImageRef, Sample, Target, is_file_path

_LOG = logging.getLogger(__name__)
_HEIGHT, _TALLEST = 320, 1000  # of an image in a picture, in pixels; of one that is very narrow
_NARROW = 80  # an image less wide is made taller, as far as that goes
_WIDTH = 1400  # of a row of pictures
_PAGE = 2400  # of a page of them
_CAPTION = 240  # the least width of what stands below
_MARGIN = 8
_SMALLEST = 6  # a box is drawn no smaller, so that it is seen
_ENTRIES, _LINES = 8, 4  # questions below a picture of a sheet, and lines of each
_TRUTH, _TOOL, _FIRST, _PREDICTED = "#1f9d3a", "#2f6fde", "#a734c9", "#ff8c00"
# Of classes, or of the questions about one photo: the first is also that of truth.
_COLOURS = (
    *(_TRUTH, "#e6194b", "#f032e6", "#ffb000", "#00b8c8", "#7d2ae8", "#8bdc00", "#9a5b13"),
    *("#ffe95c", "#ff8fa3"),
)


@dataclass(slots=True)
class _Mark:
    """A box in one of a cell's images, and what stands at its corner."""

    image: int
    box: Box
    colour: str
    tags: list[str] = field(default_factory=list)


def draw(
    sample: Sample, *, out: Path, predicted: Sequence[Target] = (), font: Path | None = None
) -> None:
    """Write one sample's picture as a PNG (see :func:`picture`)."""
    _save(picture(sample, predicted=predicted, font=font), out)


def picture(
    sample: Sample,
    *,
    predicted: Sequence[Target] = (),
    scores: Sequence[float | None] = (),
    first: Sequence[Detection] = (),
    images: Sequence[Image.Image] = (),
    font: Path | None = None,
) -> Image.Image:
    """The sample's images with target boxes in green, a detector's in blue, ``predicted`` orange.

    These have their ``scores`` at the corner; those of a ``first`` thought are purple. Below is the
    question, then the chain, if any, in a ``font`` that has the letters. ``images`` are RGB images
    in place of the sample's own; they are scaled to one height. Raises ``DataError`` where an image
    cannot be read.
    """
    marks = [_Mark(each.image, each.box, _TRUTH) for each in sample.targets]
    marks += _detected(sample)
    marks += [_Mark(each.image, each.box, _FIRST) for each in first]
    for each, score in zip_longest(predicted, scores):
        tags = [] if score is None else [f"{score:.2f}"]
        marks.append(_Mark(each.image, each.box, _PREDICTED, tags))
    shown = images or map(load, sample.images)
    panels = [_panel(image, index, marks) for index, image in enumerate(shown)]
    return _captioned(panels, [Entry(_caption_of(sample))], font)


def spread(dataset: Sequence[Sample], num_photos: int) -> list[Sample]:
    """Samples about ``num_photos`` photos, spread over a data set, in its order.

    With each come its neighbours that ask about the same images.
    """
    step = 1 if is_endless(dataset) else max(1, len(dataset) // num_photos)
    used: set[int] = set()
    photos = 0
    for place in chain(range(0, step * num_photos, step), range(len(dataset))):
        if photos == num_photos:
            break
        if place in used or place >= len(dataset):
            continue
        images, first, last = dataset[place].images, place, place
        while first > 0 and first - 1 not in used and dataset[first - 1].images == images:
            first -= 1
        while last + 1 < len(dataset) and dataset[last + 1].images == images:
            last += 1
        used.update(range(first, last + 1))
        photos += 1
    return [dataset[place] for place in sorted(used)]


def contact_sheet(
    samples: Iterable[Sample], *, out: Path, font: Path | None = None
) -> dict[Path, int]:
    """Write samples as pages of pictures, PNGs; returns how many samples each page holds.

    Samples about the same images share a picture. Each class (the stratum ``class``) has a colour
    in all pages, or each question about a photo where samples have none; the questions are below,
    and their numbers at the boxes where two have one colour. Pages after the first are ``out`` with
    .2, .3 before its ending. An image that cannot be read is a grey field with the reason.
    """
    cells: dict[tuple[ImageRef, ...], list[Sample]] = {}
    for sample in samples:
        cells.setdefault(sample.images, []).append(sample)
    classes = {each.strata.get("class"): None for group in cells.values() for each in group}
    is_few = None not in classes and len(classes) <= len(_COLOURS)
    shared = {str(name): colour for name, colour in zip(classes, _COLOURS, strict=False)}
    shared = shared if is_few else {}
    pages: list[list[list[Image.Image]]] = [[]]
    counts = [0]
    for group in cells.values():
        one = _cell(group, shared, font)
        if not _placed(pages[-1], one):
            height = sum(max(part.height for part in row) + _MARGIN for row in pages[-1])
            if pages[-1] and height + one.height > _PAGE:
                pages.append([])
                counts.append(0)
            pages[-1].append([one])
        counts[-1] += len(group)
    paths = [out, *(out.with_name(f"{out.stem}.{n}{out.suffix}") for n in range(2, len(pages) + 1))]
    for path, page in zip(paths, pages, strict=True):
        _save(_stacked([_side_by_side(row) for row in page]), path)
    return dict(zip(paths, counts, strict=True))


# ---- a cell of a sheet -------------------------------------------------------------------------


def _cell(group: Sequence[Sample], shared: dict[str, str], font: Path | None) -> Image.Image:
    """The images that a group of samples asks about, with all their boxes and questions."""
    own = list(dict.fromkeys(map(_label, group)))
    colours = shared or {label: _COLOURS[n % len(_COLOURS)] for n, label in enumerate(own)}
    numbered = len(own) < len(group)  # two questions of one colour
    marks: dict[tuple[int, Box], _Mark] = {}
    entries = [] if len(group) == 1 else [Entry(_title(group[0].images[0]))]
    for number, sample in enumerate(group[:_ENTRIES], start=1):
        colour = colours[_label(sample)]
        for target in sample.targets:
            key = (target.image, target.box)
            mark = marks.setdefault(key, _Mark(*key, colour))
            mark.tags += [str(number)] if numbered else []
        text = f"{number}. {sample.question}" if numbered else sample.question
        text = _caption_of(sample) if len(group) == 1 else text
        entries.append(Entry(text + _places(sample), colour))
    if len(group) > _ENTRIES:
        entries.append(Entry(f"and {len(group) - _ENTRIES} more questions, not drawn"))
    detected = [mark for sample in group for mark in _detected(sample)]
    entries += [Entry("a detector's boxes", _TOOL)] if detected else []
    every = [*detected, *marks.values()]
    panels = [_panel_or_reason(image, n, every) for n, image in enumerate(group[0].images)]
    return _captioned(panels, entries, font, most=_LINES)


def _label(sample: Sample) -> str:
    return sample.strata.get("class") or sample.question


def _caption_of(sample: Sample) -> str:
    chained = "" if sample.think is None else f" | {sample.think}"
    return f"{sample.id}: {sample.question}{chained}"


def _places(sample: Sample) -> str:
    """How many boxes answer, unless it is one, and in which of several images they are."""
    count = len(sample.targets)
    notes = [] if count == 1 else [f"{count} boxes" if count else "nothing"]
    if count and len(sample.images) > 1:
        which = sorted({target.image + 1 for target in sample.targets})
        notes.append(f"image {', '.join(map(str, which))}")
    return f" ({', '.join(notes)})" if notes else ""


def _title(image: ImageRef) -> str:
    return "/".join(PurePath(image.path).parts[-2:]) if is_file_path(image.path) else image.path


def _detected(sample: Sample) -> list[_Mark]:
    return [_Mark(each.image, each.box, _TOOL) for each in sample.tool_results or ()]


# ---- images and boxes --------------------------------------------------------------------------


def _panel_or_reason(image: ImageRef, index: int, marks: Iterable[_Mark]) -> Image.Image:
    try:
        return _panel(load(image), index, marks)
    except DataError as error:
        _LOG.warning("%s", error)
        field = Image.new("RGB", (_HEIGHT, _HEIGHT), "#bbbbbb")
        field.paste(
            text_block([Entry(str(error))], _HEIGHT - 2 * _MARGIN, None, 12), (_MARGIN,) * 2
        )
        return field


def _panel(loaded: Image.Image, index: int, marks: Iterable[_Mark]) -> Image.Image:
    scale = max(_HEIGHT / loaded.height, _NARROW / loaded.width)
    scale = min(scale, max(_TALLEST, _HEIGHT) / loaded.height, _WIDTH / loaded.width)
    sides = (max(1, round(loaded.width * scale)), max(1, round(loaded.height * scale)))
    scaled = loaded.resize(sides, Image.Resampling.LANCZOS, reducing_gap=3)
    own = [mark for mark in marks if mark.image == index]
    for mark in own:
        _outline(scaled, mark)
    for mark in own:
        _tag(scaled, mark)
    return scaled


def _edges(image: Image.Image, box: Box) -> tuple[float, float, float, float]:
    """A box in pixels of a scaled image, no smaller than can be seen."""
    inside = box.to(Frame.pixels(image.width, image.height)).clipped()
    across, down = (max(0.0, (_SMALLEST - side) / 2) for side in (inside.width, inside.height))
    return (inside.x1 - across, inside.y1 - down, inside.x2 + across, inside.y2 + down)


def _outline(image: Image.Image, mark: _Mark) -> None:
    left, upper, right, lower = _edges(image, mark.box)
    pen = ImageDraw.Draw(image)
    pen.rectangle((left - 1, upper - 1, right + 1, lower + 1), outline="white")
    pen.rectangle((left, upper, right, lower), outline=mark.colour, width=2)


def _tag(image: Image.Image, mark: _Mark) -> None:
    """What stands at a box's corner: its score, or the numbers of the questions it answers."""
    if not mark.tags:
        return
    text = " ".join(mark.tags)
    font = font_for("")
    pen = ImageDraw.Draw(image)
    width = pen.textlength(text, font) + 6
    left, upper, _, _ = _edges(image, mark.box)
    left = max(0, min(left, image.width - width))
    upper = max(0, upper - 16)
    pen.rectangle((left, upper, left + width, upper + 16), fill=mark.colour)
    pen.text((left + 3, upper), text, fill="white", font=font, stroke_width=1, stroke_fill="black")


def _captioned(
    panels: Sequence[Image.Image],
    entries: Sequence[Entry],
    font: Path | None,
    most: int | None = None,
) -> Image.Image:
    rows: list[list[Image.Image]] = []
    for panel in panels:
        if not _placed(rows, panel):
            rows.append([panel])
    joined = _stacked([_side_by_side(row) for row in rows])
    return _stacked([joined, text_block(entries, max(joined.width, _CAPTION), font, most)])


# ---- pages -------------------------------------------------------------------------------------


def _placed(rows: list[list[Image.Image]], one: Image.Image) -> bool:
    """Whether the last row had room for a picture, which is then in it."""
    if not rows or sum(part.width + _MARGIN for part in [*rows[-1], one]) > _WIDTH:
        return False
    rows[-1].append(one)
    return True


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
