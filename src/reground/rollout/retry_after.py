"""When a server that refused wants to be asked again."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime


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
