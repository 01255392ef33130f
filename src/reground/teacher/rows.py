"""The rows of a database of chains, as ``reground.teacher.store.Store`` gives and takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample

Stage = Literal["ask", "judge"]
XYXY = tuple[float, float, float, float]  # left, upper, right, lower in original pixels


class Reason(StrEnum):
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
class Call:
    """One question to a teacher or a judge and what came of it.

    ``number`` counts a sample's calls from 0; that of a call to a judge tells which chains it saw
    in which order. ``sizes`` are those of the images as they
    were sent. ``cost``, tokens and ``attempts`` (requests sent) add up over all tries of a call
    that failed before; ``latency_s`` is that of the reply. ``error`` is why a failed call has no
    text. ``settings`` are those it was made with (``reground.teacher.changes``). ``at`` is in
    seconds since 1970; ``id`` is the database's.
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
class Verdict:
    """What verification found in an answered ``ask`` call; ``reason`` is None where it is ``ok``.

    ``boxes`` are the chain's, in original pixels of the target image; ``settings`` those by which
    it was verified.
    """

    call: int
    ok: bool
    reason: Reason | None = None
    detail: str = ""
    think: str | None = None
    boxes: tuple[XYXY, ...] = ()
    iou: float | None = None
    settings: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """The chain that a sample ends with: of a judge, of the rule, or the only one verified.

    ``candidates`` are the calls whose chains it was picked from, ``settings`` tell by whom.
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

    ``text`` is the thinking as edited, or why the chain was rejected, where that was said.
    """

    sample: str
    call: int
    reviewer: str
    decision: Literal["accept", "reject", "edit", "undo"]
    text: str | None = None
    at: float = 0.0
    id: int = 0


@dataclass(frozen=True, slots=True)
class Chain:
    """An answered ``ask`` call, and its verdict once there is one."""

    call: Call
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Item:
    """A sample with its chains, in the order of their numbers, and its pick if it has one."""

    sample: Sample
    chains: tuple[Chain, ...]
    pick: Pick | None


@dataclass(frozen=True, slots=True)
class Todo:
    """A sample, and the numbers of its calls that have no answer yet."""

    sample: Sample
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How far a database is. ``rejected`` counts reasons, ``picks`` rules, ``decisions`` reviews.

    ``cost`` and tokens are those of all calls, of both stages.
    """

    samples: int
    answered: Mapping[str, int]
    failed: Mapping[str, int]
    verified: int
    rejected: Mapping[str, int]
    picks: Mapping[str, int]
    ties: int
    decisions: Mapping[str, int]
    cost: float
    prompt_tokens: int
    completion_tokens: int
