"""The images of exported rows: referenced where they are, or copied."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import ExifTags, Image

from reground.data.images import exists, load
from reground.data.views import split_view
from reground.errors import DataError
from reground.grounding.sample import ImageRef, is_file_path

_UPRIGHT = 1  # the EXIF orientation of an image that is stored as it is seen


def referenced(image: ImageRef) -> ImageRef:
    """The image itself; raises ``DataError`` where its file is gone."""
    if not exists(image.path):
        raise DataError(
            f"{split_view(image.path)[0]}: no such image, but the database speaks of it; put the "
            "images back where they were, or move the database along with them"
        )
    return image


def copied(folder: Path) -> Callable[[ImageRef], ImageRef]:
    """What copies images into ``folder``, each once: the file as it is, or drawn as a PNG.

    Drawn are scenes, views and photos that EXIF data would turn. Raises ``DataError`` where a file
    is gone or cannot be read.
    """

    def copy(image: ImageRef) -> ImageRef:
        plain = is_plain(referenced(image))
        name = hashlib.sha256(image.path.encode()).hexdigest()[:20]
        path = folder / (name + (Path(image.path).suffix if plain else ".png"))
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(path.name + ".partial")
            if plain:
                shutil.copyfile(image.path, partial)
            else:
                load(image).save(partial, "png")
            partial.replace(path)
        return replace(image, path=str(path))

    return copy


def is_plain(image: ImageRef) -> bool:
    """Whether any program that opens the file sees what we see."""
    file, view = split_view(image.path)
    if not is_file_path(file) or view is not None:
        return False
    with Image.open(file) as opened:
        orientation: int = opened.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    return orientation == _UPRIGHT
