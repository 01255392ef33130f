"""Boxes with a named frame, and the overlaps between them.

A box never travels without its frame: the numbers (500, 500) mean the middle of the image in the
0-1000 frame and a point near a corner in a 4000 x 3000 photo. Conversion is a scale by the two
frames' extents and origins, nothing else; it is never guessed from the size of the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from math import isfinite

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class FrameKind(StrEnum):
    """What the numbers of a box count."""

    PIXELS = "pixels"  # pixels of the image as its file holds it (after EXIF rotation)
    INPUT = "input"  # pixels of the resized image that the model saw
    THOUSAND = "thousand"  # 0-1000 of each side
    UNIT = "unit"  # 0-1 of each side
    SQUARE = "square"  # 0-1 of the longer side, the image in the middle of a padded square
    OF_999 = "of_999"  # 0-999 of each side, 999 being its end
    OF_1024 = "of_1024"  # 1024ths of each side
    BINS = "bins"  # 1000 bins of each side, a number being the middle of its bin
    PATCHES = "patches"  # 32 patches of each side, a number being the middle of its patch


@dataclass(frozen=True, slots=True)
class Frame:
    """A coordinate frame: its kind, and where the image lies in it.

    ``width`` and ``height`` are the image's extents in the frame's numbers, ``left`` and ``upper``
    the numbers of its left and upper edge: 0, but where the image is padded.
    """

    kind: FrameKind
    width: float
    height: float
    left: float = 0.0
    upper: float = 0.0

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.height > 0):
            raise ValueError(f"a frame needs positive sides, found {self.width} x {self.height}")

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """The image's left, upper, right and lower edge, in the frame's numbers."""
        return (self.left, self.upper, self.left + self.width, self.upper + self.height)

    @classmethod
    @lru_cache(maxsize=4096, typed=True)  # images of one size share theirs
    def pixels(cls, width: int, height: int) -> Frame:
        """Pixels of the original image, ``width`` x ``height``."""
        return cls(FrameKind.PIXELS, width, height)

    @classmethod
    def input(cls, width: int, height: int) -> Frame:
        """Pixels of the resized image that the model saw, ``width`` x ``height``."""
        return cls(FrameKind.INPUT, width, height)

    @classmethod
    def square(cls, width: int, height: int) -> Frame:
        """Shares of the square that an image of ``width`` x ``height`` pixels is padded to.

        The bars left and right, or above and below, differ by at most a pixel (LLaVA's, Shikra's
        and GroundingGPT's ``expand2square``).

        >>> Frame.square(640, 480).upper, Frame.square(640, 480).height
        (0.125, 0.75)
        """
        side = max(width, height)
        left, upper = (side - width) // 2, (side - height) // 2
        return cls(FrameKind.SQUARE, width / side, height / side, left / side, upper / side)


THOUSAND = Frame(FrameKind.THOUSAND, 1000, 1000)
UNIT = Frame(FrameKind.UNIT, 1, 1)
OF_999 = Frame(FrameKind.OF_999, 999, 999)
OF_1024 = Frame(FrameKind.OF_1024, 1024, 1024)
BINS = Frame(FrameKind.BINS, 1000, 1000, left=-0.5, upper=-0.5)
PATCHES = Frame(FrameKind.PATCHES, 32, 32, left=-0.5, upper=-0.5)


@dataclass(frozen=True, slots=True)
class Box:
    """A box by its left, upper, right and lower edge, in ``frame``.

    >>> Box(100, 250, 500, 750, THOUSAND).to(Frame.pixels(640, 480)).xyxy
    (64.0, 120.0, 320.0, 360.0)
    """

    x1: float
    y1: float
    x2: float
    y2: float
    frame: Frame

    def __post_init__(self) -> None:
        is_finite = isfinite(self.x1) and isfinite(self.y1) and isfinite(self.x2)
        if not (is_finite and isfinite(self.y2)):
            raise ValueError(f"a box needs four finite numbers, found {self.xyxy}")

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """(left, upper, right, lower)."""
        return (self.x1, self.y1, self.x2, self.y2)

    @property
    def width(self) -> float:
        """From the left to the right edge."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """From the upper to the lower edge."""
        return self.y2 - self.y1

    @property
    def cx(self) -> float:
        """The horizontal centre."""
        return (self.x1 + self.x2) / 2

    @property
    def cy(self) -> float:
        """The vertical centre."""
        return (self.y1 + self.y2) / 2

    @property
    def is_degenerate(self) -> bool:
        """Whether the box has no area: its corners coincide, or stand in the wrong order."""
        return self.x2 <= self.x1 or self.y2 <= self.y1

    @property
    def is_inside(self) -> bool:
        """Whether no edge is outside the image, in whatever order they stand."""
        left, upper, right, lower = self.frame.edges
        return (
            left <= self.x1 <= right
            and left <= self.x2 <= right
            and upper <= self.y1 <= lower
            and upper <= self.y2 <= lower
        )

    @property
    def area(self) -> float:
        """Area in squared units of the frame; 0 for a degenerate box."""
        return max(0.0, self.width) * max(0.0, self.height)

    def to(self, frame: Frame) -> Box:
        """The same box in another frame of the same image."""
        return scaled(*self.xyxy, self.frame, frame)

    def clipped(self) -> Box:
        """The part inside the image."""
        if self.is_inside:
            return self
        left, upper, right, lower = self.frame.edges
        x1, x2 = (min(max(x, left), right) for x in (self.x1, self.x2))
        y1, y2 = (min(max(y, upper), lower) for y in (self.y1, self.y2))
        return Box(x1, y1, x2, y2, self.frame)

    def overhang(self) -> float:
        """How far the box reaches outside the image, as a share of that side; 0 when inside."""
        if self.is_inside:
            return 0.0
        left, upper, right, lower = self.frame.edges
        beyond_x = max(left - min(self.x1, self.x2), max(self.x1, self.x2) - right)
        beyond_y = max(upper - min(self.y1, self.y2), max(self.y1, self.y2) - lower)
        return max(0.0, beyond_x / self.frame.width, beyond_y / self.frame.height)


def scaled(x1: float, y1: float, x2: float, y2: float, own: Frame, frame: Frame) -> Box:
    """The box in ``frame`` that has these edges in ``own``, another frame of the same image.

    >>> scaled(100, 250, 500, 750, THOUSAND, Frame.pixels(640, 480)).xyxy
    (64.0, 120.0, 320.0, 360.0)
    """
    x_scale, y_scale = frame.width / own.width, frame.height / own.height
    return Box(
        (x1 - own.left) * x_scale + frame.left,
        (y1 - own.upper) * y_scale + frame.upper,
        (x2 - own.left) * x_scale + frame.left,
        (y2 - own.upper) * y_scale + frame.upper,
        frame,
    )


def place(box: Box) -> str:
    """The cell of a 3 x 3 grid over the image that holds the box's centre, in words.

    >>> place(Box(0, 400, 200, 500, THOUSAND)), place(Box(400, 400, 600, 600, THOUSAND))
    ('middle left', 'centre')
    """
    x = (box.cx - box.frame.left) / box.frame.width
    y = (box.cy - box.frame.upper) / box.frame.height
    row = ("top", "middle", "bottom")[min(max(int(3 * y), 0), 2)]
    column = ("left", "centre", "right")[min(max(int(3 * x), 0), 2)]
    return "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"


def as_array(boxes: Iterable[Box]) -> FloatArray:
    """Boxes of one common frame as [N, 4]; raises ``ValueError`` where frames differ."""
    boxes = list(boxes)
    _check_frames(boxes)
    return np.array([box.xyxy for box in boxes], dtype=np.float64).reshape(-1, 4)


def iou(first: Box, second: Box) -> float:
    """Continuous intersection over union of two boxes of one frame, in [0, 1].

    >>> iou(Box(0, 0, 10, 10, THOUSAND), Box(0, 0, 10, 5, THOUSAND))
    0.5
    """
    if first.frame is not second.frame:
        _check_frames([first, second])
    width = min(first.x2, second.x2) - max(first.x1, second.x1)
    height = min(first.y2, second.y2) - max(first.y1, second.y1)
    inter = max(width, 0.0) * max(height, 0.0)
    union = first.area + second.area - inter
    return inter / union if union > 0 else 0.0


def iou_matrix(first: FloatArray, second: FloatArray) -> FloatArray:
    """IoU of every box in ``first`` [N, 4] with every box in ``second`` [M, 4], as [N, M]."""
    inter, union, _ = _overlaps(first, second)
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def giou_matrix(first: FloatArray, second: FloatArray) -> FloatArray:
    """Generalised IoU (Rezatofighi et al. 2019) of [N, 4] with [M, 4], as [N, M] in [-1, 1]."""
    inter, union, hull = _overlaps(first, second)
    overlap = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    outside = np.divide(hull - union, hull, out=np.zeros_like(hull), where=hull > 0)
    return overlap - outside


def match(first: FloatArray, second: FloatArray) -> list[tuple[int, int]]:
    """One-to-one pairs (i, j) that maximise the summed IoU (the Hungarian method).

    >>> match(np.array([[0, 0, 4, 4], [6, 6, 9, 9]]), np.array([[6, 6, 9, 9]]))
    [(1, 0)]
    """
    from scipy.optimize import linear_sum_assignment  # 0.2 s, for sets of boxes alone

    rows, columns = linear_sum_assignment(iou_matrix(first, second), maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True)]


def set_iou(predicted: Sequence[Box], truth: Sequence[Box]) -> float:
    """Summed IoU of the matched pairs over max(n_predicted, n_truth); both empty 1, one empty 0.

    Source: VG-Refiner's IoU for several boxes, here with continuous areas.
    """
    if not predicted or not truth:
        return 1.0 if not predicted and not truth else 0.0
    if len(predicted) == len(truth) == 1:
        return iou(predicted[0], truth[0])
    corners = as_array([*predicted, *truth])
    first, second = corners[: len(predicted)], corners[len(predicted) :]
    overlaps = iou_matrix(first, second)
    return float(sum(overlaps[pair] for pair in match(first, second)) / max(overlaps.shape))


def _check_frames(boxes: Sequence[Box]) -> None:
    if any(box.frame != boxes[0].frame for box in boxes):
        raise ValueError("boxes of different frames cannot be compared; convert them with .to()")


def _overlaps(first: FloatArray, second: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    a = np.asarray(first, dtype=np.float64).reshape(-1, 1, 4)
    b = np.asarray(second, dtype=np.float64).reshape(1, -1, 4)
    inter = _area(np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - inter
    hull = _area(np.minimum(a[..., :2], b[..., :2]), np.maximum(a[..., 2:], b[..., 2:]))
    return inter, union, hull


def _area(low: FloatArray, high: FloatArray) -> FloatArray:
    sides: FloatArray = np.clip(high - low, 0, None)
    area: FloatArray = sides[..., 0] * sides[..., 1]
    return area
