"""Rows as LLaMA-Factory reads them: its ShareGPT format, with messages and images.

Source: hiyouga/LLaMA-Factory, data/README.md ("OpenAI Format", "Multimodal Dataset"). It puts an
image for each ``<image>``, in order; looks for paths in its ``media_dir``; and neither draws scenes
nor turns photos by their EXIF data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from reground.data.source import relative_to
from reground.errors import DataError
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample
from reground.protocols.protocol import get_protocol
from reground.runs import write_json
from reground.teacher.files import is_plain

ROWS, DESCRIPTION = "sharegpt.jsonl", "dataset_info.json"
PLACEHOLDER = "<image>"

_WITH_THINKING, _WITHOUT = get_protocol("univg_r1", "think"), get_protocol("univg_r1", "direct")
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


def write(folder: Path, samples: Iterable[Sample]) -> tuple[int, int]:
    """Write rows and their description; how many, and how many rows have images of no such file.

    Those are left out. Where nothing is written, no file is. Raises ``DataError`` for a question
    that holds the placeholder.
    """
    path, written, left_out = folder / ROWS, 0, 0
    partial = path.with_name(ROWS + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as out:
            for sample in samples:
                if all(map(is_plain, sample.images)):
                    text = json.dumps(
                        row(relative_to(sample, folder.resolve())), ensure_ascii=False
                    )
                    out.write(text + "\n")
                    written += 1
                else:
                    left_out += 1
        for old in (path, folder / DESCRIPTION):
            old.unlink(missing_ok=True)
        if written:
            partial.replace(path)
            write_json(folder / DESCRIPTION, {"reground_chains": _DESCRIPTION})
    finally:
        partial.unlink(missing_ok=True)
    return written, left_out


def row(sample: Sample) -> dict[str, Any]:
    """One question and its answer, with the thinking of the sample if it has one."""
    protocol = _WITHOUT if sample.think is None else _WITH_THINKING
    sizes = [EncodedSize(*(image.width, image.height) * 2) for image in sample.images]
    asked = protocol.user_text(sample, sizes)
    answer = protocol.render(sample.boxes, size=sizes[sample.target_image], think=sample.think)
    for text in (asked, answer):
        if PLACEHOLDER in text:
            raise DataError(
                f"sample {sample.id!r}: {PLACEHOLDER} stands in its question or its thinking, and "
                "LLaMA-Factory would take it for an image; mend the text"
            )
    return {
        "messages": [
            {"role": "user", "content": PLACEHOLDER * len(sample.images) + asked},
            {"role": "assistant", "content": answer},
        ],
        "images": [image.path for image in sample.images],
    }


def profiles() -> Iterator[tuple[str, str]]:
    """The names and hashes of the prompts that rows are asked by."""
    for protocol in (_WITH_THINKING, _WITHOUT):
        yield protocol.profile.name, protocol.profile.sha256
