"""How fast requests are sent, and when the money is spent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Pace:
    """At most ``per_minute`` units in any minute, spread evenly; no limit where that is None.

    A bucket that holds nothing in advance: what begins now takes its units' time, and the next
    begins after it. So a minute holds at most one request more than its units.
    """

    def __init__(
        self, per_minute: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds_each = 60.0 / per_minute if per_minute else 0.0
        self._clock = clock
        self._free_at = clock()

    def reserve(self, units: float) -> float:
        """Take units after all that is reserved already; the seconds to wait until they begin."""
        now = self._clock()
        begin = max(self._free_at, now)
        self._free_at = begin + units * self._seconds_each
        return begin - now

    def correct(self, units: float) -> None:
        """What was reserved turned out to be so many units more, or fewer where negative."""
        self._free_at += units * self._seconds_each


class Budget:
    """What may still be asked: so many ``calls`` with an answer, and for so much ``money``.

    A call reserves the most that it may cost and settles what it did cost, so that running calls
    can never exceed the budget together.
    """

    def __init__(self, *, calls: float, money: float) -> None:
        self._calls, self._money, self._running = calls, money, 0
        self._settled = asyncio.Event()

    async def reserve(self, money: float) -> bool:
        """Whether there is enough for one more call; waits while running calls may leave some."""
        while self._calls < 1 or self._money < money:
            if not self._running:
                return False
            self._settled.clear()
            await self._settled.wait()
        self._running += 1
        self._calls -= 1
        self._money -= money
        return True

    def settle(self, reserved: float, *, paid: float, is_answered: bool) -> None:
        """A call that reserved so much has ended; one that failed does not count as a call."""
        self._running -= 1
        self._calls += not is_answered
        self._money += reserved - paid
        self._settled.set()
