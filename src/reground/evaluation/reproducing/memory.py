"""How much of a GPU's memory an evaluation needs, from the published sizes of a model.

    weights = parameters * bytes
    kv      = 2 * layers * kv_heads * head_dim * bytes * 65,536
    vision  = images * most_pixels / 14² * 12 * 1280 * bytes
    total   = weights + kv + vision + 1 GiB

65,536 tokens, prompts and completions, are decoded together (``Runtime.batch_tokens``), and their
keys and values are kept. A layer of Qwen's vision tower, 1280 wide, holds about 12 numbers of that
width for each patch of 14 x 14 pixels of a question's images: input, queries, keys, values and the
four times wider middle, in and out; without gradients one layer is held at a time. The last GiB is
the GPU's context and its allocator's rest. It is an estimate, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from reground.evaluation.reproducing.published import Size

GIB = 2**30
TOKENS = 65_536
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_PATCH, _WIDTH, _HELD, _CONTEXT = 14, 1280, 12, 1.0
_USUAL_PIXELS = 16_384 * 28 * 28  # the most that Qwen's own processors make of an image


@dataclass(frozen=True, slots=True)
class Memory:
    """GiB of each part."""

    weights: float
    kv: float
    vision: float

    @property
    def total(self) -> float:
        """All of it, with the GPU's context.

        >>> from reground.evaluation.reproducing.published import published
        >>> size = published().sizes["qwen2_vl_7b"]
        >>> round(memory(size, images=6, most_pixels=401_408).total, 1)
        20.3
        """
        return self.weights + self.kv + self.vision + _CONTEXT


def memory(size: Size, *, images: int, most_pixels: int | None, dtype: str = "bfloat16") -> Memory:
    """What a model of ``size`` needs for questions about at most so many images of so many pixels.

    Without a limit an image is taken to have as many pixels as Qwen's own processors allow.
    """
    own = BYTES[dtype]
    patches = images * (most_pixels or _USUAL_PIXELS) / _PATCH**2
    return Memory(
        weights=size.billions * 1e9 * own / GIB,
        kv=2 * size.layers * size.kv_heads * size.head_dim * own * TOKENS / GIB,
        vision=patches * _HELD * _WIDTH * own / GIB,
    )
