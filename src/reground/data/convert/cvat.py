"""CVAT's own XML, for images and for tracks in a video."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from reground.data.convert.common import bounds, read_bytes, turned
from reground.data.convert.labelled import Mark, Photo
from reground.data.convert.tally import Tally
from reground.data.images import Edges, ImageSize
from reground.errors import DataError

_NO_BOXES = ("polyline", "points", "mask", "cuboid", "skeleton", "tag")


def photos(source: Path, tally: Tally) -> tuple[list[Photo], list[str]]:
    """The photos of a "CVAT for images" or "for video" XML, and all its labels.

    Frames of a video are called as CVAT's own export writes them, frame_000000 and so on.
    """
    try:
        root = ET.fromstring(read_bytes(source))
    except (ET.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{source}: not an XML of CVAT ({error}); export it again") from None
    if root.tag != "annotations":
        raise DataError(f"{source}: the root is <{root.tag}>; expected CVAT's <annotations>")
    read = []
    for image in root.iter("image"):
        with tally.row(source, str(image.get("name")), "photo"):
            marks = tuple(_marks(image, image.attrib["name"], tally))
            read.append(Photo(image.attrib["name"], marks, _size(image)))
    read += _frames(root, source, tally)
    if not read:
        raise DataError(f"{source}: has neither <image> nor <track>; export it from CVAT again")
    stated = {label.findtext("name", "").strip() for label in root.iter("label")}
    return read, sorted((stated | {mark.label for each in read for mark in each.marks}) - {""})


def _frames(root: ET.Element, source: Path, tally: Tally) -> list[Photo]:
    by_frame: dict[int, list[Mark]] = defaultdict(list)
    size = next(root.iter("original_size"), None)
    for track in root.iter("track"):
        for shape in track:
            with tally.row(source, f"track {track.get('id')}, frame {shape.get('frame')}", "box"):
                if shape.get("outside") != "1":
                    mark = _mark(shape, track.attrib["label"], f"frame {shape.get('frame')}", tally)
                    by_frame[int(shape.attrib["frame"])] += [mark] if mark else []
    recorded = None
    if size is not None:
        with tally.row(source, "original_size"):
            width, height = (int(size.findtext(side) or 0) for side in ("width", "height"))
            recorded = ImageSize(width, height) if width > 0 and height > 0 else None
    return [
        Photo(f"frame_{frame:06d}.png", tuple(marks), recorded)
        for frame, marks in sorted(by_frame.items())
    ]


def _size(image: ET.Element) -> ImageSize | None:
    width, height = (int(float(image.get(side) or 0)) for side in ("width", "height"))
    return ImageSize(width, height) if width and height else None


def _marks(image: ET.Element, name: str, tally: Tally) -> Iterator[Mark]:
    for shape in image:
        with tally.row(name, f"{shape.tag} {shape.get('label')}", "box"):
            if mark := _mark(shape, shape.attrib["label"], name, tally):
                yield mark


def _mark(shape: ET.Element, label: str, name: str, tally: Tally) -> Mark | None:
    label = label.strip()
    if shape.tag == "box":
        if shape.get("rotation", "0").strip("0."):
            tally.note("rotated boxes, their upright bounds taken", name)
        return Mark.of(label, partial(_box, shape))
    if shape.tag in ("ellipse", "polygon"):
        return Mark.of(label, partial(_ellipse if shape.tag == "ellipse" else _polygon, shape))
    if shape.tag in _NO_BOXES:
        tally.note(f"shapes that are no boxes ({shape.tag}), left out", name)
    return None


def _box(shape: ET.Element) -> Edges:
    edges = _four(shape, "xtl", "ytl", "xbr", "ybr")
    if not (degrees := float(shape.get("rotation") or 0)):
        return edges
    return turned(edges, degrees, ((edges[0] + edges[2]) / 2, (edges[1] + edges[3]) / 2))


def _ellipse(shape: ET.Element) -> Edges:
    x, y, across, down = _four(shape, "cx", "cy", "rx", "ry")
    return (x - across, y - down, x + across, y + down)


def _polygon(shape: ET.Element) -> Edges:
    return bounds(each.split(",") for each in shape.attrib["points"].split(";"))


def _four(shape: ET.Element, *names: str) -> Edges:
    first, second, third, fourth = (float(shape.attrib[name]) for name in names)
    return (first, second, third, fourth)
