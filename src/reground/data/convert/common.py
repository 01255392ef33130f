"""What the converters share: reading files and fields."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from reground.data.confine import confined
from reground.data.convert.tally import Tally, Unusable
from reground.data.soundness import Soundness
from reground.errors import DataError
from reground.grounding.boxes import Box, Frame
from reground.grounding.sample import Sample, Span, SpanKind
from reground.io import at, parse_json

_MARKUP = re.compile(r"<image>|<\|(object_ref|box|quad)_(start|end)\|>")
_PLACES = re.compile(r"(?:\s*+<image>)*+")  # of images, before all else
_SPACE = re.compile(r"[ \t\n\r]*+")  # of JSON
_SEVERAL = re.compile(r"\s*+(\S[^\n]*+)\n\s*+\S")  # lines that hold something, and the first
_KINDS: Mapping[str | None, SpanKind] = {"object_ref": "phrase", "box": "box"}


# ---- files -------------------------------------------------------------------------------------


def read_bytes(path: Path) -> bytes:
    """What a file of annotations holds; raises ``DataError`` where it cannot be read."""
    try:
        file = Path(confined(str(path)))
        if file.exists() and not file.is_file():
            raise DataError(f"{path}: not a regular file; name the annotations to convert")
        return file.read_bytes()
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: {said}; name the annotations to convert") from None


_MARKS = (  # the longer first: UTF-32's mark begins as UTF-16's does
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path, *encodings: str) -> str:
    """The text of a file, by its byte order mark, in UTF-8, or in the first of ``encodings``."""
    content = read_bytes(path)
    marked = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    for encoding in [marked] if marked else ["utf-8", *encodings]:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError as error:
            problem = error
    raise DataError(f"{path}: not a text in UTF-8 ({problem}); mend the file")


def read_json(path: Path) -> Any:
    """The content of a JSON file, or the list of the rows where each line is JSON of its own."""
    text = read_text(path)
    return _value(path, text) if (lines := _lines(text)) is None else [*_rows(path, lines)]


def read_rows(path: Path, tally: Tally, *fields: str) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a JSON list or JSONL that are objects with ``fields``, and their places from 0.

    Others are set aside; where all are, the file is of another form, which is a ``DataError``.
    """
    return [*good_rows(enumerate(rows_of(path)), path, tally, fields)]


def rows_of(path: Path) -> Iterator[Any]:
    """The rows of a JSON list or JSONL, decoded one after another."""
    text = read_text(path)
    if (lines := _lines(text)) is not None:
        return _rows(path, lines)
    is_list = text.startswith("[") and path.suffix != ".jsonl"
    if is_list and "\\ud" not in text and "\\uD" not in text:  # halves are looked for in it all
        return _elements(path, text)
    return _all_rows(path, text)


def good_rows(
    rows: Iterable[tuple[int, Any]],
    path: Path,
    tally: Tally,
    fields: Sequence[str],
    *,
    are_all: bool = True,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Those of the numbered ``rows`` that are objects with ``fields``, as :func:`read_rows`.

    None is an error where they ``are_all`` rows of the file.
    """
    lacking, is_none_good = "", True
    for number, row in rows:
        if lacks := _lacks(row, fields):
            lacking = lacking or f"row {number + 1} {lacks}"
            with tally.row(path, f"row {number + 1}"):
                raise Unusable(f"row that {lacks}", f"expected {', '.join(fields)}")
        else:
            is_none_good = False
            yield number, row
    if is_none_good and are_all:
        raise DataError(f"{path}: {lacking}; expected {', '.join(fields)}")


def _elements(path: Path, text: str) -> Iterator[Any]:
    """The elements of a JSON list, one after another: the others need no memory."""
    decode, place, number = json.JSONDecoder().raw_decode, 0, 0
    with suppress(ValueError, IndexError, RecursionError):
        while text[place] == ("," if number else "["):
            row, place = decode(text, _after_space(text, place + 1))
            yield row
            number += 1
            place = _after_space(text, place)
        if number and text[place] == "]" and _after_space(text, place + 1) == len(text):
            return
    yield from islice(_all_rows(path, text), number, None)  # which says what is wrong


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _all_rows(path: Path, text: str) -> Iterator[Any]:
    rows = _value(path, text)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: holds no rows; expected a list of objects")
    yield from rows


def _lines(text: str) -> list[tuple[int, str]] | None:
    """The numbered lines of a JSONL; None where a text is no such thing."""
    first = _SEVERAL.match(text)
    if not first or not _is_json(first[1]):
        return None
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _rows(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Any]:
    for number, line in lines:
        with at(f"{path}:{number}", "mend the row"):
            row = parse_json(line.encode())
        yield row


def _value(path: Path, text: str) -> Any:
    with at(str(path), "name the annotations file"):
        value = parse_json(text.encode())
    return [value] if path.suffix == ".jsonl" else value


def _lacks(row: Any, fields: Sequence[str]) -> str | None:
    if not isinstance(row, dict):
        return "is no object"
    for name in fields:
        if name not in row:
            return f"has no {name!r}"
    return None


def sound(
    samples: Iterable[Sample], source: Path, tally: Tally, soundness: Soundness
) -> Iterator[Sample]:
    """The samples that the validator passes; the others are set aside."""
    for sample in samples:
        with tally.row(source, sample.id):
            for problem in soundness.problems(sample):
                raise Unusable(problem.reason, problem.detail)
            yield soundness.finished(sample)


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
    return " ".join((_MARKUP.sub("", text) if "<" in text else text).split())


def marked(text: str) -> tuple[str, tuple[Span, ...]]:
    """The text that :func:`plain` gives, and what its special tokens mark in it.

    >>> marked("<image>Find  <|object_ref_start|> the cat<|object_ref_end|>.")
    ('Find the cat.', (Span(start=5, end=12, kind='phrase'),))
    """
    if "_start|>" not in text:
        return plain(text), ()
    places = _PLACES.match(text)
    out, opened, end = "", None, places.end() if places else 0
    spans: list[Span] = []
    for mark in _MARKUP.finditer(text, end):
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
        raise Unusable("box without four numbers", f"{values!r}; expected four finite numbers")
    return (first, second, third, fourth)


def bounds(points: Iterable[Sequence[Any]]) -> tuple[float, float, float, float]:
    """Left, upper, right and lower edge of what ``points`` (x, y) surround.

    >>> bounds([(3, 4), (1, 9)])
    (1.0, 4.0, 3.0, 9.0)
    """
    listed = [(float(x), float(y)) for x, y in points]
    if not listed:
        raise Unusable("shape without points")
    xs, ys = zip(*listed, strict=True)
    return (min(xs), min(ys), max(xs), max(ys))


def turned(
    edges: Sequence[float], degrees: float, centre: tuple[float, float]
) -> tuple[float, float, float, float]:
    """The upright bounds of a box turned clockwise about ``centre``, all in pixels.

    >>> [round(edge) for edge in turned((200, 100, 500, 200), 90, (200, 100))]
    [100, 100, 200, 400]
    """
    x1, y1, x2, y2 = edges
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(x - centre[0], y - centre[1]) for x in (x1, x2) for y in (y1, y2)]
    return bounds(
        (centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in corners
    )


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
