"""Prompts for an engine that takes images and expands their ids itself."""

from __future__ import annotations

from collections.abc import Sequence

from reground.model.chat import Chat, EncodedImage


def collapsed(ids: Sequence[int], images: Sequence[EncodedImage], chat: Chat) -> list[int]:
    """``ids`` with one image token in place of each image's."""
    counts = iter([chat.num_tokens(image) for image in images])
    short, place = [], 0
    while place < len(ids):
        short.append(ids[place])
        place += next(counts) if ids[place] == chat.image_token_id else 1
    return short
