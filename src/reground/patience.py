"""When to ask somebody again who does not answer, and when to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from reground.errors import UserError

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
                f"see to {self.whom}, then run the same command again: answers so far are kept"
            )


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
