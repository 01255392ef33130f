"""When to ask somebody again who does not answer, and when to stop."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from reground.errors import UserError

LONGEST_WAIT_S = 120.0  # however long a server asks to wait
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0
GIVE_UP = 20  # without an answer, one after another: then nothing can be expected


@dataclass(slots=True)
class Patience:
    """Counts what got no answer in a row; ``asked`` and ``whom`` are its words for the message."""

    asked: str
    whom: str
    error: type[UserError]
    failures: int = field(init=False, default=0)

    def note(self, problem: str | None) -> None:
        """An answer, or the reason why there is none; raises ``error`` where that is too often."""
        self.failures = 0 if problem is None else self.failures + 1
        if self.failures >= GIVE_UP:
            raise self.error(
                f"the last {GIVE_UP} {self.asked} got no answer, this one because: {problem}; "
                f"see to {self.whom}, then run the same command again: answers so far are kept",
                help="a-server-that-does-not-answer",
            )


def pause_s(
    attempt: int, retry_after_s: float | None, *, draw: random.Random | None = None
) -> float:
    """Seconds to wait after the refused ``attempt``, counted from 0.

    As long as Retry-After says, up to two minutes, and a little longer; otherwise twice as long
    each time, up to a minute, of which chance takes off up to a half: many that were refused
    together do not come back together.
    """
    uniform = (draw or random).uniform
    if retry_after_s is not None:
        return min(retry_after_s, LONGEST_WAIT_S) * uniform(1.0, 1.1)
    return min(_FIRST_PAUSE_S * 2.0 ** min(attempt, 30), _LONGEST_PAUSE_S) * uniform(0.5, 1.0)


def retry_after_s(header: str) -> float | None:
    """Seconds of a Retry-After header (RFC 9110), a number or a date; None for anything else.

    >>> retry_after_s("7"), retry_after_s("Thu, 01 Jan 1970 00:00:00 GMT"), retry_after_s("soon")
    (7.0, 0.0, None)
    """
    try:
        return max(0.0, float(header))
    except ValueError:
        return _until(header)


def _until(date: str) -> float | None:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
