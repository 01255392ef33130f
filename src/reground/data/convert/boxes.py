"""Data sets of labelled boxes as samples: what their formats share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reground.data.convert import coco, cvat, hub_objects, label_studio, labelme, table, voc, yolo
from reground.data.convert.labelled import MIN_VISIBLE, Photo, Reading
from reground.data.convert.photos import Images, pictures_below
from reground.data.convert.questions import Asker, flips_of, read_questions
from reground.data.convert.tally import Tally
from reground.data.soundness import Soundness
from reground.grounding.sample import Sample

# The photos that a source describes, and all classes that it names.
Reader = Callable[..., tuple[list[Photo], list[str]]]
READERS: Mapping[str, Reader] = {
    "voc": voc.photos,
    "coco": coco.photos,
    "yolo": yolo.photos,
    "labelme": labelme.labelme,
    "label_studio": label_studio.photos,
    "cvat": cvat.photos,
    "via": labelme.via,
    "csv": table.photos,
    "hub_objects": hub_objects.photos,
}
_HOLD_PHOTOS = frozenset({"hub_objects"})  # their photos are written into the folder of images
_ANNOTATIONS = frozenset({"annotations", "annotation", "labels", "json", "xml", "csv"})


def samples(
    name: str,
    source: Path,
    tally: Tally,
    *,
    images: Path | None = None,
    questions: Path | None = None,
    views: int = 0,
    flips: str = "hv",
    min_visible: float = MIN_VISIBLE,
    allow_missing_images: bool = False,
    **own: Any,
) -> Iterator[Sample]:
    """Samples of a source of labelled boxes in the format ``name``, by :class:`Asker`.

    ``images`` is the folder in which the photos lie, at any depth: that of the annotations where it
    is not given. ``flips`` are those that views may have; words of side in classes and phrases
    forbid them. Of a box that reaches outside its photo the inside is kept, or nothing where that
    is less than ``min_visible`` of it. ``own`` are the format's own options.
    """
    if name in _HOLD_PHOTOS:
        own["images"] = images
    photos, classes = READERS[name](source, tally, **own)
    aside = Counter(each.what for each in tally.aside)
    tally.found["photos"] = len(photos) + aside["photo"]
    tally.found["boxes"] = sum(len(photo.marks) for photo in photos) + aside["box"]
    tally.kept.update(photos=0, boxes=0)
    phrases = read_questions(questions, classes)
    allowed = flips_of(phrases, flips)
    if views and allowed != flips:
        tally.note(f"words of side: views are not flipped {flips!r} but {allowed!r}", source.name)
    found = Images(images or images_folder(source), allow_missing_images)
    tally.found["classes"] = len(classes)
    asker = Asker(name, phrases, views, allowed)
    soundness = Soundness(may_lack=allow_missing_images)
    yield from Reading(source, found, asker, tally, soundness, min_visible).samples(photos)


def images_folder(source: Path) -> Path:
    """Where the photos of a source are looked for: its folder, or the one around `annotations/`."""
    folder = source if source.is_dir() else source.parent
    is_apart = folder.resolve().name.lower() in _ANNOTATIONS
    return (
        folder.resolve().parent if is_apart and not next(pictures_below(folder), None) else folder
    )
