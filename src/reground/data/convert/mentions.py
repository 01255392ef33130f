"""Which image a text speaks of: "the 2th image", "second image", "image-2", "the source image"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from reground.grounding.boxes import THOUSAND, scaled
from reground.grounding.sample import ImageRef, Target

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
_NOUN = re.compile(r"(?:image|frame|picture|photo)(?![a-z])")
_MENTION = re.compile(
    r"\b(?:(?P<source>source image)"
    rf"|(?P<word>{'|'.join(ORDINALS)}|last) (?:image|frame|picture|photo)"
    r"|(?P<ordinal>\d{1,3})(?:st|nd|rd|th) (?:image|frame|picture|photo)"
    r"|(?:image|frame|picture|photo)[ -]?#?(?P<number>\d{1,3}))\b",
    re.IGNORECASE,
)
_LOWER_MENTION = re.compile(_MENTION.pattern)
_BEFORE_NOUN = len("seventh ")  # the longest
_AFTER_NOUN = len(" #123.")  # the longest, and what ends it
_BOX = re.compile(r"\((\d{1,4}), ?(\d{1,4})\), ?\((\d{1,4}), ?(\d{1,4})\)")


class Mention(NamedTuple):
    """An image named in a text: its index from 0, and where in the text the name ends."""

    image: int
    end: int


@dataclass(frozen=True, slots=True)
class QuestionImage:
    """The image that a question asks about, and whether a text named it or it was assumed."""

    image: int
    named: bool

    @property
    def stratum(self) -> str:
        """For reports: "named" or "assumed"."""
        return "named" if self.named else "assumed"


def mentions(text: str, num_images: int) -> list[Mention]:
    """Every mention of one of ``num_images`` in ``text``, in order; "source image" is the first.

    A number past the images is none of theirs: "the frame 7 poster".

    >>> [mention.image for mention in mentions("from image-1, frame 7, in the 3th image", 3)]
    [0, 2]
    """
    return [each for each in _all_mentions(text, num_images) if 0 <= each.image < num_images]


def names_beyond(text: str, num_images: int) -> bool:
    """Whether a text names an image past ``num_images``."""
    return any(not 0 <= each.image < num_images for each in _all_mentions(text, num_images))


def _all_mentions(text: str, num_images: int) -> list[Mention]:
    if not text.isascii():
        found = _MENTION.finditer(text)
    else:  # lower case then keeps places, and is searched much faster
        text = text.lower()
        if not (nouns := [*_NOUN.finditer(text)]):
            return []
        start, end = nouns[0].start() - _BEFORE_NOUN, nouns[-1].end() + _AFTER_NOUN
        found = _LOWER_MENTION.finditer(text, max(0, start), end)
    return [Mention(_index(match, num_images), match.end()) for match in found]


def asked_image(question: str, hint: str, num_images: int) -> QuestionImage:
    """The image that a question asks about.

    The last image that the question mentions ("the object in image-1 ... in the image-2"), else
    the last that ``hint`` mentions, else, assumed, the last image.
    """
    for text in (question, hint):
        if found := mentions(text, num_images):
            return QuestionImage(found[-1].image, named=True)
    return QuestionImage(num_images - 1, named=num_images == 1)


def answered(answer: str, images: tuple[ImageRef, ...], *, default: int) -> tuple[Target, ...]:
    """The boxes ``(x1,y1),(x2,y2)`` in 0-1000 of an answer, each in the image named before it.

    A box before which the answer names no image is in image ``default``.
    """
    named = mentions(answer, len(images))
    targets = []
    for match in _BOX.finditer(answer):
        start, image = match.start(), default
        for mention in named:
            if mention.end > start:
                break
            image = mention.image
        x1, y1, x2, y2 = map(int, match.groups())
        targets.append(Target(image, scaled(x1, y1, x2, y2, THOUSAND, images[image].frame)))
    return tuple(targets)


def _index(match: re.Match[str], num_images: int) -> int:
    kind, said = match.lastgroup, match[match.lastindex or 0]
    if kind == "source":
        return 0
    if kind == "word":
        return num_images - 1 if said.lower() == "last" else ORDINALS.index(said.lower())
    return int(said) - 1
