"""Questions and reasoning chains from labelled boxes, for datasets that have classes only."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from reground.data.convert.appearance import describe
from reground.data.convert.common import read_text
from reground.data.images import View, exists, load
from reground.errors import DataError, did_you_mean
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target
from reground.io import parse_yaml
from reground.recipes import located

# A superlative is asked only where people would agree: the winner leads the runner-up by this share
# of the image's side (leftmost, ... lowest), or of its own area (largest).
_LEAD_SIDE = 0.02
_LEAD_AREA = 0.15

_MIN_SIDE = 0.3  # of the image's side: views are no narrower
# Of an object's area: with less of it in the view, it is not there. People who box objects skip
# what an edge cuts: of 296 red cells at the border of BCCD's training photos, 98 % show at least
# 0.62 of the usual width.
MIN_SEEN = 0.6


@dataclass(frozen=True, slots=True)
class Labelled:
    """One object of an image: its class and its box in pixels."""

    label: str
    box: Box


class QuestionRule(StrEnum):
    """When a question about a class is asked, and which of its boxes answer it."""

    UNIQUE = "unique"  # exactly one in the image
    LEFTMOST = "leftmost"  # several: the one whose centre is furthest left
    RIGHTMOST = "rightmost"  # several: the one whose centre is furthest right
    HIGHEST = "highest"  # several: the one whose centre is furthest up
    LOWEST = "lowest"  # several: the one whose centre is furthest down
    LARGEST = "largest"  # several: the one of the largest area
    ALL = "all"  # several: all of them
    ABSENT = "absent"  # none, and the class is known to be boxed throughout


# How far a box's centre lies towards a side, as a share of the image's side.
_REACH: Mapping[QuestionRule, Callable[[Box], float]] = {
    QuestionRule.LEFTMOST: lambda box: -box.cx / box.frame.width,
    QuestionRule.RIGHTMOST: lambda box: box.cx / box.frame.width,
    QuestionRule.HIGHEST: lambda box: -box.cy / box.frame.height,
    QuestionRule.LOWEST: lambda box: box.cy / box.frame.height,
}

# Words that a flip makes untrue.
_SIDES: Mapping[str, frozenset[str]] = {
    "h": frozenset({"left", "right", "lefthand", "righthand", "leftward", "rightward"}),
    "v": frozenset(
        {"up", "down", "upper", "lower", "top", "bottom", "upward", "downward", "upside"}
    ),
}

Questions = Mapping[str, Mapping[QuestionRule, str]]  # class name -> rule -> phrase


@dataclass(frozen=True, slots=True)
class Asker:
    """Makes the samples of one image after another.

    Every image is asked about as a whole and in ``views`` random views, each with what is true of
    it: another cell may be the leftmost one there. ``flips`` are those that views may have: "h"
    mirrors left and right, "v" turns upside down.
    """

    task: str
    questions: Questions
    views: int = 0
    flips: str = "hv"

    def samples(
        self,
        name: str,
        image: ImageRef,
        objects: Sequence[Labelled],
        unsure: Collection[str] = (),
        checked: Collection[str] | None = None,
    ) -> Iterator[Sample]:
        """One sample per view, class and rule that applies; ids are ``name``-class-rule.

        Nothing is asked about classes that are ``unsure``: not all of their objects are boxed.
        That a class is absent is asked of ``checked`` ones alone; None: of all. Samples with one
        target carry a chain in ``think``, with a colour if the image is on disk.
        """
        views = random_views(name, image, objects, self.views, self.flips)
        for own, part, seen in chain([(name, image, objects)], views):
            # What a view cuts may still be seen in part: absence is asked of whole images.
            lacking = checked if part is image else frozenset()
            yield from self._asked(own, part, seen, unsure, lacking)

    def _asked(
        self,
        name: str,
        image: ImageRef,
        objects: Sequence[Labelled],
        unsure: Collection[str],
        checked: Collection[str] | None,
    ) -> Iterator[Sample]:
        pixels: Image.Image | None = None
        present: dict[str, list[Box]] = {}
        for each in objects:
            present.setdefault(each.label, []).append(each.box)
        lacking: dict[str, list[Box]] = {
            label: []
            for label in self.questions
            if label not in present and (checked is None or label in checked)
        }
        for label, boxes in (present | lacking).items():
            for rule, phrase in self.questions.get(label, {}).items():
                chosen = select(boxes, rule)
                if label in unsure or chosen is None:
                    continue
                if len(chosen) == 1 and pixels is None and exists(image.path):
                    pixels = load(image.path)  # once per image, and only where a chain needs it
                yield Sample(
                    id=f"{name}-{label}-{rule}",
                    images=(image,),
                    question=phrase,
                    targets=tuple(Target(0, box) for box in chosen),
                    task=self.task,
                    think=describe(phrase, chosen[0], pixels) if len(chosen) == 1 else None,
                    strata={
                        "class": label,
                        "rule": str(rule),
                        "rivals": str(len(boxes) - len(chosen)),
                    },
                )


def select(boxes: Sequence[Box], rule: QuestionRule) -> list[Box] | None:
    """The boxes that answer a question under ``rule``; None where it must not be asked.

    Several boxes come from left to right: an order that can be seen can be learned.
    """
    if rule is QuestionRule.ABSENT:
        return None if boxes else []
    if rule is QuestionRule.UNIQUE:
        return list(boxes) if len(boxes) == 1 else None
    if len(boxes) < 2:
        return None
    if rule is QuestionRule.ALL:
        return sorted(boxes, key=lambda box: (box.x1, box.y1))
    if rule is QuestionRule.LARGEST:
        first, second = sorted(boxes, key=lambda box: -box.area)[:2]
        clear = first.area - second.area >= _LEAD_AREA * first.area
    else:
        first, second = sorted(boxes, key=_REACH[rule], reverse=True)[:2]
        clear = _REACH[rule](first) - _REACH[rule](second) >= _LEAD_SIDE
    return [first] if clear else None


def flips_of(questions: Questions, flips: str) -> str:
    """The ``flips`` that leave every class and phrase true: "turn left" is no turn left mirrored.

    A phrase of a rule that looks where objects are (leftmost ...) is asked anew in every view.

    >>> flips_of({"arrow left": {QuestionRule.UNIQUE: "the arrow"}}, "hv")
    'v'
    """
    texts = list(questions)
    for rules in questions.values():
        texts += [phrase for rule, phrase in rules.items() if rule not in _REACH]
    words = set(re.findall(r"[a-z]+", " ".join(texts).lower()))
    return "".join(flip for flip in flips if not words & _SIDES[flip])


def read_questions(path: Path | None, classes: Sequence[str]) -> Questions:
    """Phrases by class and rule from a YAML file; without a file, ``unique`` and ``all`` of each.

    The file maps a class to rules to phrases::

        WBC:
          unique: the white blood cell
          leftmost: the leftmost white blood cell

    ``path`` may name a recipe. Raises ``DataError`` for a class that is not in ``classes`` and for
    an unknown rule.
    """
    if path is None:
        return {
            label: {QuestionRule.UNIQUE: f"the {label}", QuestionRule.ALL: f"every {label}"}
            for label in classes
        }
    content = parse_yaml(read_text(located(path)), str(path), DataError)
    if not _is_table(content):
        raise DataError(f"{path}: expected 'class: {{rule: phrase}}' entries, phrases being text")
    return {
        _known(str(label), classes, path): {
            QuestionRule(_known(str(rule), list(QuestionRule), path)): phrase
            for rule, phrase in rules.items()
        }
        for label, rules in content.items()
    }


def _is_table(content: object) -> bool:
    return isinstance(content, dict) and all(
        isinstance(rules, dict) and all(isinstance(phrase, str) for phrase in rules.values())
        for rules in content.values()
    )


def _known(name: str, names: Sequence[str], path: Path) -> str:
    if name in names:
        return name
    raise DataError(f"{path}: unknown name {name!r}; {did_you_mean(name, sorted(names))}")


def random_views(
    name: str, image: ImageRef, objects: Sequence[Labelled], count: int, flips: str = "hv"
) -> Iterator[tuple[str, ImageRef, list[Labelled]]]:
    """``count`` crops of an image, half of them mirrored, half upside down, and what each shows.

    The same for the same ``name``. Objects that a crop cuts keep the part of their box inside it.
    Empty boxes are in no view.
    """
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    for number in range(count):
        view = _draw(image, generator, flips)
        part = ImageRef(view.path_of(image.path), view.right - view.left, view.lower - view.upper)
        yield f"{name}-view{number}", part, [*_seen(objects, view)]


def _draw(image: ImageRef, generator: np.random.Generator, flips: str) -> View:
    share = generator.uniform(_MIN_SIDE, 1.0)
    width, height = max(1, round(image.width * share)), max(1, round(image.height * share))
    left = int(generator.integers(image.width - width + 1))
    upper = int(generator.integers(image.height - height + 1))
    mirrored, upside_down = (bool(flip) for flip in generator.random(2) < 0.5)
    return View(
        left,
        upper,
        left + width,
        upper + height,
        mirrored and "h" in flips,
        upside_down and "v" in flips,
    )


def _seen(objects: Sequence[Labelled], view: View) -> Iterator[Labelled]:
    for each in objects:
        whole = view.box(each.box)
        inside = whole.clipped()
        if inside.area > MIN_SEEN * whole.area:
            yield replace(each, box=inside)
