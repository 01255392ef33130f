"""A closer look: a part of the target image, cut out and shown to the policy as an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from reground.data.images import MAX_ASPECT, load
from reground.grounding.answers import Status, judge
from reground.grounding.boxes import Box
from reground.grounding.codecs import Codec
from reground.grounding.sample import ImageRef
from reground.model.chat import Chat, EncodedImage
from reground.rollout.episode import Start

_PROBLEMS = {
    Status.UNPARSABLE: "a box needs finite numbers",
    Status.OUT_OF_BOUNDS: "the box reaches outside the image",
    Status.DEGENERATE: "the box has no area",
}


@dataclass(slots=True)
class Zoom:
    """Cuts boxes out of target images; only the processor changes their size.

    The image that was asked for last stays in memory: rollouts of one sample ask one by one.
    """

    chat: Chat
    _last: tuple[ImageRef, Image.Image] | None = field(default=None, init=False)

    def look(self, start: Start, numbers: Sequence[float], codec: Codec) -> EncodedImage | str:
        """The part of the image inside ``numbers``, a box as ``codec`` counts; or what is wrong.

        The box is read as that of an answer is, and widened to whole pixels.
        """
        target = start.sample.target_image
        size = start.prompt.images[target].size
        verdict = judge([numbers], size.frame(codec.frame), size.pixels)
        if not verdict.boxes:
            return _PROBLEMS[verdict.status]
        crop = self._image(start.sample.images[target]).crop(_whole_pixels(verdict.boxes[0]))
        if max(crop.size) > MAX_ASPECT * min(crop.size):
            return "the box is too thin"
        return self.chat.encode_images([crop])[0]

    def _image(self, ref: ImageRef) -> Image.Image:
        if self._last is None or self._last[0] != ref:
            self._last = (ref, load(ref))
        return self._last[1]


def _whole_pixels(box: Box) -> tuple[int, int, int, int]:
    """Left, upper, right and lower edge; at least one pixel, all inside the image.

    >>> from reground.grounding.boxes import Frame
    >>> _whole_pixels(Box(1.5, 2, 3.2, 2.0000001, Frame.pixels(10, 10)))
    (1, 2, 4, 3)
    """
    left = min(math.floor(box.x1), int(box.frame.width) - 1)
    upper = min(math.floor(box.y1), int(box.frame.height) - 1)
    return left, upper, max(math.ceil(box.x2), left + 1), max(math.ceil(box.y2), upper + 1)
