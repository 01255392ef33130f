"""Questions and reasoning chains from labelled boxes, for datasets that have classes only."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
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
    """One object of an image: its class, its box in pixels, and whether it is really a crowd."""

    label: str
    box: Box
    crowd: bool = False


class QuestionRule(StrEnum):
    """When a question about a class is asked, and which of its boxes answer it."""

    UNIQUE = "unique"  # exactly one in the image
    LEFTMOST = "leftmost"  # several: the one whose centre is furthest left
    RIGHTMOST = "rightmost"  # several: the one whose centre is furthest right
    HIGHEST = "highest"  # several: the one whose centre is furthest up
    LOWEST = "lowest"  # several: the one whose centre is furthest down
    LARGEST = "largest"  # several: the one of the largest area
    ALL = "all"  # several: all of them


# How far a box's centre lies towards a side, as a share of the image's side.
_REACH: Mapping[QuestionRule, Callable[[Box], float]] = {
    QuestionRule.LEFTMOST: lambda box: -box.cx / box.frame.width,
    QuestionRule.RIGHTMOST: lambda box: box.cx / box.frame.width,
    QuestionRule.HIGHEST: lambda box: -box.cy / box.frame.height,
    QuestionRule.LOWEST: lambda box: box.cy / box.frame.height,
}

Questions = Mapping[str, Mapping[QuestionRule, str]]  # class name -> rule -> phrase


@dataclass(frozen=True, slots=True)
class Asker:
    """Makes the samples of one image after another.

    Every image is asked about as a whole and in ``views`` random views, each with what is true of
    it: another cell may be the leftmost one there.
    """

    task: str
    questions: Questions
    views: int = 0
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)

    def samples(self, name: str, image: ImageRef, objects: Sequence[Labelled]) -> Iterator[Sample]:
        """One sample per view, class and rule that applies; ids are ``name``-class-rule.

        Objects with an empty box are left out and counted. A class of which the image holds a
        crowd is not asked about: its members are not all boxed. Samples with one target carry a
        chain in ``think``, with a colour if the image is on disk.
        """
        yield from self._asked(name, image, objects)
        for view in random_views(name, image, objects, self.views):
            yield from self._asked(*view)

    def _asked(self, name: str, image: ImageRef, objects: Sequence[Labelled]) -> Iterator[Sample]:
        pixels: Image.Image | None = None
        for label, boxes in self._by_class(objects, image.path).items():
            for rule, phrase in self.questions.get(label, {}).items():
                chosen = select(boxes, rule)
                if not chosen:
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
                    strata={"class": label, "rule": str(rule)},
                )

    def _by_class(self, objects: Iterable[Labelled], path: str) -> dict[str, list[Box]]:
        groups: dict[str, list[Box]] = {}
        crowded = set()
        for each in objects:
            if each.box.is_degenerate:
                self.left_out[f"empty box of {each.label}", path] += 1
                continue
            groups.setdefault(each.label, []).append(each.box)
            if each.crowd:
                crowded.add(each.label)
        return {label: boxes for label, boxes in groups.items() if label not in crowded}


def select(boxes: Sequence[Box], rule: QuestionRule) -> list[Box]:
    """The boxes that answer a question under ``rule``; none where it must not be asked.

    Several boxes come from left to right: an order that can be seen can be learned.
    """
    if rule is QuestionRule.UNIQUE:
        return list(boxes) if len(boxes) == 1 else []
    if len(boxes) < 2:
        return []
    if rule is QuestionRule.ALL:
        return sorted(boxes, key=lambda box: (box.x1, box.y1))
    if rule is QuestionRule.LARGEST:
        first, second = sorted(boxes, key=lambda box: -box.area)[:2]
        clear = first.area - second.area >= _LEAD_AREA * first.area
    else:
        first, second = sorted(boxes, key=_REACH[rule], reverse=True)[:2]
        clear = _REACH[rule](first) - _REACH[rule](second) >= _LEAD_SIDE
    return [first] if clear else []


def read_questions(path: Path | None, classes: Sequence[str]) -> Questions:
    """Phrases by class and rule from a YAML file; without a file, ``unique`` and ``all`` of each.

    The file maps a class to rules to phrases::

        WBC:
          unique: the white blood cell
          leftmost: the leftmost white blood cell

    Raises ``DataError`` for a class that is not in ``classes`` and for an unknown rule.
    """
    if path is None:
        return {
            label: {QuestionRule.UNIQUE: f"the {label}", QuestionRule.ALL: f"every {label}"}
            for label in classes
        }
    content = parse_yaml(read_text(path), str(path), DataError)
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
    name: str, image: ImageRef, objects: Sequence[Labelled], count: int
) -> Iterator[tuple[str, ImageRef, list[Labelled]]]:
    """``count`` crops of an image, half of them mirrored, half upside down, and what each shows.

    The same for the same ``name``. Objects that a crop cuts keep the part of their box inside it.
    Empty boxes are in no view.
    """
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    for number in range(count):
        view = _draw(image, generator)
        part = ImageRef(view.path_of(image.path), view.right - view.left, view.lower - view.upper)
        yield f"{name}-view{number}", part, [*_seen(objects, view)]


def _draw(image: ImageRef, generator: np.random.Generator) -> View:
    share = generator.uniform(_MIN_SIDE, 1.0)
    width, height = max(1, round(image.width * share)), max(1, round(image.height * share))
    left = int(generator.integers(image.width - width + 1))
    upper = int(generator.integers(image.height - height + 1))
    mirrored, upside_down = (bool(flip) for flip in generator.random(2) < 0.5)
    return View(left, upper, left + width, upper + height, mirrored, upside_down)


def _seen(objects: Sequence[Labelled], view: View) -> Iterator[Labelled]:
    for each in objects:
        whole = view.box(each.box)
        inside = whole.clipped()
        if inside.area > MIN_SEEN * whole.area:
            yield replace(each, box=inside)
