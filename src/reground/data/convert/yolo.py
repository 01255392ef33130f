"""YOLO: a text file beside each photo, a line for each box, and the classes in data.yaml."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from reground.data.convert.common import bounds, read_text
from reground.data.convert.labelled import Mark, Photo
from reground.data.convert.photos import pictures_below
from reground.data.convert.tally import Tally, Unusable
from reground.data.soundness import Reason
from reground.errors import DataError
from reground.io import parse_yaml

_SPLITS = {"val": ("val", "valid", "validation"), "test": ("test",), "train": ("train",)}
LISTS = ("classes.txt", "obj.names", "labels.txt")


def photos(
    source: Path, tally: Tally, *, split: str | None = None
) -> tuple[list[Photo], list[str]]:
    """The photos of a YOLO folder (or of its data.yaml's), and all classes.

    The labels of ``images/a.jpg`` are in ``labels/a.txt``, or beside the photo; a photo without
    such a file shows nothing. A line is a class and the box's middle and sides, or the corners of a
    polygon, in shares of the photo. ``split`` takes photos below a folder of that name.
    """
    folder = source if source.is_dir() else source.parent
    names = _names(source, folder)
    read = []
    labels = {path.relative_to(folder).as_posix() for path in folder.rglob("*.txt")}
    labels = {name for name in labels if not _is_list(name)}
    own_of = {
        name: next((path for path in _label_files(name) if path in labels), None)
        for name in pictures_below(folder)
    }
    photos_of = Counter(own_of.values())
    labels -= {own for own in own_of.values() if own}
    for name, own in own_of.items():
        if split and not {*_SPLITS.get(split, (split,))} & {*PurePosixPath(name).parts[:-1]}:
            continue
        with tally.row(folder, name, "photo"):
            if own and photos_of[own] > 1:
                raise Unusable("two photos of one label file", f"{own} is that of another, too")
            read.append(_photo(name, folder / own if own else None, names, tally))
    if split and not read:
        raise DataError(f"{folder}: no photos below a folder {split!r}; leave --split out for all")
    for name in sorted(labels) if read else ():
        with tally.row(folder, name, "photo"):
            raise Unusable(Reason.MISSING_IMAGE, f"{name}: labels of no photo")
    if not read:
        raise DataError(f"{folder}: no photos; expected images/ and labels/ of a YOLO data set")
    return read, list(names.values())


def _names(source: Path, folder: Path) -> dict[int, str]:
    """The classes by number: of data.yaml (any .yaml with names), or of a list of them."""
    tables = [source] if source.is_file() else [*folder.glob("*.yaml"), *folder.glob("*.yml")]
    for path in sorted(tables):
        content = parse_yaml(read_text(path), str(path), DataError)
        if isinstance(content, dict) and "names" in content:
            return _numbered(content["names"], path)
    for name in LISTS:
        for path in sorted(folder.rglob(name)):
            lines = [line.strip() for line in read_text(path).splitlines()]
            return dict(enumerate(filter(None, lines)))
    raise DataError(f"{folder}: no class names; expected data.yaml with 'names', or classes.txt")


def _numbered(names: Any, path: Path) -> dict[int, str]:
    listed = dict(enumerate(names)) if isinstance(names, list) else names
    try:
        return {int(number): str(name) for number, name in listed.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise DataError(
            f"{path}: names is {names!r:.200}; expected a list or numbers to names"
        ) from None


def _is_list(name: str) -> bool:
    """Whether a text file is one of names and not of boxes."""
    path = PurePosixPath(name)
    return (
        path.name in LISTS
        or path.name.lower().startswith("readme")
        or (len(path.parts) == 1 and path.stem in {"train", "val", "valid", "test", "notes"})
    )


def _label_files(name: str) -> Iterator[str]:
    """Where the labels of a photo may be, the likeliest first."""
    path = PurePosixPath(name).with_suffix(".txt")
    parts = list(path.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place].lower() in ("images", "jpegimages"):
            yield "/".join([*parts[:place], "labels", *parts[place + 1 :]])
    yield path.as_posix()


def _photo(name: str, path: Path | None, names: dict[int, str], tally: Tally) -> Photo:
    marks: list[Mark] = []
    unsure: set[str] = set()
    lines = read_text(path).splitlines() if path else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        with tally.row(path or name, f"{name}: line {number}", "box"):
            marks.append(_mark(line.split(), names, name, tally))
            continue
        unsure.update(names.values())  # whose box it is cannot be said
    return Photo(name, tuple(marks), unsure=frozenset(unsure))


def _mark(words: list[str], names: dict[int, str], name: str, tally: Tally) -> Mark:
    number, *values = (float(word) for word in words)
    if number not in names:
        raise Unusable("unknown class", f"class {words[0]} of {len(names)}")
    label = names[int(number)]
    if len(values) in (4, 5):  # a fifth is the confidence of a detector
        x, y, width, height = values[:4]
        return Mark(
            label, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), shares=True
        )
    if len(values) < 6 or len(values) % 2:
        raise Unusable("box without four numbers", " ".join(words))
    tally.note("polygons, their bounds taken", name)
    return Mark(label, bounds(zip(values[::2], values[1::2], strict=True)), shares=True)
