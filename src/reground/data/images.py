"""Images as the rest of ReGround sees them: RGB, upright, one frame, or one clear error.

``photo.jpg#view=LEFT,UPPER,RIGHT,LOWER,FLIPS`` is a view of photo.jpg, a crop, then flips, so that
a sample about it is a sample like any other: it can be stored, drawn and checked.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from reground.data.confine import confined
from reground.data.schemes import source_of
from reground.errors import DataError, shown
from reground.grounding.boxes import Box, Frame
from reground.grounding.sample import ImageRef, is_file_path

MAX_ASPECT = 200  # the Qwen-VL processors refuse images that are longer than this
MAX_PIXELS = 80_000_000  # a larger file is taken for a bomb
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # what is ever decoded

GREY_BITS = "REGROUND_GREY_BITS"  # bits in use of grey photos of 16, at least; of a whole set

_WHOLE = "whole size"  # of a picture that was decoded at less, in its info
_DATA_URL = re.compile(r"data:[-\w.+/]*+(?:;[-\w.+=]*+)*?;base64,", re.ASCII)
_LIMIT = "REGROUND_MAX_IMAGE_PIXELS"
_BITS = "significant bits"  # in a picture's info
_DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners have

# EXIF orientations that turn the image by a quarter, so that its sides swap.
_QUARTER_TURNS = frozenset({5, 6, 7, 8})
Edges = tuple[float, float, float, float]  # left, upper, right, lower
_VIEW = re.compile(r"(?P<path>.*)#view=(\d+),(\d+),(\d+),(\d+),(h?v?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ImageSize:
    """An image's sides in pixels, after EXIF rotation."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height}"


@dataclass(frozen=True, slots=True)
class Header:
    """An image's sides as stored, before EXIF rotation, and its EXIF orientation (1: upright)."""

    stored: ImageSize
    orientation: int

    @property
    def is_turned(self) -> bool:
        """Whether the upright image is the stored one turned by a quarter."""
        return self.orientation in _QUARTER_TURNS

    @property
    def upright(self) -> ImageSize:
        """The sides after EXIF rotation."""
        width, height = self.stored.width, self.stored.height
        return ImageSize(height, width) if self.is_turned else self.stored

    def turned(self, xyxy: Edges) -> Edges:
        """A box in pixels of the stored image in those of the upright one, for a quarter's turn.

        >>> Header(ImageSize(320, 240), 6).turned((10, 20, 30, 60))  # clockwise
        (180, 10, 220, 30)
        """
        x1, y1, x2, y2 = xyxy
        width, height = self.stored.width, self.stored.height
        across = (y1, y2) if self.orientation in (5, 8) else (height - y2, height - y1)
        down = (x1, x2) if self.orientation in (5, 6) else (width - x2, width - x1)
        return (across[0], down[0], across[1], down[1])


@dataclass(frozen=True, slots=True)
class View:
    """A crop in pixels of the upright image, then flips: left-right, top-bottom."""

    left: int
    upper: int
    right: int
    lower: int
    mirrored: bool
    upside_down: bool

    def path_of(self, path: str) -> str:
        """The path that means this view of ``path``."""
        flips = "h" * self.mirrored + "v" * self.upside_down
        return f"{path}#view={self.left},{self.upper},{self.right},{self.lower},{flips}"

    def image(self, image: Image.Image) -> Image.Image:
        """The view's pixels."""
        seen = image.crop((self.left, self.upper, self.right, self.lower))
        if self.mirrored:
            seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return seen.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if self.upside_down else seen

    def box(self, box: Box) -> Box:
        """A box of the whole image (in its pixels) as one of the view."""
        width, height = self.right - self.left, self.lower - self.upper
        x1, x2 = box.x1 - self.left, box.x2 - self.left
        y1, y2 = box.y1 - self.upper, box.y2 - self.upper
        if self.mirrored:
            x1, x2 = width - x2, width - x1
        if self.upside_down:
            y1, y2 = height - y2, height - y1
        return Box(x1, y1, x2, y2, Frame.pixels(width, height))


def load(image: ImageRef | str, *, most: int | None = None) -> Image.Image:
    """The image in RGB, upright (EXIF orientation applied), alpha laid on white, first frame.

    A path with a scheme is rendered by its source; ``#view=`` behind a path cuts a view out. Where
    only ``most`` pixels are looked at, a JPEG of more than ``MAX_PIXELS`` is decoded at a half, a
    quarter or an eighth of its sides, as long as those are more pixels than that.
    Raises ``DataError`` where the file is missing, no image, truncated or larger than
    ``MAX_PIXELS``, and where the size recorded in an ``ImageRef`` is not the file's: its boxes
    would be in a wrong frame.
    """
    path = image if isinstance(image, str) else image.path
    file, view = split_view(path)
    source = source_of(file)
    loaded = source.render(file) if source else _load_file(file, None if view else most)
    if view is not None:
        if view.right > loaded.width or view.lower > loaded.height:
            found = ImageSize(*loaded.size)
            raise DataError(
                f"{shown(path)}: reaches outside the file's {found}; convert the data again",
                help="frames-that-do-not-fit",
            )
        loaded = view.image(loaded)
    found = loaded.info.get(_WHOLE, ImageSize(*loaded.size))
    if isinstance(image, ImageRef) and found != ImageSize(image.width, image.height):
        raise DataError(
            f"{shown(path)}: the file is {found}, but {image.width} x {image.height} is recorded, "
            "so its boxes are in another frame; convert the data again",
            help="frames-that-do-not-fit",
        )
    return loaded


def shown_as(image: str | Path | Image.Image) -> Image.Image:
    """A picture at hand in RGB, or what :func:`load` makes of a path."""
    return image.convert("RGB") if isinstance(image, Image.Image) else load(str(image))


def decoded(data: bytes, name: str, *, most: int | None = None) -> Image.Image:
    """What :func:`load` makes of a file's bytes, which errors call ``name``.

    Raises ``DataError`` for more than ``most`` pixels, too.
    """
    with _opened(name, io.BytesIO(data)) as image:
        if most is not None and image.width * image.height > most:
            raise DataError(f"{name}: {ImageSize(*image.size)} pixels, where {most:,} are left")
        return _as_rgb(ImageOps.exif_transpose(image), name)


def inline(url: str, name: str) -> bytes:
    """What a data URL holds, which errors call ``name``; raises ``DataError`` for any other URL."""
    found = _DATA_URL.match(url)
    if not found:
        raise DataError(f"{name}: expected a data URL, data:image/png;base64,...")
    return unpacked(url[found.end() :], name)


def unpacked(text: str, name: str) -> bytes:
    """The bytes of base64; raises ``DataError`` for anything else."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{name}: not base64; expected the bytes of an image in base64") from None


def split_view(path: str) -> tuple[str, View | None]:
    """A path and the view that it asks for, if any.

    Raises ``DataError`` for a view that holds nothing.

    >>> split_view("a.jpg#view=0,0,64,48,h")[0]
    'a.jpg'
    """
    found = _VIEW.fullmatch(path) if "#view=" in path else None
    if found is None:
        return path, None
    left, upper, right, lower = (int(found[number][:9]) for number in range(2, 6))
    if _VIEW.fullmatch(found["path"]):
        raise DataError(f"{shown(path)}: a view of a view; name the part of the file itself")
    if not (left < right and upper < lower):
        raise DataError(f"{shown(path)}: a view without pixels; expected LEFT,UPPER,RIGHT,LOWER")
    return found["path"], View(left, upper, right, lower, "h" in found[6], "v" in found[6])


def base64_png(image: Image.Image) -> str:
    """The image as a PNG, without loss and quickly made, in base64: as requests carry it."""
    out = io.BytesIO()
    image.save(out, "png", compress_level=1)
    return base64.b64encode(out.getvalue()).decode()


def data_url(image: Image.Image) -> str:
    """The image as :func:`base64_png` writes it, as a chat server takes it."""
    return f"data:image/png;base64,{base64_png(image)}"


def exists(path: str) -> bool:
    """Whether the file of an image, or of the image that a view is cut from, is on disk.

    What a source renders needs no file. Raises ``DataError`` for a view without pixels, and outside
    the folder that data are confined to.
    """
    return not is_file_path(path) or os.path.isfile(confined(split_view(path)[0]))


def size(path: str | Path) -> ImageSize:
    """The sides of an image file after EXIF rotation.

    Reads the header alone, but for PNG files without EXIF before the pixels, where Pillow decodes
    to look behind them. Raises ``DataError`` as :func:`load` does, but for truncated pixels.
    """
    return header(path).upright


def check(image: ImageRef) -> None:
    """Look at an image's header; raises ``DataError`` as :func:`load` does, but for its pixels."""
    file, view = split_view(image.path)
    if source_of(file):
        return
    with _opened(file) as opened:
        stored = opened.size
    recorded = (image.width, image.height)
    if view is None and recorded not in (stored, stored[::-1]):
        found = ImageSize(*stored)
        raise DataError(
            f"{file}: the file is {found}, recorded {ImageSize(*recorded)}",
            help="frames-that-do-not-fit",
        )


def unreadable(images: Iterable[ImageRef]) -> dict[ImageRef, str]:
    """What is wrong with images, by their headers; each is looked at once."""
    each = list(dict.fromkeys(images))

    def problem(image: ImageRef) -> str | None:
        try:
            check(image)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as workers:
        found = zip(each, workers.map(problem, each), strict=True)
        return {image: wrong for image, wrong in found if wrong}


def sides(path: str) -> tuple[int, int]:
    """Width and height of an image after EXIF rotation; raises as :func:`size` does."""
    found = size(path)
    return found.width, found.height


def header(path: str | Path) -> Header:
    """What the header of an image says; raises ``DataError`` as :func:`size` does."""
    if source := source_of(str(path)):
        return Header(ImageSize(*source.render(str(path)).size), 1)
    with _opened(str(path)) as image:
        return _header(image)


def _header(image: Image.Image) -> Header:
    return Header(ImageSize(*image.size), image.getexif().get(ExifTags.Base.Orientation, 1))


def _load_file(path: str, most: int | None) -> Image.Image:
    with _opened(path) as image:
        pixels = image.width * image.height
        if most is not None and pixels > max(MAX_PIXELS, most):
            head, shrink = _header(image), math.sqrt(pixels / most)
            image.draft(None, (math.ceil(image.width / shrink), math.ceil(image.height / shrink)))
            picture = _as_rgb(ImageOps.exif_transpose(image), path)
            picture.info[_WHOLE] = head.upright
            return picture
        return _as_rgb(ImageOps.exif_transpose(image), path)


@contextmanager
def _opened(path: str, data: io.BytesIO | None = None) -> Iterator[Image.Image]:
    """The one door for pictures: regular files of a short list of formats, of a known size."""
    try:
        file = path if data else confined(path)
        if data is None and not stat.S_ISREG(os.stat(file).st_mode):
            raise DataError(
                f"{shown(path)}: not a regular file; expected an image file",
                help="images-that-cannot-be-used",
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # what matters ends in a sentence
            with Image.open(data or file, formats=FORMATS) as image:
                if image.width * image.height > max_pixels():
                    raise Image.DecompressionBombError
                if image.format == "PNG" and image.mode.startswith("I"):
                    image.info[_BITS] = _significant_bits(image.fp)
                yield image
    except Image.DecompressionBombError:
        raise DataError(
            f"{shown(path)}: too many pixels, more than {max_pixels() // 1_000_000} million; "
            f"shrink the image and its boxes, or set {_LIMIT}=PIXELS",
            help="images-that-cannot-be-used",
        ) from None
    except FileNotFoundError:
        raise DataError(
            f"{shown(path)}: no such image; check the path or the images folder",
            help="images-that-cannot-be-used",
        ) from None
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise DataError(
            f"{shown(path)}: not an image in {known}; replace the file",
            help="images-that-cannot-be-used",
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        said = getattr(error, "strerror", None) or error
        raise DataError(
            f"{shown(path)}: cannot be decoded ({said}); replace the file",
            help="images-that-cannot-be-used",
        ) from None


def max_pixels() -> int:
    """How many pixels a picture may have: more is taken for a bomb, but where the owner says so."""
    return _setting(_LIMIT) or MAX_PIXELS


def _setting(name: str) -> int | None:
    stated = os.environ.get(name, "")
    return int(stated) if stated.isdecimal() and int(stated) > 0 else None


def _as_rgb(image: Image.Image, path: str) -> Image.Image:
    if image.mode == "F":
        raise DataError(
            f"{path}: floating-point pixels have no known range; save it as 8 bit",
            help="images-that-cannot-be-used",
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(image, path)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image, path: str) -> Image.Image:
    """The upper eight of the bits in use: cameras and scanners keep 12 bits in 16.

    They are those of this file (a PNG's sBIT, else its highest bit), so that it looks alike alone
    and among others; a dark file of a set may use fewer, for which ``REGROUND_GREY_BITS`` is. What
    was taken stands under that name in the picture's ``info``.
    """
    # Pillow clips 16-bit grey at 255 when asked to convert.
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise DataError(
            f"{path}: 32-bit pixels have no known range; save it as 8 or 16 bit",
            help="images-that-cannot-be-used",
        )
    used = int(values.max()).bit_length()
    least = max(used, min(_setting(GREY_BITS) or 8, 16))
    bits = image.info.get(_BITS) or next(depth for depth in _DEPTHS if least <= depth)
    # PNG's sBIT counts the upper bits of samples that were scaled up; others fill the lower ones.
    shift = 8 if used > bits else bits - 8
    picture = Image.fromarray((values >> shift).astype(np.uint8)).convert("RGB")
    picture.info[GREY_BITS] = 8 + shift
    return picture


def _significant_bits(file: Any) -> int | None:
    """What a PNG's sBIT chunk says of its grey samples; None without one."""
    here = file.tell()
    file.seek(8)
    found = None
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        (length,) = struct.unpack(">I", head[:4])
        if head[4:] == b"sBIT" and length >= 1:
            found = file.read(1)[0]
            break
        file.seek(length + 4, os.SEEK_CUR)
    file.seek(here)
    return found if found and 8 <= found <= 16 else None
