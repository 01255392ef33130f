"""Pascal VOC: one XML of labelled boxes per image, splits as lists of names."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

from reground.data.convert.common import Images, numbers, reading
from reground.data.convert.detections import Asker, Labelled, read_questions
from reground.data.images import ImageSize
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample


def convert(
    source: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    questions: Path | None = None,
    views: int = 0,
    allow_missing_images: bool = False,
) -> Iterator[Sample]:
    """Samples of a VOC folder (Annotations, ImageSets/Main, JPEGImages), by :class:`Asker`.

    ``split`` names a list in ImageSets/Main; without it every annotated image is read. VOC counts
    pixels from 1 and includes the last, so a box's left and upper edge lie one below the
    recorded ``xmin`` and ``ymin``.
    """
    folder = source / "Annotations"
    trees = {path.stem: _parse(path) for path in sorted(folder.glob("*.xml"))}
    if not trees:
        raise DataError(f"{folder}: no XML files; expected a Pascal VOC folder as source")
    classes = sorted({_label(item) for tree in trees.values() for item in tree.iter("object")})
    asker = Asker("voc", read_questions(questions, classes), views)
    found = Images(images or source / "JPEGImages", allow_missing_images)
    for name in _names(source, split, list(trees)):
        if name not in trees:
            raise DataError(f"{folder / name}.xml: no such file, but split {split!r} lists it")
        with reading(f"{folder / name}.xml"):
            image = _image(trees[name], name, found)
            objects = list(_objects(trees[name], image, name))
        yield from asker.samples(name, image, objects)


def _parse(path: Path) -> ET.Element:
    try:
        return ET.parse(path).getroot()
    except ET.ParseError as error:
        raise DataError(f"{path}: broken XML ({error}); mend the file") from None


def _names(source: Path, split: str | None, annotated: Sequence[str]) -> Sequence[str]:
    if split is None:
        return annotated
    lists = source / "ImageSets" / "Main"
    path = lists / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in lists.glob("*.txt"))) or "none"
        raise DataError(f"{path}: no such split; {lists} has {known}")
    # Class-wise lists hold "name -1" lines; the name is the first word.
    return [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line]


def _image(tree: ET.Element, name: str, found: Images) -> ImageRef:
    filename = tree.findtext("filename") or f"{name}.jpg"
    width, height = (int(tree.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    return found.ref(filename, ImageSize(width, height) if width and height else None)


def _objects(tree: ET.Element, image: ImageRef, name: str) -> Iterator[Labelled]:
    for item in tree.iter("object"):
        edges = [item.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
        xmin, ymin, xmax, ymax = numbers(edges, where=f"{name}.xml")
        one = 1 if xmax > xmin and ymax > ymin else 0  # an empty box stays empty
        yield Labelled(_label(item), Box(xmin - one, ymin - one, xmax, ymax, image.frame))


def _label(item: ET.Element) -> str:
    return (item.findtext("name") or "").strip()
