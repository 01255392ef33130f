"""Good chains made bad, one fault at a time, as teachers make them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping

from reground.data.convert.mentions import ORDINALS
from reground.grounding.boxes import THOUSAND, Box, set_iou
from reground.grounding.sample import Sample
from reground.teacher.rows import Rejection

ANSWER = "<answer>"

LEAKS = (
    "this is as given by the ground truth.",
    "the ground-truth box confirms it.",
    "it lies at the provided coordinates.",
    "the given bounding box shows where.",
    "since the answer is provided, this must be it.",
    "as given, it is there.",
    "according to the annotation it is this one.",
    "we are told the coordinates of it.",
    "this matches the bounding box exactly.",
    "the prompt gives the box of it.",
    "based on the coordinates, it is this one.",
    "the annotated box surrounds it.",
)


def form(sample: Sample, text: str, rng: random.Random) -> str:
    """The form spoilt in one of the ways that teachers have."""
    think, answer = text.split("<answer>")
    return rng.choice(
        [
            text.replace("</think>", ""),
            text.replace("<answer>", "").replace("</answer>", ""),
            text.removesuffix("</answer>"),
            think,
            f"Here is the reasoning. {text}",
            f"```\n{text}\n```",
            f"{think}<answer>the box is {answer}",
            think + '<answer>{"bbox_2d": [1, 2, 30, 40]}</answer>',
            think + "<answer>(900,900),(100,100)</answer>",
            think + "<answer>(1,2),(3000,4000)</answer>",
            "",
        ]
    )


def wrong_box(sample: Sample, text: str, rng: random.Random) -> str:
    """Another box, well formed, with an IoU below one half."""
    truth = [box.to(THOUSAND) for box in sample.boxes]
    while True:
        x1, y1 = rng.randrange(900), rng.randrange(900)
        x2, y2 = rng.randrange(x1 + 1, 1001), rng.randrange(y1 + 1, 1001)
        if set_iou([Box(x1, y1, x2, y2, THOUSAND)], truth) < 0.49:
            return f"{text.partition(ANSWER)[0]}{ANSWER}({x1},{y1}),({x2},{y2})</answer>"


def leak(sample: Sample, text: str, rng: random.Random) -> str:
    """A sentence in the thinking that betrays the answer."""
    return _with_sentence(text, rng.choice(LEAKS), rng)


def repetition(sample: Sample, text: str, rng: random.Random) -> str:
    """The thinking, or its last sentence, again and again; or a loop of a few words."""
    (think,) = re.findall("<think>(.*)</think>", text)
    last = think.rstrip(".").rpartition(". ")[2]
    looped = rng.choice(
        [f"{think} {think} {think}", f"{think} {last}. {last}.", think + 9 * " and so on"]
    )
    return text.replace(think, looped)


def coordinates(sample: Sample, text: str, rng: random.Random) -> str:
    """The true box in the thinking, in one of several spellings."""
    x1, y1, x2, y2 = (max(10, round(edge)) for edge in sample.boxes[0].to(THOUSAND).xyxy)
    sentence = rng.choice(
        [
            f"it lies at ({x1}, {y1}).",
            f"its box is [{x1}, {y1}, {x2}, {y2}].",
            f"it goes from {x1} to {x2} across and from {y1} to {y2} down.",
            f"its place is x1={x1}.",
        ]
    )
    return _with_sentence(text, sentence, rng)


def wrong_image(sample: Sample, text: str, rng: random.Random) -> str:
    """Another image named where the chain says in which one the target is."""
    others = [ORDINALS[k] for k in range(len(sample.images)) if k != sample.target_image]
    before, named, after = text.rpartition(f"{ORDINALS[sample.target_image]} image")
    return f"{before}{rng.choice(others)} image{after}" if named else text


Fault = Callable[[Sample, str, random.Random], str]

FAULTS: Mapping[Rejection, Fault] = {
    Rejection.FORM: form,
    Rejection.WRONG_BOX: wrong_box,
    Rejection.LEAK: leak,
    Rejection.REPETITION: repetition,
    Rejection.COORDINATES: coordinates,
    Rejection.WRONG_IMAGE: wrong_image,
}


def _with_sentence(text: str, sentence: str, rng: random.Random) -> str:
    opened, _, closed = text.partition("<think>")[2].partition("</think>")
    sentences = opened.split(". ")
    sentences.insert(rng.randrange(len(sentences) + 1), sentence.rstrip("."))
    return f"<think>{'. '.join(part.rstrip('.') for part in sentences)}.</think>{closed}"
