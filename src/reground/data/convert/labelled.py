"""From photos with labelled boxes, whatever their format, to samples: one way for all of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from reground.data.convert.common import numbers, sound
from reground.data.convert.photos import Images
from reground.data.convert.questions import Asker, Labelled
from reground.data.convert.tally import FLAWS, Tally, Unusable, named
from reground.data.images import Edges, Header, ImageSize
from reground.data.soundness import Reason, Soundness
from reground.errors import DataError
from reground.grounding.boxes import Box, Frame, as_array, iou_matrix
from reground.grounding.sample import ImageRef, Sample

MIN_VISIBLE = 0.25  # of a box's area inside the image; with less the box is set aside
ALIKE = 0.95  # boxes of one class with a larger IoU are named: one object boxed twice, perhaps
_FAR = 1e-6  # of a pixel: less is rounding, not overhang


@dataclass(frozen=True, slots=True)
class Mark:
    """A labelled box as an annotation file holds it: left, upper, right, lower.

    They are pixels, or with ``shares`` shares of the image's sides. ``whole`` is False where the
    box stands for several objects. ``flaw`` is why it has no edges.
    """

    label: str
    edges: Sequence[object]
    shares: bool = False
    whole: bool = True
    flaw: DataError | None = None

    @classmethod
    def of(
        cls,
        label: str,
        edges: Callable[[], Sequence[object]],
        *,
        shares: bool = False,
        whole: bool = True,
    ) -> Mark:
        """The mark with what ``edges`` gives, or with what goes wrong in it.

        A box that cannot be read leaves its class in doubt there, as one outside its photo does.
        """
        try:
            return cls(label, edges(), shares, whole)
        except FLAWS as error:
            return cls(label, (), flaw=named(error))


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo as an annotation file describes it.

    ``name`` of the file is as stated, ``stem`` another that it may have. ``unsure`` are classes of
    which not every object is boxed here: nothing is asked about them. ``checked`` are the classes
    known to have all their boxes, where the file says so; None: all.
    """

    name: str
    marks: tuple[Mark, ...]
    recorded: ImageSize | None = None
    stem: str | None = None
    unsure: frozenset[str] = frozenset()
    checked: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What turns the photos of one source into samples, and counts what it does."""

    source: Path
    found: Images
    asker: Asker
    tally: Tally
    soundness: Soundness
    min_visible: float = MIN_VISIBLE

    def samples(self, photos: Iterable[Photo]) -> Iterator[Sample]:
        """The questions about each photo; a photo that cannot be used is set aside."""
        listed = list(self._merged(photos))
        names = sample_names([str(self._where(photo)) for photo in listed])
        for photo, name in zip(listed, names, strict=True):
            with self._photo(photo):
                image, edges = self._upright(photo)
                for problem in self.soundness.image_problems(image):
                    raise Unusable(problem.reason, problem.detail)
                objects, unsure = self._objects(photo, image, edges)
                if unsure & self.asker.questions.keys():
                    self.tally.note("photos with classes not boxed throughout", photo.name)
                asked = self.asker.samples(name, image, objects, unsure, photo.checked)
                good = list(sound(asked, self.source, self.tally, self.soundness))
                self.tally.kept["photos"] += bool(good)
                self.tally.kept["boxes"] += len(objects)
                if not good:
                    self.tally.note("photos that gave no question", photo.name)
                yield from good

    @contextmanager
    def _photo(self, photo: Photo) -> Iterator[None]:
        """A photo is read: where it is set aside, its boxes are too, which is noted."""
        before = len(self.tally.aside)
        with self.tally.row(self.source, photo.name, "photo"):
            yield
            return
        if len(self.tally.aside) > before:
            for _ in photo.marks:
                self.tally.note("boxes of photos that were set aside", photo.name)

    def _merged(self, photos: Iterable[Photo]) -> Iterator[Photo]:
        """The photos; entries of one name are one photo, other names for its file are set aside."""
        by_file: dict[Path | str, list[Photo]] = defaultdict(list)
        for photo in photos:
            with self._photo(photo):
                by_file[self._where(photo)].append(photo)
        for file, alike in by_file.items():
            exact = [photo for photo in alike if self.found.path(photo.name) == file] or alike
            same = [photo for photo in alike if photo.name == exact[0].name]
            for photo in alike:
                with self._photo(photo):
                    if photo.name != exact[0].name:
                        raise Unusable(
                            Reason.MISSING_IMAGE, f"{file} is already that of {exact[0].name!r}"
                        )
            for photo in same[1:]:
                self.tally.note("images that stand twice, put together", photo.name)
            yield replace(
                same[0],
                marks=tuple(mark for photo in same for mark in photo.marks),
                unsure=frozenset().union(*(photo.unsure for photo in same)),
            )

    def _where(self, photo: Photo) -> Path | str:
        found = self.found.find(photo.name, stem=photo.stem)
        if found is None:
            self.found.has(photo.name, stem=photo.stem)
        return found or photo.name

    def _upright(self, photo: Photo) -> tuple[ImageRef, list[Edges | None]]:
        """The image, upright, and its marks' edges in its pixels; None for what are no numbers.

        Where the stored and the upright sides differ, boxes are taken as drawn on the upright
        photo, as today's tools show it, unless only the stored one holds them all.
        """
        path = self.found.find(photo.name, stem=photo.stem)
        head = self.found.header(path) if path else None
        recorded = photo.recorded
        if path and head and head.is_turned and recorded in (None, head.stored, head.upright):
            image = ImageRef(str(path), head.upright.width, head.upright.height)
            edges = [self._edges(mark, image.frame) for mark in photo.marks]
            return image, self._as_drawn(photo, head, edges)
        image = self.found.ref(photo.name, recorded, stem=photo.stem)
        return image, [self._edges(mark, image.frame) for mark in photo.marks]

    def _as_drawn(
        self, photo: Photo, head: Header, edges: list[Edges | None]
    ) -> list[Edges | None]:
        known = [each for each in edges if each]
        if any(mark.shares for mark in photo.marks) or _fit(known, head.upright):
            if photo.recorded == head.stored:
                self.tally.note("photos with EXIF rotation, boxes drawn upright", photo.name)
            return edges
        if not _fit(known, head.stored):
            raise Unusable(Reason.OUTSIDE, f"boxes fit neither {head.upright} nor {head.stored}")
        self.tally.note("photos with EXIF rotation, boxes turned upright", photo.name)
        return [each and head.turned(each) for each in edges]

    def _edges(self, mark: Mark, frame: Frame) -> Edges | None:
        try:
            x1, y1, x2, y2 = numbers(mark.edges)
        except DataError:
            return None
        scale = (frame.width, frame.height) if mark.shares else (1, 1)
        return (x1 * scale[0], y1 * scale[1], x2 * scale[0], y2 * scale[1])

    def _objects(
        self, photo: Photo, image: ImageRef, edges: list[Edges | None]
    ) -> tuple[list[Labelled], frozenset[str]]:
        """The boxes that can be asked about, and the classes of which some cannot."""
        kept: dict[Labelled, None] = {}
        unsure = set(photo.unsure)
        for mark, each in zip(photo.marks, edges, strict=True):
            if not mark.whole:
                unsure.add(mark.label)
            found = len(self.tally.aside)
            with self.tally.row(self.source, f"{photo.name}: {mark.label}", "box"):
                if box := self._box(mark, each, image, photo.name):
                    twice = Labelled(mark.label, box)
                    if twice in kept:
                        self.tally.note("boxes that stand twice, counted once", photo.name)
                    kept[twice] = None
            if len(self.tally.aside) > found:
                unsure.add(mark.label)
        self._name_alike(list(kept), photo.name)
        return list(kept), frozenset(unsure)

    def _box(self, mark: Mark, edges: Edges | None, image: ImageRef, name: str) -> Box | None:
        if mark.flaw:
            raise mark.flaw
        if not mark.label.strip():
            raise Unusable("box without a class", f"{mark.edges!r}")
        if edges is None:
            raise Unusable("box without four numbers", f"{mark.edges!r}")
        x1, y1, x2, y2 = edges
        if x1 > x2 or y1 > y2:
            self.tally.note("boxes with reversed corners, put in order", name)
            x1, x2, y1, y2 = *sorted((x1, x2)), *sorted((y1, y2))
        box = Box(x1, y1, x2, y2, image.frame)
        if box.is_degenerate:
            self.tally.note(f"empty boxes of {mark.label}, left out", name)
            return None
        inside = box.clipped()
        if inside.is_degenerate or inside.area < self.min_visible * box.area:
            shown = [round(value, 2) for value in box.xyxy]
            raise Unusable(Reason.OUTSIDE, f"{shown} in {image.width} x {image.height}")
        if max(abs(a - b) for a, b in zip(box.xyxy, inside.xyxy, strict=True)) > _FAR:
            self.tally.note("boxes cut at the image's edge", name)
        return inside

    def _name_alike(self, objects: Sequence[Labelled], name: str) -> None:
        by_label: dict[str, list[Box]] = defaultdict(list)
        for each in objects:
            by_label[each.label].append(each.box)
        for boxes in by_label.values():
            every = as_array(boxes)
            if len(boxes) > 1 and (iou_matrix(every, every) > ALIKE).sum() > len(boxes):
                self.tally.note("boxes of one class that nearly agree, kept", name)


def _fit(edges: Iterable[Edges], size: ImageSize) -> bool:
    """Whether all boxes lie in an image, give or take a pixel."""
    return all(
        min(each) >= -1
        and max(each[0], each[2]) <= size.width + 1
        and max(each[1], each[3]) <= size.height + 1
        for each in edges
    )


def sample_names(paths: Sequence[str]) -> list[str]:
    """A name for each photo, unlike all others: what differs of the paths, without the ending.

    >>> sample_names(["in/day/1.png", "in/night/1.png", "in/night/2.png", "in/night/2.jpg"])
    ['day/1', 'night/1', 'night/2.png', 'night/2.jpg']
    """
    parents = [PurePosixPath(path).parent.parts for path in paths]
    shared = 0
    while (
        parents
        and all(len(each) > shared for each in parents)
        and len({each[shared] for each in parents}) == 1
    ):
        shared += 1
    whole = ["/".join(PurePosixPath(path).parts[shared:]) for path in paths]
    bare = [str(PurePosixPath(name).with_suffix("")) for name in whole]
    count = Counter(bare)
    return [short if count[short] == 1 else name for short, name in zip(bare, whole, strict=True)]
