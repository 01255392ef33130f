"""The text of a sample's user turn, the same for every policy."""

from __future__ import annotations

from collections.abc import Sequence

from reground.errors import DataError
from reground.grounding.families import EncodedSize, Family
from reground.grounding.prompts import PromptProfile
from reground.grounding.sample import Sample


def user_text(
    sample: Sample, *, family: Family, profile: PromptProfile, sizes: Sequence[EncodedSize]
) -> str:
    """What is asked about ``sample``, whose images are encoded at ``sizes``.

    Where the profile shows a detector's result, its boxes in the target image are written as the
    family itself writes boxes. Raises ``DataError`` where there is no such result.
    """
    tool = _tool_text(sample, family, sizes) if profile.shows_tool else None
    return profile.render(question=sample.question, num_images=len(sample.images), tool=tool)


def _tool_text(sample: Sample, family: Family, sizes: Sequence[EncodedSize]) -> str:
    if sample.tool_results is None:
        raise DataError(
            f"sample {sample.id!r} has no detector's result to show; use data with tool_results, "
            "or a prompt without $tool"
        )
    boxes = [each.box for each in sample.detections]
    return family.render(boxes, size=sizes[sample.target_image])
