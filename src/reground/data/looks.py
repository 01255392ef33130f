"""How pictures look, in numbers: which two are the same file, the same pixels, or nearly so."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reground.data.images import load
from reground.errors import DataError
from reground.grounding.sample import is_file_path

SIDE = 16  # of the perceptual hash and of the small grey picture: 256 numbers each
# Of 364 photos of blood cells, which look much alike, the two of one spot differ in 24 bits, all
# others in 90 or more; of simple drawn scenes no two in fewer than 54. JPEG at quality 20, half and
# double size, a square, a thumbnail of 96 pixels and a fifth more or less light change at most 12.
LIMIT = 32
ALIKE = 0.9  # correlation of the grey pictures: bar codes have nearly one hash and do not agree
_PLAIN = 2.0  # standard deviation of grey levels below which a picture has nothing to compare
_TRAIN, _EVAL = 8192, 1024  # pictures that are compared at a time


class Likeness(StrEnum):
    """How far two pictures are the same, the closest first."""

    FILE = "same file"
    PIXELS = "same pixels"
    NEAR = "nearly the same"


@dataclass(frozen=True, slots=True)
class Look:
    """A picture in numbers.

    ``file`` is the SHA-256 of its file, or the path of a scene that is no file; ``pixels`` that of
    the upright RGB picture. ``bits`` [256] is its perceptual hash, ``grey`` [256] the picture at 16
    x 16 with mean 0 and length 1, or all 0 where it is almost of one colour.
    """

    file: str
    pixels: str
    bits: NDArray[np.bool_]
    grey: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class PicturePair:
    """Two pictures that are the same, more or less; ``distance`` is the bits that differ of 256."""

    likeness: Likeness
    train: str
    eval: str
    distance: int


def look(path: str) -> Look:
    """A picture in numbers; raises ``DataError`` as :func:`load` does."""
    import imagehash

    image = load(path)
    file = hashlib.sha256(Path(path).read_bytes()).hexdigest() if is_file_path(path) else path
    pixels = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    grey = image.convert("L")
    bits = imagehash.phash(grey, hash_size=SIDE).hash.ravel()
    return Look(file, pixels, bits, _small(grey))


def looks(paths: Iterable[str]) -> tuple[dict[str, Look], dict[str, str]]:
    """How each picture looks, and what is wrong with those that cannot be read; each once."""
    from rich.console import Console
    from rich.progress import track

    def one(path: str) -> Look | str:
        try:
            return look(path)
        except DataError as error:
            return str(error)

    own = {path: os.path.realpath(path) if is_file_path(path) else path for path in paths}
    names = dict.fromkeys(own.values())
    with ThreadPoolExecutor() as workers:
        found = dict(
            zip(
                names,
                track(
                    workers.map(one, names),
                    "looking at pictures",
                    total=len(names),
                    console=Console(stderr=True),
                    transient=True,
                ),
                strict=True,
            )
        )
    every = {path: found[name] for path, name in own.items()}
    good = {path: each for path, each in every.items() if isinstance(each, Look)}
    return good, {path: each for path, each in every.items() if isinstance(each, str)}


def pairs(train: Mapping[str, Look], held_out: Mapping[str, Look]) -> list[PicturePair]:
    """Every picture of ``held_out`` with those of ``train`` that are the same, the closest first.

    Same pixels are found by their digest; near ones by comparing all hashes at once: two pictures
    are nearly the same if their hashes differ in at most 32 bits of 256 and their small grey
    pictures agree.
    """
    ours, theirs = _by_pixels(train), _by_pixels(held_out)
    found = [
        PicturePair(
            Likeness.FILE if train[one].file == held_out[other].file else Likeness.PIXELS,
            one,
            other,
            0,
        )
        for pixels in theirs.keys() & ours.keys()
        for one in ours[pixels]
        for other in theirs[pixels]
    ]
    left, right = list(ours), list(theirs)
    for i, j, distance in _near(
        [train[ours[pixels][0]] for pixels in left],
        [held_out[theirs[pixels][0]] for pixels in right],
    ):
        if left[i] != right[j]:
            found += [
                PicturePair(Likeness.NEAR, one, other, distance)
                for one in ours[left[i]]
                for other in theirs[right[j]]
            ]
    order = list(Likeness)
    return sorted(found, key=lambda p: (order.index(p.likeness), p.distance, p.eval, p.train))


def _small(grey: Image.Image) -> NDArray[np.float16]:
    small = grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    values = np.array(small, np.float32).ravel()
    if values.std() < _PLAIN:
        return np.zeros(SIDE * SIDE, np.float16)
    values -= values.mean()
    values /= np.linalg.norm(values)
    return values.astype(np.float16)


def _by_pixels(found: Mapping[str, Look]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = defaultdict(list)
    for path, each in found.items():
        grouped[each.pixels].append(path)
    return grouped


def _near(train: Sequence[Look], held_out: Sequence[Look]) -> Iterator[tuple[int, int, int]]:
    """Places of pictures that are nearly the same, and the bits that differ: by matrix products."""
    blocks = [
        (start, *_stacked(held_out[start : start + _EVAL]))
        for start in range(0, len(held_out), _EVAL)
    ]
    for top in range(0, len(train), _TRAIN):
        signs, greys = _stacked(train[top : top + _TRAIN])
        for start, other_signs, other_greys in blocks:
            agreement = signs @ other_signs.T  # bits alike less bits that differ
            is_near = agreement >= SIDE * SIDE - 2 * LIMIT
            if is_near.any():
                is_near &= greys @ other_greys.T > ALIKE
            for i, j in np.argwhere(is_near):
                yield top + int(i), start + int(j), int(SIDE * SIDE - agreement[i, j]) // 2


def _stacked(found: Sequence[Look]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Hashes [N, 256] as -1 and 1, and grey pictures [N, 256]."""
    signs = np.array([each.bits for each in found], np.float32) * 2 - 1
    return signs, np.array([each.grey for each in found], np.float32)
