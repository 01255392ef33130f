"""Pascal VOC: an XML for each photo."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from reground.data.convert.common import numbers, read_bytes, read_text, turned
from reground.data.convert.labelled import Mark, Photo
from reground.data.convert.photos import SUFFIXES
from reground.data.convert.tally import Tally, Unusable
from reground.data.images import ImageSize
from reground.errors import DataError


def photos(
    source: Path, tally: Tally, *, split: str | None = None, origin: int | None = None
) -> tuple[list[Photo], list[str]]:
    """The photos of a folder with XML files, and all their classes.

    The XML files lie anywhere below ``source``. ``split`` names a list in ImageSets/Main.
    ``origin`` is what the first pixel is called: 1 in VOC's own files, whose boxes include their
    last pixel; None finds it: 0 where a coordinate is 0 or a fraction, 1 where one is the photo's
    width or height, else 0, as today's tools write.
    """
    files = sorted(path for path in source.rglob("*.xml") if not path.name.startswith("."))
    if not files:
        raise DataError(f"{source}: no XML files; expected a Pascal VOC folder as source")
    trees = {}
    for path in files:
        with tally.row(path, path.stem, "photo"):
            trees[path] = _parse(path)
    classes = sorted({_label(item) for tree in trees.values() for item in tree.iter("object")})
    if origin is None:
        origin = _origin(trees.values())
        tally.note(f"pixels count from {origin} (--origin says otherwise)", str(source))
    chosen = trees if split is None else _chosen(source, split, trees, tally)
    read = []
    for path, tree in chosen.items():
        with tally.row(path, path.stem, "photo"):
            read.append(_photo(tree, path, source, origin, tally))
    return read, classes


def _parse(path: Path) -> ET.Element:
    try:
        # ElementTree reads marks and declared encodings; a text without either may be Latin-1.
        return ET.fromstring(read_bytes(path))
    except (ET.ParseError, ValueError, LookupError):
        try:
            return ET.fromstring(read_text(path, "latin-1"))
        except (ET.ParseError, ValueError, DataError) as error:
            raise Unusable("broken XML", f"{path}: {error}; mend the file") from None


def _chosen(
    source: Path, split: str, trees: dict[Path, ET.Element], tally: Tally
) -> dict[Path, ET.Element]:
    """The trees that a list names, once each, or, without lists, those in a folder so called."""
    lists = sorted(path for path in source.rglob("*.txt") if path.parent.name == "Main")
    path = next((each for each in lists if each.stem == split), None)
    if path is None:
        inside = {
            each: tree
            for each, tree in trees.items()
            if split in each.relative_to(source).parts[:-1]
        }
        if inside:
            return inside
        known = ", ".join(sorted(each.stem for each in lists)) or "none"
        raise DataError(
            f"{source}: no such split; expected ImageSets/Main/{split}.txt, the folder has {known}"
        )
    by_name = {each.stem: each for each in trees}
    chosen = {}
    for line in filter(None, map(str.strip, read_text(path).splitlines())):
        # Class-wise lists hold "name -1" lines; a name may hold blanks of its own.
        name = next(
            (each for each in (_bare(line), _bare(line.split()[0])) if each in by_name), None
        )
        with tally.row(path, line):
            if name is None:
                raise Unusable("listed, without an XML", f"{_bare(line)}.xml: no such file")
            chosen[by_name[name]] = trees[by_name[name]]
    return chosen


def _bare(name: str) -> str:
    """A listed name without its folder and without the ending of a photo or an XML."""
    name = name.replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in {*SUFFIXES, ".xml"} else name


def _origin(trees: Iterable[ET.Element]) -> int:
    at_edge = False
    for tree in trees:
        width, height = (_number(tree.findtext(f"size/{side}")) for side in ("width", "height"))
        for item in tree.iter("bndbox"):
            xmin, ymin, xmax, ymax = (
                _number(item.findtext(edge)) for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            edges = [value for value in (xmin, ymin, xmax, ymax) if not math.isnan(value)]
            if any(value <= 0 or value != int(value) for value in edges):
                return 0
            at_edge = at_edge or xmax == width or ymax == height
    return int(at_edge)


def _number(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _photo(tree: ET.Element, path: Path, source: Path, origin: int, tally: Tally) -> Photo:
    stated = (tree.findtext("filename") or "").strip()
    width, height = (_number(tree.findtext(f"size/{side}")) for side in ("width", "height"))
    recorded = ImageSize(int(width), int(height)) if width > 0 and height > 0 else None
    marks = tuple(_marks(tree, path, origin, tally))
    return Photo(stated or f"{path.stem}.jpg", marks, recorded, stem=path.stem)


def _marks(tree: ET.Element, path: Path, origin: int, tally: Tally) -> Iterator[Mark]:
    for item in tree.iter("object"):
        if (element := item.find("robndbox")) is not None:
            tally.note("rotated boxes, their upright bounds taken", path.name)
            yield Mark.of(_label(item), partial(_bounds, element))
        else:
            texts = [item.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
            yield Mark(_label(item), _from_origin(texts, origin))


def _from_origin(texts: Sequence[str | None], origin: int) -> Sequence[object]:
    """The edges with the first pixel at 0; what are no numbers stays for the reading to refuse."""
    values = [_number(text) for text in texts]
    if any(map(math.isnan, values)):
        return texts
    xmin, ymin, xmax, ymax = values
    if xmax == xmin or ymax == ymin:  # an empty box stays empty
        return values
    return (
        (xmin - origin, ymin - origin, xmax, ymax)
        if xmax > xmin and ymax > ymin
        else (xmin, ymin, xmax, ymax)
    )


def _bounds(element: ET.Element) -> Sequence[object]:
    """The upright bounds of roLabelImg's box: its middle, its sides, its angle in radians."""
    cx, cy, width, height = numbers([element.findtext(name) for name in ("cx", "cy", "w", "h")])
    angle = math.degrees(float(element.findtext("angle") or 0))
    upright = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
    return turned(upright, angle, (cx, cy))


def _label(item: ET.Element) -> str:
    return (item.findtext("name") or "").strip()
