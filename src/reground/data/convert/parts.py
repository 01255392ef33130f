"""Which parts a folder of labelled photos has: train, val and test, as its maker made them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from reground.data.convert.auto import files_by_format, recognised
from reground.data.convert.writing import PARTS
from reground.errors import DataError

ALL = "all"  # of a source that is in no parts
_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True, slots=True)
class Part:
    """What is converted for one part of the photos; ``split`` chooses it in a source of several."""

    name: str
    format: str
    source: Path
    split: str | None = None


def parts(source: Path) -> list[Part]:
    """The parts of labelled photos, train first; one part called "all" where there are none.

    Parts are folders, files, or lists of Pascal VOC that are called so (train, valid,
    instances_val2017.json). They count where train and another one are there. A folder around one
    folder and nothing else is looked through. Raises ``DataError`` as :func:`recognised` does.
    """
    source = _inside(source)
    ways = (_lists, _folders, _files) if source.is_dir() else ()
    for way in ways:
        found: Mapping[str, Part] = {}
        with suppress(DataError):  # of more than one format, or file
            found = way(source)
        if "train" in found and len(found) > 1:
            return [found[name] for name in PARTS if name in found]
    name, place = recognised(source)
    return [Part(ALL, name, place)]


def part_of(name: str) -> str | None:
    """The part that the name of a file or a folder speaks of.

    >>> part_of("instances_val2017"), part_of("Valid"), part_of("train_or_test")
    ('val', 'val', None)
    """
    words = re.findall("[a-z]+", name.lower())
    found = {_WORDS[word] for word in words if word in _WORDS}
    return found.pop() if len(found) == 1 else None


def _inside(source: Path) -> Path:
    """The folder within folders that hold one folder and nothing else, as archives unpack."""
    while source.is_dir():
        within = [path for path in source.iterdir() if not path.name.startswith(".")]
        if len(within) != 1 or not within[0].is_dir():
            break
        source = within[0]
    return source


def _folders(source: Path) -> Mapping[str, Part]:
    """Folders of which each holds photos and their labels."""
    named = _by_part(path for path in sorted(source.iterdir()) if path.is_dir())
    return {part: Part(part, *recognised(path)) for part, path in named.items()}


def _files(source: Path) -> Mapping[str, Part]:
    """Files of one format, of which each holds the labels of a part."""
    found = files_by_format(source)
    if len(found) != 1:
        return {}
    [(kind, files)] = found.items()
    if kind in ("voc", "labelme"):  # a file for each photo
        return {}
    named = _by_part(files)
    whole = len(named) == len(files)
    return {part: Part(part, kind, path) for part, path in named.items() if whole}


def _lists(source: Path) -> Mapping[str, Part]:
    """What a converter's ``--split`` chooses: lists of Pascal VOC, folders of YOLO's photos."""
    kind, place = recognised(source)
    if kind == "voc":
        names = {path.stem for path in source.rglob("Main/*.txt")}
        splits: dict[str, str] = {name: name for name in PARTS if name in names}
        if "train" not in splits and "trainval" in names:
            splits["train"] = "trainval"
    elif kind == "yolo":
        folders = (path.name for path in source.rglob("*") if path.is_dir())
        splits = {part: part for part in map(part_of, folders) if part}
    else:
        return {}
    return {part: Part(part, kind, place, split) for part, split in splits.items()}


def _by_part(paths: Iterable[Path]) -> dict[str, Path]:
    """Paths by the part that they are called after; none where two are called alike."""
    named: dict[str, Path] = {}
    for path in paths:
        part = part_of(path.stem) or part_of(path.parent.name)
        if part in named:
            return {}
        if part:
            named[part] = path
    return named
