"""What the converters share: finding images, reading files and fields, counting what is left."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from reground.data.images import ImageSize, size
from reground.errors import DataError
from reground.grounding.boxes import Box, Frame
from reground.grounding.sample import ImageRef, Span, SpanKind
from reground.io import at, parse_json, read_jsonl

NOMINAL = ImageSize(1000, 1000)

_LOG = logging.getLogger(__name__)
_MARKUP = re.compile(r"<image>|<\|(object_ref|box|quad)_(start|end)\|>")
_KINDS: Mapping[str | None, SpanKind] = {"object_ref": "phrase", "box": "box"}


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

    def refs(self, names: Any) -> tuple[ImageRef, ...]:
        """The images of a row; raises ``DataError`` where ``names`` is no list of paths."""
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            raise DataError(f"images {names!r}; expected a list of at least one path")
        return tuple(self.ref(name) for name in names)


# ---- files -------------------------------------------------------------------------------------


def read_bytes(path: Path) -> bytes:
    """What a file of annotations holds; raises ``DataError`` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; name the annotations to convert") from None


def read_text(path: Path, *encodings: str) -> str:
    """The text of a file in the first of ``encodings`` in which it is one; UTF-8 goes before."""
    content = read_bytes(path)
    for encoding in ("utf-8", *encodings):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError as error:
            problem = error
    raise DataError(f"{path}: not a text in UTF-8 ({problem}); mend the file")


def read_json(path: Path) -> Any:
    """The content of a JSON file, or the list of a JSONL's rows."""
    if path.suffix == ".jsonl":
        return list(read_jsonl(path, lambda row: row, expected="annotations to convert"))
    with at(str(path), "name the annotations file"):
        return parse_json(read_bytes(path))


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


# ---- fields ------------------------------------------------------------------------------------


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turns what goes wrong while a row's fields are read into a ``DataError`` about ``where``."""
    try:
        yield
    except KeyError as error:
        raise DataError(f"{where}: field {error.args[0]!r} is missing") from None
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{where}: a field has the wrong form: {error}") from None


def plain(text: str) -> str:
    """Text without image places and the special tokens of one model family.

    >>> plain("<image>\\n<image>\\nFind <|object_ref_start|>the cat<|object_ref_end|>.")
    'Find the cat.'
    """
    return marked(text)[0]


def marked(text: str) -> tuple[str, tuple[Span, ...]]:
    """The text that :func:`plain` gives, and what its special tokens mark in it.

    >>> marked("<image>Find  <|object_ref_start|> the cat<|object_ref_end|>.")
    ('Find the cat.', (Span(start=5, end=12, kind='phrase'),))
    """
    out, opened, end = "", None, 0
    spans: list[Span] = []
    for mark in _MARKUP.finditer(text):
        out = _continued(out, text[end : mark.start()])
        end = mark.end()
        kind = _KINDS.get(mark[1])
        if mark[2] == "start" and kind:
            opened = Span(len(out), len(out), kind)
        elif opened and mark[2] == "end" and kind == opened.kind:
            inside = out[opened.start :]
            start, stop = len(out) - len(inside.lstrip()), len(out.rstrip())
            spans += [Span(start, stop, kind)] if start < stop else []
            opened = None
    return _continued(out, text[end:]).rstrip(), tuple(spans)


def _continued(before: str, text: str) -> str:
    """Both, with single spaces for white space and none at the beginning."""
    words = " ".join(f"|{text}|".split())[1:-1]
    return before + (words.lstrip() if not before or before.endswith(" ") else words)


def numbers(values: Any) -> tuple[float, float, float, float]:
    """Four numbers of a box; raises ``DataError`` for anything else."""
    try:
        first, second, third, fourth = (float(value) for value in values)
    except (TypeError, ValueError):
        first = second = third = fourth = math.nan
    if not all(map(math.isfinite, (first, second, third, fourth))):
        raise DataError(f"box {values!r}; expected a list of four finite numbers")
    return (first, second, third, fourth)


def box_in(frame: Frame, values: Any) -> Box:
    """The box in ``frame`` that a row lists as x1, y1, x2, y2; raises ``DataError``."""
    return Box(*numbers(values), frame)


def instructions(row: dict[str, Any], name: str) -> list[str]:
    """The texts of the field ``name``, which holds one text or several; raises ``DataError``."""
    value = row[name]
    texts = [value] if isinstance(value, str) else value
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{name} is {value!r}; expected at least one instruction")
    return list(texts)


# ---- what no sample is made of -----------------------------------------------------------------


@contextmanager
def left_out(source: Path) -> Iterator[Counter[tuple[str, str]]]:
    """Counts what ``source`` holds and no sample is made of, by (what, kind); at the end it warns.

    A warning reads "left out answers without a box: 3 of caption, 1 of chat".
    """
    counts: Counter[tuple[str, str]] = Counter()
    yield counts
    for what in sorted({what for what, _ in counts}):
        listed = ", ".join(f"{counts[key]} of {key[1]}" for key in sorted(counts) if key[0] == what)
        _LOG.warning("%s: left out %s: %s", source, what, listed)
