"""Well-formed answers of other families, read as supervision and the models' own code read them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import supervision as sv
from transformers.models.kosmos2.processing_kosmos2 import patch_index_to_coordinate

from reground.grounding.boxes import Box
from reground.grounding.codecs import EncodedSize
from reground.protocols.families import get_family
from reground.protocols.protocol import get_protocol

COUNT = 200
LABELS = ("dog", "the left cup", "a man in red")
Corners = list[tuple[float, ...]]


def boxes(size: EncodedSize, rng: random.Random) -> list[Box]:
    """One to three boxes of at least an eighth of each side."""
    found = []
    for _ in range(rng.randint(1, 3)):
        width, height = (
            rng.uniform(size.width / 8, size.width),
            rng.uniform(size.height / 8, size.height),
        )
        x, y = rng.uniform(0, size.width - width), rng.uniform(0, size.height - height)
        found.append(Box(x, y, x + width, y + height, size.pixels))
    return found


def detected(vlm: sv.VLM, text: Any, size: EncodedSize, **more: Any) -> Corners:
    found = sv.Detections.from_vlm(vlm, text, resolution_wh=(size.width, size.height), **more)
    return [tuple(map(float, box)) for box in found.xyxy]


def labelled(text: str, key: str) -> str:
    """supervision leaves out items without a label."""
    items = [item | {"label": "dog"} for item in json.loads(text)]
    assert all(key in item for item in items)
    return f"```json\n{json.dumps(items)}\n```"


def of_kosmos(text: str, size: EncodedSize) -> Corners:
    pairs = [part.split("<patch_index_")[1:] for part in text.split("<object>")[1:]]
    shares = [patch_index_to_coordinate(int(one[:4]), int(other[:4]), 32) for one, other in pairs]
    sides = (size.width, size.height) * 2
    return [tuple(v * side for v, side in zip(own, sides, strict=True)) for own in shares]


def of_florence(text: str, size: EncodedSize) -> Corners:
    """The middle of each of 1000 bins, as Florence-2's BoxQuantizer dequantizes."""
    numbers = [int(part.split(">")[0]) for part in text.split("<loc_")[1:]]
    sides = (size.width, size.height) * 2
    values = [(number + 0.5) * sides[i % 4] / 1000 for i, number in enumerate(numbers)]
    return [tuple(values[at : at + 4]) for at in range(0, len(values), 4)]


THEIRS: dict[str, tuple[Callable[[str], str], Callable[[str, EncodedSize], Corners]]] = {
    "qwen2_5_vl": (
        lambda text: labelled(text, "bbox_2d"),
        lambda text, size: detected(
            sv.VLM.QWEN_2_5_VL, text, size, input_wh=(size.input_width, size.input_height)
        ),
    ),
    "qwen3_vl": (
        lambda text: labelled(text, "bbox_2d"),
        lambda text, size: detected(sv.VLM.QWEN_3_VL, text, size),
    ),
    "gemini": (
        lambda text: labelled(text, "box_2d"),
        lambda text, size: detected(sv.VLM.GOOGLE_GEMINI_2_0, text, size),
    ),
    "paligemma": (
        lambda text: " ; ".join(f"{own} dog" for own in text.split(" ; ")),
        lambda text, size: detected(sv.VLM.PALIGEMMA, text, size),
    ),
    "deepseek_vl2": (
        lambda text: f"<|ref|>dog<|/ref|>{text}",
        lambda text, size: detected(sv.VLM.DEEPSEEK_VL_2, text, size),
    ),
    "moondream": (str, lambda text, size: detected(sv.VLM.MOONDREAM, json.loads(text), size)),
    "kosmos_2": (str, of_kosmos),
    "florence_2": (str, of_florence),
}


@pytest.mark.parametrize("name", THEIRS)
def test_well_formed_answers_are_read_alike(name: str) -> None:
    rng = random.Random(name)
    written, theirs = THEIRS[name]
    protocol, codec = get_protocol(name), get_family(name).codec
    for _ in range(COUNT):
        width, height = rng.randint(60, 2000), rng.randint(60, 2000)
        size = EncodedSize(width, height, width - width % 28, height - height % 28)
        text = written(codec.spell(boxes(size, rng), size=size))
        ours = [box.xyxy for box in protocol.read(text, size).boxes]
        assert ours == [pytest.approx(box, abs=1e-3) for box in theirs(text, size)], text
