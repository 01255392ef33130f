"""What a data set to learn from shares with one to be measured by: pictures and questions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from reground.data.images import split_view
from reground.data.looks import Likeness, PicturePair, looks, pairs
from reground.data.source import path_from
from reground.errors import DataError
from reground.grounding.sample import Sample, is_file_path
from reground.io import write_json

_FIRST = 3  # of each kind that a table shows


@dataclass(frozen=True, slots=True)
class SharedQuestion:
    """A text that both sets ask, with the ids of the rows that do.

    ``same_picture`` are the ids of the rows, ours and theirs, that ask it about one picture.
    """

    text: str
    train: tuple[str, ...]
    eval: tuple[str, ...]
    same_picture: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Overlap:
    """What the set ``data`` shares with the one to learn from.

    ``about`` are the ids of its rows about pictures that both have.
    """

    data: str
    num_pictures: int
    num_questions: int
    pairs: tuple[PicturePair, ...]
    about: tuple[str, ...]
    questions: tuple[SharedQuestion, ...]
    unreadable: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Overlaps:
    """One set to learn from, and what each of the others shares with it."""

    train: str
    num_pictures: int
    num_questions: int
    unreadable: Mapping[str, str]
    overlaps: tuple[Overlap, ...]

    @property
    def shared(self) -> frozenset[str]:
        """The pictures to learn from that one of the other sets has too."""
        return frozenset(pair.train for each in self.overlaps for pair in each.pairs)

    @property
    def is_unread(self) -> bool:
        """Whether a picture of any set could not be compared."""
        return bool(self.unreadable) or any(each.unreadable for each in self.overlaps)

    def table(self) -> Iterator[str]:
        """Lines for people: counts, and the first of each kind."""
        yield _head(self.train, self)
        yield from _unread(self.unreadable)
        for each in self.overlaps:
            yield _head(each.data, each)
            yield from _table(each, self.train)
            yield from _unread(each.unreadable)

    def write(self, out: Path) -> None:
        """All pairs and questions as JSON, paths of files from the folder of ``out``."""
        write_json(out, _plain(self, out))


def compare(
    train: str, samples: Sequence[Sample], others: Mapping[str, Sequence[Sample]]
) -> Overlaps:
    """What the sets ``others``, by name, share with ``samples``, which are called ``train``.

    Of a view the whole file is compared. Raises ``DataError`` where no picture of a set can be
    read.
    """
    own = _pictures(samples)
    every = {name: _pictures(rows) for name, rows in others.items()}
    found, unread = looks(
        dict.fromkeys([*own, *(path for each in every.values() for path in each)])
    )
    for name, paths in {train: own, **every}.items():
        if not any(path in found for path in paths):
            why = unread[next(iter(paths))]
            raise DataError(f"{name}: none of its {len(paths)} pictures can be read: {why}")
    ours = {path: found[path] for path in own if path in found}
    overlaps = []
    for name, rows in others.items():
        theirs = {path: found[path] for path in every[name] if path in found}
        alike = pairs(ours, theirs)
        shared = {pair.eval for pair in alike}
        overlaps.append(
            Overlap(
                name,
                len(every[name]),
                len(rows),
                tuple(alike),
                tuple(row.id for row in rows if not shared.isdisjoint(_pictures([row]))),
                tuple(_questions(samples, rows, alike)),
                {path: unread[path] for path in every[name] if path in unread},
            )
        )
    mine = {path: unread[path] for path in own if path in unread}
    return Overlaps(train, len(own), len(samples), mine, tuple(overlaps))


def without(samples: Iterable[Sample], shared: frozenset[str]) -> list[Sample]:
    """The samples that show none of the pictures ``shared``."""
    return [sample for sample in samples if shared.isdisjoint(_pictures([sample]))]


def _pictures(samples: Iterable[Sample]) -> dict[str, None]:
    """The files, or scenes, that samples show, each once."""
    return dict.fromkeys(_whole(image.path) for each in samples for image in each.images)


def _whole(path: str) -> str:
    """The file that a view is cut from; a path that names no view rightly is left as it is."""
    try:
        return split_view(path)[0]
    except DataError:
        return path


def _questions(
    samples: Iterable[Sample], rows: Iterable[Sample], alike: Iterable[PicturePair]
) -> Iterator[SharedQuestion]:
    ours, theirs = _by_text(samples), _by_text(rows)
    matches: dict[str, set[str]] = defaultdict(set)
    for pair in alike:
        matches[pair.eval].add(pair.train)
    for text in (each for each in theirs if each in ours):
        by_picture: dict[str, list[str]] = defaultdict(list)
        for sample in ours[text]:
            for path in _pictures([sample]):
                by_picture[path].append(sample.id)
        same = {
            (own, row.id): None
            for row in theirs[text]
            for path in _pictures([row])
            for match in sorted(matches[path] & by_picture.keys())
            for own in by_picture[match]
        }
        yield SharedQuestion(text, _ids(ours[text]), _ids(theirs[text]), tuple(same))


def _ids(samples: Iterable[Sample]) -> tuple[str, ...]:
    return tuple(sample.id for sample in samples)


def _by_text(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Samples by their question, small letters, blanks and the marks at its end aside."""
    grouped: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        grouped[" ".join(sample.question.casefold().split()).strip(" .?!\"'")].append(sample)
    return dict(sorted(grouped.items()))


# ---- as text and JSON --------------------------------------------------------------------------


def _head(name: str, counted: Overlaps | Overlap) -> str:
    return f"{name}: {counted.num_pictures} pictures, {counted.num_questions} questions"


def _table(overlap: Overlap, train: str) -> Iterator[str]:
    closest: dict[str, PicturePair] = {}
    for pair in overlap.pairs:  # the closest come first
        closest.setdefault(pair.eval, pair)
    kinds = Counter(pair.likeness for pair in closest.values())
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in Likeness)
    yield f"  pictures that are in {train}, too: {len(closest)} ({counts})"
    for kind in Likeness:
        own = [pair for pair in closest.values() if pair.likeness is kind]
        for pair in own[:_FIRST]:
            apart = f", {pair.distance} of 256 bits apart" if kind is Likeness.NEAR else ""
            yield f"    {kind}{apart}: {pair.eval} = {pair.train}"
        if len(own) > _FIRST:
            yield f"    and {len(own) - _FIRST} more"
    yield f"  questions about them: {len(overlap.about)}"
    asked = sum(len(each.eval) for each in overlap.questions)
    same = [(each.text, ids) for each in overlap.questions for ids in each.same_picture]
    count = len({theirs for _, (_, theirs) in same})
    yield f"  questions that {train} asks, too: {asked}, of which about the same picture: {count}"
    for text, (ours, theirs) in same[:_FIRST]:
        yield f"    {text!r}: {theirs} = {ours}"


def _unread(unreadable: Mapping[str, str]) -> Iterator[str]:
    if unreadable:
        yield f"  pictures that cannot be read, and were not compared: {len(unreadable)}"
        for why in list(unreadable.values())[:_FIRST]:
            yield f"    {why}"


def _plain(comparison: Overlaps, out: Path) -> dict[str, Any]:
    from_folder = partial(path_from, out.parent.resolve())

    def named(path: str) -> str:
        return from_folder(path) if is_file_path(path) else path

    def about(one: Overlaps | Overlap) -> dict[str, Any]:
        return {
            "pictures": one.num_pictures,
            "questions": one.num_questions,
            "unreadable": [{"picture": named(p), "why": why} for p, why in one.unreadable.items()],
        }

    return {
        "train": {"data": comparison.train} | about(comparison),
        "eval": [
            {
                "data": each.data,
                **about(each),
                "pairs": [
                    {
                        "likeness": pair.likeness,
                        "distance": pair.distance,
                        "train": named(pair.train),
                        "eval": named(pair.eval),
                    }
                    for pair in each.pairs
                ],
                "about_shared_pictures": list(each.about),
                "shared_questions": [
                    {
                        "question": question.text,
                        "train": list(question.train),
                        "eval": list(question.eval),
                        "same_picture": [
                            {"train": ours, "eval": theirs}
                            for ours, theirs in question.same_picture
                        ],
                    }
                    for question in each.questions
                ],
            }
            for each in comparison.overlaps
        ],
    }
