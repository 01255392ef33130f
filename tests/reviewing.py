"""Databases of picked chains, and the page over them, for tests of reviewing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from background import running
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample
from reground.protocols.protocol import get_protocol
from reground.serving.app import make_app
from reground.serving.guard import Rules
from reground.serving.review import ReviewPages
from reground.teacher.review.session import Session
from reground.teacher.rows import Finding, Pick, TeacherCall
from reground.teacher.store import Store
from reground.tinyworld import scenes as synth

FAMILY = get_protocol("univg_r1")


def scenes(count: int = 3, tasks: Iterable[str] = ("referring", "diff")) -> list[Sample]:
    """The first scenes of some tasks, which bring chains of their own."""
    return [synth.sample(task, seed=7, index=index) for task in tasks for index in range(count)]


def make_chains(path: Path, samples: Iterable[Sample], *, unpicked: int = 0) -> Path:
    """A database in which all samples but the last have one verified chain that is picked."""
    rows = list(samples)
    with Store.create(path, rows, data="scenes") as store, store.together():
        for sample in rows[: len(rows) - unpicked]:
            pick(store, sample)
    return path


def pick(store: Store, sample: Sample, *, number: int = 0) -> int:
    """Store one more chain of a sample, the sample's own, and pick it; returns its id."""
    image = sample.images[sample.target_image]
    size = EncodedSize(image.width, image.height, image.width, image.height)
    think = sample.think or ""
    text = FAMILY.render(sample.boxes, size=size, think=think)
    stored = store.add_call(answered(sample.id, text, (size,), number=number))
    boxes = tuple(box.xyxy for box in sample.boxes)
    store.set_finding(Finding(call=stored, ok=True, think=think, boxes=boxes, iou=1.0))
    store.set_pick(Pick(sample=sample.id, call=stored, rule="only"))
    return stored


def answered(
    sample_id: str, text: str, sizes: tuple[EncodedSize, ...], *, number: int = 0
) -> TeacherCall:
    """A teacher's answer about a sample, whole."""
    return TeacherCall(
        sample=sample_id,
        stage="ask",
        number=number,
        model="embedded",
        prompt_sha256="p",
        state="answered",
        text=text,
        finish="stop",
        sizes=sizes,
    )


def begin(path: Path, reviewer: str = "eva", share: float = 1.0) -> Session:
    """A session over all chains."""
    return Session.begin(path, reviewer=reviewer, share=share, seed=0)


@dataclass(frozen=True, slots=True)
class ReviewServer:
    """The pages of a session, served."""

    pages: ReviewPages
    address: str

    @property
    def session(self) -> Session:
        """What is reviewed."""
        return self.pages.session

    @property
    def url(self) -> str:
        """Where the reviewer's page is."""
        return f"{self.address}{self.pages.path}"


@contextmanager
def serving(session: Session) -> Iterator[ReviewServer]:
    """The page, served in the background."""
    pages = ReviewPages(session)
    with running(make_app(None, Rules(max_body=200_000), pages)) as address:
        yield ReviewServer(pages, address)
