"""What several tests make: the score of an answer, a prompter, how a run was made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from reground.evaluation.records import RunInfo
from reground.grounding.answers import Answer, score
from reground.grounding.boxes import Box, Frame
from reground.grounding.names import ProtocolName
from reground.grounding.sample import ImageRef, Sample, Target, digest
from reground.model.load import Checkpoint
from reground.model.prompting import Prompter
from reground.protocols.choice import Answering, PromptUse
from reground.protocols.families import FAMILIES
from reground.protocols.protocol import get_protocol

PROTOCOLS = {name: get_protocol(name) for name in FAMILIES}
PROTOCOLS["univg_r1/direct"] = get_protocol("univg_r1", "direct")
"""Every family under its usual protocol, and one that answers in two ways."""


def overlap(answer: Answer, boxes: Sequence[Box]) -> float:
    """The score of an answer to a sample with these true boxes."""
    frame = boxes[0].frame if boxes else Frame.pixels(640, 480)
    image = ImageRef("image.png", int(frame.width), int(frame.height))
    return score(answer, Sample("s", (image,), "q", tuple(Target(0, b) for b in boxes), task="t"))


def prompter_of(
    checkpoint: Checkpoint, family: str, protocol: ProtocolName, **how: Any
) -> Prompter:
    """A checkpoint that answers under ``protocol``; ``how`` are a prompt, zoom and max_calls."""
    prompts = {protocol: how.pop("prompt")} if "prompt" in how else {}
    answering = Answering(family=family, protocol=protocol, prompts=prompts, **how)
    return Prompter.of(replace(checkpoint, answering=answering))


def run_of(samples: Iterable[Sample], **changes: Any) -> RunInfo:
    """A run that asked exactly ``samples``, with ``changes``."""
    rows = list(samples)
    fields: dict[str, Any] = {
        "model": "tiny",
        "family": "univg_r1",
        "protocol": "think",
        "protocol_by": "family",
        "prompts": {"think": PromptUse("univg_r1", "0" * 64, "family")},
        "data": "val.jsonl",
        "data_sha256": digest(rows),
        "num_samples": len(rows),
        "seed": 0,
        "limit": None,
        "temperature": 0.0,
        "max_new_tokens": 64,
    }
    return RunInfo(**fields | changes)
