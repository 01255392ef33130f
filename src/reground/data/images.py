"""Images as the rest of ReGround sees them: RGB, upright, one frame, or one clear error."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from reground.data.schemes import source_of
from reground.data.views import split_view
from reground.errors import DataError
from reground.grounding.sample import ImageRef, is_file_path

MAX_ASPECT = 200  # the Qwen-VL processors refuse images that are longer than this
MAX_PIXELS = 80_000_000  # below Pillow's own limit; a larger file is taken for a bomb

# EXIF orientations that turn the image by a quarter, so that its sides swap.
_QUARTER_TURNS = frozenset({5, 6, 7, 8})


@dataclass(frozen=True, slots=True)
class ImageSize:
    """An image's sides in pixels, after EXIF rotation."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height}"


def load(image: ImageRef | str) -> Image.Image:
    """The image in RGB, upright (EXIF orientation applied), alpha laid on white, first frame.

    A path with a scheme is rendered by its source; ``#view=`` behind a path cuts a view out.
    Raises ``DataError`` where the file is missing, no image, truncated or larger than
    ``MAX_PIXELS``, and where the size recorded in an ``ImageRef`` is not the file's: its boxes
    would be in a wrong frame.
    """
    path = image if isinstance(image, str) else image.path
    file, view = split_view(path)
    source = source_of(file)
    loaded = source.render(file) if source else _load_file(file)
    if view is not None:
        if view.right > loaded.width or view.lower > loaded.height:
            found = ImageSize(*loaded.size)
            raise DataError(f"{path}: reaches outside the file's {found}; convert the data again")
        loaded = view.image(loaded)
    if isinstance(image, ImageRef) and loaded.size != (image.width, image.height):
        found = ImageSize(*loaded.size)
        raise DataError(
            f"{path}: the file is {found}, but {image.width} x {image.height} is recorded, so "
            "its boxes are in another frame; convert the data again"
        )
    return loaded


def base64_png(image: Image.Image) -> str:
    """The image as a PNG, without loss, in base64: as requests carry it."""
    out = io.BytesIO()
    image.save(out, "png")
    return base64.b64encode(out.getvalue()).decode()


def exists(path: str) -> bool:
    """Whether the file of an image, or of the image that a view is cut from, is on disk.

    What a source renders needs no file.
    """
    return not is_file_path(path) or Path(split_view(path)[0]).is_file()


def size(path: str | Path) -> ImageSize:
    """The sides of an image file after EXIF rotation.

    Reads the header alone, but for PNG files without EXIF before the pixels, where Pillow decodes
    to look behind them. Raises ``DataError`` as :func:`load` does, but for truncated pixels.
    """
    if source := source_of(str(path)):
        return ImageSize(*source.render(str(path)).size)
    with _opened(str(path)) as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
    return ImageSize(height, width) if turned else ImageSize(width, height)


def _load_file(path: str) -> Image.Image:
    with _opened(path) as image:
        return _as_rgb(ImageOps.exif_transpose(image), path)


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"{path}: more than {MAX_PIXELS // 1_000_000} million pixels; shrink the image first"
        ) from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such image; check the path or the images folder") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image that Pillow can read; replace the file") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise DataError(f"{path}: cannot be decoded ({error}); replace the file") from None


def _as_rgb(image: Image.Image, path: str) -> Image.Image:
    if image.mode == "F":
        raise DataError(f"{path}: floating-point pixels have no known range; save it as 8 bit")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(image, path)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image, path: str) -> Image.Image:
    # Pillow clips 16-bit grey at 255 when asked to convert; the upper byte is the picture.
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise DataError(f"{path}: 32-bit pixels have no known range; save it as 8 or 16 bit")
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
