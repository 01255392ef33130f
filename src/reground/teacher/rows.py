"""The rows of a database of chains, as ``reground.teacher.store.Store`` gives and takes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields
from enum import StrEnum
from typing import Any, Literal, TypeVar

from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample

Stage = Literal["ask", "judge"]
Decision = Literal["accept", "reject", "edit", "undo"]


class Rejection(StrEnum):
    """Why a chain was rejected."""

    FORM = "form"
    WRONG_BOX = "wrong_box"
    SHORT = "short"
    LONG = "long"
    REPETITION = "repetition"
    LEAK = "leak"
    COORDINATES = "coordinates"
    WRONG_IMAGE = "wrong_image"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCall:
    """One request to a teacher or a judge, and its result.

    ``number`` counts a sample's calls from 0; that of a call to a judge identifies the chains that
    it saw and their order. ``sizes`` are those of the images as sent. ``cost``, tokens and
    ``attempts`` (requests sent) add up over all tries of a call that failed before; ``latency_s``
    is that of the reply. ``error`` is why a failed call has no text. ``settings`` are those it was
    made with (:func:`reground.teacher.settings.noted`). ``at`` is in seconds since 1970; ``id`` is
    the database's.
    """

    sample: str
    stage: Stage
    number: int
    model: str
    prompt_sha256: str
    state: Literal["answered", "failed"]
    text: str = ""
    finish: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    latency_s: float = 0.0
    attempts: int = 1
    error: str | None = None
    sizes: tuple[EncodedSize, ...] = ()
    settings: str = "{}"
    at: float = 0.0
    id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What verification found in an answered ``ask`` call; ``reason`` is None where it is ``ok``.

    ``boxes`` are the chain's: left, upper, right, lower in original pixels of the target image.
    ``settings`` are those by which it was verified.
    """

    call: int
    ok: bool
    reason: Rejection | None = None
    detail: str = ""
    think: str | None = None
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    iou: float | None = None
    settings: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """The chain that a sample ends with: of a judge, of the rule, or the only one verified.

    ``candidates`` are the calls whose chains it was picked from; ``settings`` say by whom.
    """

    sample: str
    call: int
    rule: Literal["judge", "rule", "only"]
    tie: bool = False
    detail: str = ""
    candidates: tuple[int, ...] = ()
    settings: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What a person decided about a sample's pick, whose chain is ``call``.

    ``text`` is the reasoning as edited, or why the chain was rejected, where the person said so.
    """

    sample: str
    call: int
    reviewer: str
    decision: Decision
    text: str | None = None
    at: float = 0.0
    id: int = 0


@dataclass(frozen=True, slots=True)
class Chain:
    """An answered ``ask`` call, and what verification found in it, once it has run."""

    call: TeacherCall
    finding: Finding | None

    @property
    def is_verified(self) -> bool:
        """Whether verification has accepted it."""
        return self.finding is not None and self.finding.ok

    @property
    def think(self) -> str:
        """Its reasoning as verification found it; empty where there is none."""
        return (self.finding.think if self.finding else None) or ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample with its chains, in the order of their numbers, and its pick if it has one."""

    sample: Sample
    chains: tuple[Chain, ...]
    pick: Pick | None

    @property
    def verified(self) -> list[Chain]:
        """The chains that verification has accepted."""
        return [chain for chain in self.chains if chain.is_verified]

    @property
    def picked(self) -> Chain | None:
        """The chain of its pick."""
        wanted = self.pick.call if self.pick else None
        return next((chain for chain in self.chains if chain.call.id == wanted), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How far a database is: answered calls by stage, picks by rule; ``cost`` of all calls."""

    samples: int
    answered: Mapping[str, int]
    picks: Mapping[str, int]
    ties: int
    cost: float


T = TypeVar("T", TeacherCall, Finding, Pick, Review)

_READ: Mapping[str, Callable[[Any], Any]] = {
    "sizes": lambda text: tuple(EncodedSize(*size) for size in json.loads(text)),
    "boxes": lambda text: tuple(map(tuple, json.loads(text))),
    "candidates": lambda text: tuple(json.loads(text)),
    "reason": lambda name: name and Rejection(name),
    "ok": bool,
    "tie": bool,
}


def from_columns(kind: type[T], columns: Mapping[str, Any]) -> T:
    """A row as its table holds it."""
    return kind(**{name: _READ.get(name, lambda v: v)(value) for name, value in columns.items()})


def to_columns(row: TeacherCall | Finding | Pick | Review) -> dict[str, Any]:
    """What its table holds of a row: numbers, text, and tuples as JSON."""
    return {each.name: _storable(getattr(row, each.name)) for each in fields(row)}


def _storable(value: Any) -> Any:
    if isinstance(value, tuple):
        return json.dumps(value, default=astuple)
    # Half a character, which JSON can escape and UTF-8 cannot write, becomes a question mark.
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
