"""Images and data sets that are no files: an installed package makes them, known by their scheme.

A package registers an object of the form :class:`Source` as an entry point ``SCHEME`` in the group
``reground.sources``; paths and specs ``SCHEME:REST`` are then its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol, overload

from PIL import Image

from reground.grounding.sample import Sample, is_file_path
from reground.plugins import installed

ENDLESS = 2**31 - 1
"""The length of a data set that has no end: item n is made when it is asked for."""


class LazySamples(Sequence[Sample]):
    """Samples that are made when they are asked for, by ``at``."""

    __slots__ = ()

    @abstractmethod
    def at(self, number: int) -> Sample:
        """The sample of a number from 0 to the length, which it is below."""

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self.at(place) for place in places]
        return self.at(places)


class Source(Protocol):
    """What an entry point names.

    It may have ``EXAMPLES`` too: names of what is worth a look, and their specs.
    """

    def open(self, spec: str, *, seed: int, limit: int | None) -> Sequence[Sample]:
        """The samples of ``SCHEME:REST``, ``ENDLESS`` of them or ``limit``; raises ``DataError``.

        Item n is the same for the same ``spec`` and ``seed``, in every process.
        """

    def render(self, path: str) -> Image.Image:
        """The RGB image of such a path; raises ``DataError``."""


def source_of(path: str) -> Source | None:
    """What makes the images or samples of a path or spec; None where it is a file's."""
    if is_file_path(path):
        return None
    source: Source = installed("sources")[path.partition(":")[0]].load()
    return source


def examples() -> dict[str, str]:
    """What the installed sources have to look at: names and specs."""
    sources = [each.load() for each in installed("sources").values()]
    return {name: spec for each in sources for name, spec in getattr(each, "EXAMPLES", {}).items()}


def is_endless(samples: Sequence[Sample]) -> bool:
    """Whether a data set has no end, so that no item of it is ever drawn twice."""
    return len(samples) >= ENDLESS
