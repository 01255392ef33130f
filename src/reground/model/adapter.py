"""What one model type does in its own way; nothing else in the package knows a model type.

A package adds one under the entry points ``reground.models``: the name is the ``model_type`` of the
checkpoint's config, the object makes a :class:`ModelAdapter` from that config.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from PIL import Image
from torch import Tensor, nn

from reground.errors import ConfigError
from reground.grounding.codecs import EncodedSize, PixelLimits

Part = Literal["vision", "merger", "language"]
Features = tuple[Tensor, ...]
"""What vision gives for one image: for the input, then for deeper layers, if any."""

_ATTRIBUTE = "reground_adapter"  # of a model that was loaded


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """What vision gets for one image.

    ``pixel_values`` are float32: [patches, patch_dim] of Qwen-VL, [tiles, 3, H, W] of InternVL.
    ``grid`` says how they divide, as the adapter reads it: (time, height, width) in patches, or
    (1, rows, columns) of tiles. ``size`` is the recorded size before and after resizing.
    """

    pixel_values: Tensor
    grid: tuple[int, int, int]
    size: EncodedSize


class ModelAdapter(Protocol):
    """One model type; its image token stands for a piece of an image.

    ``slot`` is what a chat template writes for an image, ``marks`` are special tokens of answers,
    ``banned`` those that a policy must never sample: they would stand for absent pixels. Positions
    have ``axes`` axes: 3 under M-RoPE, otherwise 1. With ``any_size`` an image keeps its shape,
    within limits in pixels, as the authors of a benchmark may set; otherwise it is cut into tiles.
    """

    slot: ClassVar[str]
    marks: ClassVar[tuple[str, ...]]
    banned: ClassVar[tuple[str, ...]]
    axes: ClassVar[int]
    any_size: ClassVar[bool]

    @property
    def image_token_id(self) -> int:
        """The id of that token."""

    def read_processor(self, source: str, config: Any) -> Any:
        """The image processor of the checkpoint in a folder or of a hub id.

        Raises ``ModelError`` for one that does not cut images as the model of ``config`` sees them.
        """

    def limits(self, processor: Any) -> tuple[int, int]:
        """The fewest and most pixels that an image is encoded at."""

    def set_limits(self, processor: Any, fewest: int | None, most: int | None) -> None:
        """Other limits, in place; None leaves one. See :func:`set_limits`."""

    def smallest(self, processor: Any) -> int:
        """The pixels of the smallest image that there can be."""

    def saved_limits(self, processor: Any) -> dict[str, Any]:
        """The limits as preprocessor_config.json names them, for readers of any age."""

    def resized(self, processor: Any, image: Image.Image) -> Image.Image:
        """The RGB image as large as the model sees it; encoding it again changes nothing."""

    def encode(self, processor: Any, images: Sequence[Image.Image]) -> list[EncodedImage]:
        """Resize and cut RGB images, of which there is at least one."""

    def picture(self, processor: Any, image: EncodedImage) -> Image.Image:
        """The RGB image that was cut; encoding it again gives the same values to the bit.

        Raises ``ModelError`` where there is none.
        """

    def num_tokens(self, image: EncodedImage) -> int:
        """How many image tokens stand for an image."""

    def image_ids(self, tokenizer: Any, image: EncodedImage) -> list[int]:
        """The ids in place of the template's slot."""

    def positions(
        self, model: Any, ids: Tensor, mask: Tensor, images: Sequence[EncodedImage]
    ) -> Tensor:
        """Positions [axes, B, L] of ``ids`` [B, L]; ``mask`` is False on pads."""

    def see(self, model: Any, images: Sequence[EncodedImage]) -> Any:
        """Run vision: what the model's forward takes as ``mm_encoder_outputs["image"]``."""

    def features(self, seen: Any) -> Features:
        """What :meth:`see` gave for one image, as tensors."""

    def joined(self, features: Sequence[Features]) -> Any:
        """What :meth:`see` would give for images of which each has these features."""

    def blank(self, model: Any) -> EncodedImage:
        """The smallest image."""

    def tower(self, model: Any) -> list[nn.Module]:
        """The modules that see images: all that is not language."""

    def part_of(self, name: str) -> Part:
        """Which part of the model a parameter or module of this name belongs to."""


def set_limits(adapter: ModelAdapter, processor: Any, limits: PixelLimits) -> None:
    """Encode images within ``limits`` from now on.

    Raises ``ConfigError`` for limits that contradict the processor's own, and for those below the
    smallest image.
    """
    adapter.set_limits(processor, limits.fewest, limits.most)
    fewest, most = adapter.limits(processor)
    if fewest > most:
        raise ConfigError(
            f"images of {fewest} to {most} pixels; expected max_pixels to be at least the model's "
            "fewest; raise max_pixels, or set min_pixels as well",
            help="limits-of-pixels",
        )
    smallest = adapter.smallest(processor)
    for name, limit in (("min_pixels", limits.fewest), ("max_pixels", limits.most)):
        if limit is not None and limit < smallest:
            raise ConfigError(
                f"{name} {limit} is less than the smallest image of this model, {smallest} pixels; "
                f"raise {name}",
                help="limits-of-pixels",
            )


def adapt(model: Any, adapter: ModelAdapter) -> Any:
    """The model, of whose type ``adapter`` is."""
    setattr(model, _ATTRIBUTE, adapter)
    return model


def adapter_of(model: Any) -> ModelAdapter:
    """The adapter of a loaded model."""
    found: ModelAdapter = getattr(model, _ATTRIBUTE)
    return found
