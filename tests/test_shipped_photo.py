"""The photo that comes with the package, by its name, for those who have no clone."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageChops

from reground.data.images import load
from reground.data.source import read_dataset
from reground.errors import DataError
from reground.grounding.sample import ImageRef

DOCS = Path(__file__).parents[1] / "docs"


def test_the_photo_of_the_documents_has_a_name_and_a_question() -> None:
    (sample,) = read_dataset("photo:cells", seed=0, limit=None)
    shown = load(sample.images[0])
    with Image.open(DOCS / "cells.jpg") as photo:
        assert ImageChops.difference(shown, photo.convert("RGB")).getbbox() is None
    assert shown.size == (sample.images[0].width, sample.images[0].height)
    assert sample.question == "the white blood cell"
    box = sample.targets[0].box
    red, green, blue = shown.getpixel((round(box.cx), round(box.cy)))
    assert blue > green and red > green  # stained violet


@pytest.mark.parametrize("name", ["photo:", "photo:dog", "photo:../cells"])
def test_another_name_says_what_there_is(name: str) -> None:
    with pytest.raises(DataError, match="expected photo:cells"):
        read_dataset(name, seed=0, limit=None)
    with pytest.raises(DataError, match="expected photo:cells"):
        load(ImageRef(name, 640, 480))
