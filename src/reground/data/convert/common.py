"""What the converters share: finding images, reading JSON, text with box tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from reground.data.images import ImageSize, size
from reground.errors import DataError
from reground.grounding.sample import ImageRef
from reground.io import at, parse_json, read_jsonl

NOMINAL = ImageSize(1000, 1000)

_MARKUP = re.compile(r"<image>|<\|(?:object_ref|box|quad)_(?:start|end)\|>")


@dataclass(frozen=True, slots=True)
class Images:
    """The images folder that a dataset's rows name files in.

    With ``allow_missing`` an absent image whose size no annotation records gets the nominal size
    1000 x 1000: boxes in 0-1000 or 0-1 keep their numbers, so that answers in 0-1000 are scored
    exactly without the photos. None says that a format cannot do without: its boxes are in pixels,
    and it records no sizes.
    """

    root: Path
    allow_missing: bool | None = None
    _known: dict[tuple[str, ImageSize | None], ImageRef] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Where the image is expected."""
        return self.root / name

    def has(self, name: str) -> bool:
        """Whether the image is on disk; raises ``DataError`` where it must be and is not."""
        if self.path(name).is_file():
            return True
        if self.allow_missing:
            return False
        options = "--images names another"
        if self.allow_missing is not None:
            options += ", --allow-missing-images keeps rows without their images"
        raise DataError(
            f"{self.path(name)}: no such image; images are looked for in {self.root} "
            f"(reground data convert: {options})"
        )

    def tail(self, path: str) -> str:
        """The longest end of ``path`` that is an image here: some rows hold other machines' paths.

        ``/their/disk/val/a.jpg`` is ``val/a.jpg`` where that exists, else ``a.jpg``; the whole
        path, for :meth:`ref` to complain about, where neither does.
        """
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        tails = ["/".join(parts[start:]) for start in range(len(parts))]
        return next((tail for tail in tails if self.path(tail).is_file()), "/".join(parts))

    def ref(self, name: str, recorded: ImageSize | None = None) -> ImageRef:
        """The image with its size: as the annotations ``recorded`` it, else as the file has it."""
        key = (name, recorded)
        if key not in self._known:
            present = self.has(name)
            sides = recorded or (size(self.path(name)) if present else NOMINAL)
            self._known[key] = ImageRef(str(self.path(name)), sides.width, sides.height)
        return self._known[key]

    def refs(self, names: Any, *, where: str) -> tuple[ImageRef, ...]:
        """The images of a row; raises ``DataError`` where ``names`` is no list of paths."""
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            raise DataError(f"{where}: images {names!r}; expected a list of at least one path")
        return tuple(self.ref(name) for name in names)


def read_json(path: Path) -> Any:
    """The content of a JSON file, or the list of a JSONL's rows."""
    if path.suffix == ".jsonl":
        return list(read_jsonl(path, lambda row: row, expected="annotations to convert"))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; name the annotations to convert") from None
    with at(str(path), "name the annotations file"):
        return parse_json(content)


def read_rows(path: Path, *fields: str) -> list[dict[str, Any]]:
    """The rows of a JSON list or JSONL; every row is an object that has ``fields``."""
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: holds no rows; expected a list of objects")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or (missing := [name for name in fields if name not in row]):
            lacks = "is no object" if not isinstance(row, dict) else f"has no {missing[0]!r}"
            raise DataError(f"{path}: row {number} {lacks}; expected {', '.join(fields)}")
    return rows


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turns what goes wrong while a row's fields are read into a ``DataError`` about ``where``."""
    try:
        yield
    except KeyError as error:
        raise DataError(f"{where}: field {error.args[0]!r} is missing") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{where}: a field has the wrong form: {error}") from None


def plain(text: str) -> str:
    """Text without image places and the special tokens of one model family.

    >>> plain("<image>\\n<image>\\nFind <|object_ref_start|>the cat<|object_ref_end|>.")
    'Find the cat.'
    """
    return " ".join(_MARKUP.sub("", text).split())


def numbers(values: Any, *, where: str) -> tuple[float, float, float, float]:
    """Four numbers of a box; raises ``DataError`` that says ``where`` otherwise."""
    try:
        first, second, third, fourth = (float(value) for value in values)
    except (TypeError, ValueError):
        first = second = third = fourth = math.nan
    if not all(map(math.isfinite, (first, second, third, fourth))):
        raise DataError(f"{where}: box {values!r}; expected a list of four finite numbers")
    return (first, second, third, fourth)
