"""The teacher that needs no network: chains from what the data itself says.

A scene brings its own chain; of a photo with boxes it says place, size and colour.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import lru_cache
from itertools import product

from PIL import Image

from reground.data.convert.appearance import describe
from reground.data.convert.mentions import ORDINALS
from reground.data.images import exists, load
from reground.grounding.boxes import place
from reground.grounding.sample import ImageRef, Sample
from reground.teacher.pictures import encoded_size
from reground.teacher.settings import PROTOCOL

NAME = "embedded"

_OPENINGS = (
    "",
    "to find: {question}. ",
    "the question: {question}. ",
    "what is asked: {question}. ",
)
_CLOSINGS = ("", " that is the answer.", " this fits the question.")
_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def chain(sample: Sample, number: int) -> str:
    """A chain that ends in the true boxes, as UniVG-R1 writes it; another wording a ``number``.

    Number 0 is the plain chain; up to number 11 all differ in how they begin and end, in an order
    that depends on the sample's id alone. Raises ``DataError`` where the question holds the tags
    of the form, or a true box has no area.

    >>> from reground.data.source import open_dataset
    >>> chain(open_dataset("synth:attribute", seed=7)[0], 0)
    '<think>the orange triangle is at the centre.</think><answer>(348,339),(571,554)</answer>'
    """
    opening, closing = _wording(sample.id, number)
    reasoning = (sample.think or _description(sample)).strip()
    question = " ".join(sample.question.split()).rstrip(".?! ")
    size = encoded_size(sample.images[sample.target_image])
    think = opening.format(question=question) + reasoning + closing
    return PROTOCOL.render(sample.boxes, size=size, think=think)


def _wording(sample_id: str, number: int) -> tuple[str, str]:
    plain, *others = product(_OPENINGS, _CLOSINGS)
    random.Random(sample_id).shuffle(others)  # hashes text with SHA-512, alike everywhere
    return [plain, *others][number % (1 + len(others))]


def _description(sample: Sample) -> str:
    """Size, colour and place of one box; how many lie where, of several."""
    several = len(sample.images) > 1
    where = f"in the {_ordinal(sample.target_image)} image " if several else ""
    if not sample.boxes:
        return f"{where}nothing fits the question."
    if len(sample.boxes) > 1:
        counts = Counter(map(place, sample.boxes))
        parts = (f"{_count(count)} at the {spot}" for spot, count in counts.items())
        return f"{where}there are {_count(len(sample.boxes))}: {', '.join(parts)}."
    image = sample.images[sample.target_image]
    pixels = _pixels(image) if exists(image.path) else None
    return where + describe(_phrase(sample.question), sample.boxes[0], pixels)


@lru_cache(maxsize=2)  # the chains of a sample are asked for one after the other
def _pixels(image: ImageRef) -> Image.Image:
    return load(image)


def _phrase(question: str) -> str:
    """The question itself if it is the name of a thing, as "the platelet" is."""
    is_name = question.lower().startswith(("the ", "a ", "an ")) and not set(question) & set(".,?!")
    return question if is_name else "it"


def _ordinal(image: int) -> str:
    return ORDINALS[image] if image < len(ORDINALS) else f"{image + 1}th"


def _count(number: int) -> str:
    return _COUNTS[number] if number < len(_COUNTS) else "many"
