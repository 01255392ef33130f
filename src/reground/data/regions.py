"""Boxes as COCO and Label Studio write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reground.grounding.boxes import UNIT, Box
from reground.grounding.confidence import least


def coco_box(box: Box) -> list[float]:
    """Left, upper, width and height, in the units of the box's frame.

    >>> from reground.grounding.boxes import Frame
    >>> coco_box(Box(64, 120, 320, 360, Frame.pixels(640, 480)))
    [64, 120, 256, 240]
    """
    return [box.x1, box.y1, box.width, box.height]


def coco_result(
    box: Box, score: float | None, *, image_id: int, category_id: int
) -> dict[str, Any]:
    """A box as one of COCO's results, which need a score: 1 where there is none."""
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": coco_box(box),
        "score": 1.0 if score is None else score,
    }


def region(
    box: Box,
    label: str,
    *,
    score: float | None = None,
    from_name: str = "label",
    to_name: str = "image",
) -> dict[str, Any]:
    """A rectangle of Label Studio, in percent of the image whose pixels are the box's frame.

    The names are those of the tags in the project's labelling config. Source: Label Studio's
    documentation of its results for images.

    >>> from reground.grounding.boxes import Frame
    >>> made = region(Box(64, 120, 320, 360, Frame.pixels(640, 480)), "cup", score=0.9)
    >>> [made["value"][side] for side in ("x", "y", "width", "height")], made["score"]
    ([10.0, 25.0, 40.0, 50.0], 0.9)
    """
    x, y, width, height = (100 * share for share in coco_box(box.to(UNIT)))
    made: dict[str, Any] = {
        "from_name": from_name,
        "to_name": to_name,
        "type": "rectanglelabels",
        "original_width": box.frame.width,
        "original_height": box.frame.height,
        "image_rotation": 0,
        "value": {
            "x": x,
            "y": y,
            "width": width,
            "height": height,
            "rotation": 0,
            "rectanglelabels": [label],
        },
    }
    return made if score is None else made | {"score": score}


def prediction(
    boxes: Sequence[Box],
    scores: Sequence[float | None],
    *,
    label: str,
    model_version: str,
    from_name: str = "label",
    to_name: str = "image",
) -> dict[str, Any]:
    """An answer as a prediction of Label Studio; its score is that of its least sure box.

    The score is left out where the model gives none, or finds nothing.

    >>> from reground.grounding.boxes import Frame
    >>> box = Box(64, 120, 320, 360, Frame.pixels(640, 480))
    >>> made = prediction([box, box], [0.9, 0.7], label="cup", model_version="tiny")
    >>> made["score"], [each["id"] for each in made["result"]]
    (0.7, ['box1', 'box2'])
    """
    result = [
        {"id": f"box{number}"}
        | region(box, label, score=score, from_name=from_name, to_name=to_name)
        for number, (box, score) in enumerate(zip(boxes, scores, strict=True), start=1)
    ]
    made: dict[str, Any] = {"model_version": model_version, "result": result}
    score = least(scores)
    return made if score is None else made | {"score": score}
