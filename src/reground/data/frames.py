"""Whether the boxes of a file, as a whole, look like pixels of their photos."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from reground.data.soundness import MAX_OVERHANG
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample

# A right file happens to look like another frame with at most this probability.
_LOG_CHANCE = math.log(1e-6)
# So many of at least this many boxes outside their photos mean a wrong frame, not slips.
_OUTSIDE_SHARE, _FEWEST = 0.2, 5


@dataclass(frozen=True, slots=True)
class Boxes:
    """The different boxes of a file, by photo."""

    by_photo: dict[ImageRef, set[Box]] = field(default_factory=dict)

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Boxes:
        """The targets of ``samples``."""
        found = cls()
        for sample in samples:
            found.add(sample)
        return found

    def add(self, sample: Sample) -> None:
        """Take the targets of one more sample."""
        for target in sample.targets:
            self.by_photo.setdefault(sample.images[target.image], set()).add(target.box)

    def like_thousand(self) -> bool:
        """Whether the numbers look like 0-1000 as a whole.

        A box's lower right corner lies below 1000 of W pixels with a chance of about 1000 / W at
        most, so the product of these over all different boxes bounds the chance that pixels are
        meant.
        """
        boxes = {box for own in self.by_photo.values() for box in own}
        if len(boxes) < _FEWEST or any(max(box.xyxy) > 1000 for box in boxes):
            return False
        sides = [side for box in boxes for side in (box.frame.width, box.frame.height)]
        log_chance = sum(min(0.0, math.log(1000 / side)) for side in sides)
        return self._many_outside() or log_chance < _LOG_CHANCE

    def doubts(self) -> Iterator[str]:
        """Sentences about frames that would fit better; for a person to look at."""
        boxes = [box for own in self.by_photo.values() for box in own]
        if self._many_outside():
            outside = sum(box.overhang() > MAX_OVERHANG for box in boxes)
            yield (
                f"{outside} of {len(boxes)} boxes reach outside their photos: they may count "
                "pixels of other copies, or thousandths; look at them (reground data show), and "
                "convert them again with another --box-frame"
            )
        elif pixels := self._like_a_copy():
            yield (
                "all boxes lie in the upper left of the larger photos, as if they counted pixels "
                f"of copies of at most {pixels} pixels: look at them (reground data show); if so, "
                "convert them again with --box-frame resized --max-pixels"
            )

    def _many_outside(self) -> bool:
        boxes = [box for own in self.by_photo.values() for box in own]
        outside = sum(box.overhang() > MAX_OVERHANG for box in boxes)
        return outside >= max(_FEWEST, _OUTSIDE_SHARE * len(boxes))

    def _like_a_copy(self) -> int | None:
        """The pixels of the smallest copies that hold all boxes, where they look like such.

        That is where larger photos would have their boxes in the upper left part that such a copy
        covers by chance once in a million only, and around the copy's middle, not the photo's.
        """
        reach = {image: _reach(boxes) for image, boxes in self.by_photo.items()}
        pixels = max((reach[own] ** 2 * own.width * own.height for own in reach), default=0.0)
        log_chance, from_copy, from_photo = 0.0, 0.0, 0.0
        for image, boxes in self.by_photo.items():
            share = math.sqrt(pixels / (image.width * image.height))
            if share < 1:
                middle = _middle(boxes)
                log_chance += 2 * math.log(share)
                from_copy += middle / share - 0.5
                from_photo += middle - 0.5
        fits = log_chance < _LOG_CHANCE and abs(from_copy) < abs(from_photo)
        return math.ceil(pixels) if fits else None


def _reach(boxes: Iterable[Box]) -> float:
    """How far boxes reach to the right or down, as a share of the side; at most all of it."""
    return max(min(1.0, max(box.x2 / box.frame.width, box.y2 / box.frame.height)) for box in boxes)


def _middle(boxes: Iterable[Box]) -> float:
    """Where the centres of boxes lie on average, as a share of the sides; 0.5 is the middle."""
    shares = [(box.cx / box.frame.width + box.cy / box.frame.height) / 2 for box in boxes]
    return sum(shares) / len(shares)
