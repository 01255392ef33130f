"""Rows as LLaMA-Factory reads them: its ShareGPT format, with messages and images.

Source: hiyouga/LLaMA-Factory, data/README.md ("OpenAI Format", "Multimodal Dataset"). It puts an
image for each ``<image>``, in order; looks for paths in its ``media_dir``; and neither draws scenes
nor turns photos by their EXIF data.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from reground.data.source import path_from
from reground.errors import DataError
from reground.grounding.sample import Sample, with_paths
from reground.io import json_line, write_json, write_lines
from reground.protocols.protocol import get_protocol
from reground.teacher.pictures import encoded_size
from reground.teacher.settings import PROTOCOL

ROWS, DESCRIPTION = "sharegpt.jsonl", "dataset_info.json"
PLACEHOLDER = "<image>"

REASONED, DIRECT = PROTOCOL, get_protocol("univg_r1", "direct")
_DESCRIPTION = {
    "file_name": ROWS,
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "images": "images"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
    },
}


def write(folder: Path, samples: Iterable[Sample]) -> int:
    """Write rows, whose images are files, and their description; returns how many rows.

    Where there is none, there are no files. Raises ``DataError`` for a question that holds the
    placeholder.
    """
    named = partial(path_from, folder.resolve())
    rows = (row(with_paths(sample, named)) for sample in samples)
    written = write_lines(folder / ROWS, map(json_line, rows))
    if written:
        write_json(folder / DESCRIPTION, {"reground_chains": _DESCRIPTION})
    else:
        for old in (folder / ROWS, folder / DESCRIPTION):
            old.unlink(missing_ok=True)
    return written


def row(sample: Sample) -> dict[str, Any]:
    """One question and its answer, with the reasoning of the sample if it has one."""
    protocol = DIRECT if sample.think is None else REASONED
    sizes = [encoded_size(image) for image in sample.images]
    question = protocol.user_text(sample, sizes)
    answer = protocol.render(sample.boxes, size=sizes[sample.target_image], think=sample.think)
    for text in (question, answer):
        if PLACEHOLDER in text:
            raise DataError(
                f"sample {sample.id!r}: its question or its reasoning holds {PLACEHOLDER}, and "
                "LLaMA-Factory would take it for an image; mend the text"
            )
    return {
        "messages": [
            {"role": "user", "content": PLACEHOLDER * len(sample.images) + question},
            {"role": "assistant", "content": answer},
        ],
        "images": [image.path for image in sample.images],
    }
