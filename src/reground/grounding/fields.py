"""Fields of a row of JSON, read by type: errors say the field, what is found and expected."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from reground.errors import DataError

Row = Mapping[str, Any]
_OBJECT = (dict, Mapping)  # dict first: looking at an abstract class takes longer
_LARGEST = 2**53  # whole numbers up to here are floats without rounding


def text(row: Row, name: str) -> str:
    """A text."""
    value = row.get(name)
    if not isinstance(value, str):
        raise wrong(name, _held(row, name), "a text")
    return value


def key(row: Row, name: str) -> str:
    """A text, or a whole number as one.

    >>> key({"id": 7}, "id")
    '7'
    """
    value = _held(row, name)
    return str(value) if type(value) is int else text(row, name)


def optional_text(row: Row, name: str) -> str | None:
    """A text, or None where it is absent or null."""
    return None if row.get(name) is None else text(row, name)


def whole(value: Any, name: str, *, at_least: int = 0) -> int:
    """A whole number, 320.0 as well; raises ``DataError`` for 320.9, a text or less than a least.

    >>> whole(320.0, "width")
    320
    """
    if type(value) is int and at_least <= value <= _LARGEST:
        return value
    if not _is_finite(value) or value != int(value) or value < at_least:
        raise wrong(name, value, f"a whole number from {at_least}")
    return int(value)


def number(row: Row, name: str) -> float | None:
    """A finite number, or None where it is absent or null."""
    value = row.get(name)
    if value is None:
        return None
    if not _is_finite(value):
        raise wrong(name, value, "a number")
    found: float = value
    return found


def share(row: Row, name: str) -> float | None:
    """A number from 0 to 1, or None where it is absent or null."""
    value = number(row, name)
    if value is not None and not 0 <= value <= 1:
        raise wrong(name, value, "a number from 0 to 1")
    return value


def objects(row: Row, name: str) -> list[Row]:
    """A list of objects."""
    value = _held(row, name)
    if not isinstance(value, list) or not all([isinstance(each, _OBJECT) for each in value]):
        raise wrong(name, value, "a list of objects")
    return value


def edges(row: Row, name: str) -> tuple[float, float, float, float]:
    """Four finite numbers."""
    value = _held(row, name)
    is_four = isinstance(value, (list, tuple)) and len(value) == 4
    if not is_four or not all(map(_is_finite, value)):
        raise wrong(name, value, "four finite numbers, [left, upper, right, lower]")
    x1, y1, x2, y2 = map(float, value)
    return (x1, y1, x2, y2)


def wrong(name: str, value: Any, expected: str) -> DataError:
    """The error of a field: what was found, and what was expected."""
    found = repr(value)
    return DataError(f"{name} is {found[:80]}{'...' * (len(found) > 80)}; expected {expected}")


def _held(row: Row, name: str) -> Any:
    if name not in row:
        raise DataError(f"field {name!r} is missing")
    return row[name]


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return isfinite(value)
    return type(value) is int and abs(value) <= _LARGEST
