"""What a model writes when it asks for a function between its thoughts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Function(StrEnum):
    """What can be called."""

    RESULT = "get_extra_ref_result"  # the detectors' result
    ZOOM = "zoom_in"  # a part of the image


SIGNATURES = {
    Function.RESULT: f"{Function.RESULT}()",
    Function.ZOOM: f"{Function.ZOOM}(x1, y1, x2, y2)",
}
"""How each is called; the numbers are those of a box, in the codec's frame."""

CALL_BEGIN, CALL_END = "<function>", "</function>"
CALL = f"{CALL_BEGIN}\n{SIGNATURES[Function.RESULT]}\n{CALL_END}"
"""How a model asks for the detectors' result (VG-Refiner): between line breaks inside the tags."""

_CALL = re.compile(r"(\w+)\s*\(([^()]*)\)")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")


@dataclass(frozen=True, slots=True)
class Call:
    """A function by its name, and the numbers it was given; None where some are no numbers."""

    name: str
    numbers: tuple[float, ...] | None = ()


def read_call(text: str) -> Call | None:
    """What stands in the last closed ``<function>`` of ``text``; None where it is no call.

    An open thought around it does not matter: the text is one that stopped at ``</function>``.

    >>> read_call("<think>small.</think><function>zoom_in(10, 20, 300, 400)</function>")
    Call(name='zoom_in', numbers=(10.0, 20.0, 300.0, 400.0))
    """
    inside = text.rpartition(CALL_END)[0].rpartition(CALL_BEGIN)[2]
    match = _CALL.fullmatch(inside.strip())
    return None if match is None else Call(match[1], _numbers(match[2].strip()))


def problem_of(call: Call | None, *, offered: Sequence[Function]) -> str | None:
    """Why a call cannot be answered; None where it is one of those that are ``offered``."""
    if call is None or call.name not in offered:
        known = " and ".join(SIGNATURES[each] for each in offered)
        return f"unknown function; known: {known}"
    wanted = 4 if call.name == Function.ZOOM else 0
    if call.numbers is None or len(call.numbers) != wanted:
        return f"wrong arguments; expected {SIGNATURES[Function(call.name)]}"
    return None


def _numbers(text: str) -> tuple[float, ...] | None:
    parts = [part.strip() for part in text.split(",")] if text else []
    return tuple(map(float, parts)) if all(map(_NUMBER.fullmatch, parts)) else None
