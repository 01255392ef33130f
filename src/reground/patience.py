"""When to stop asking somebody who does not answer."""

from __future__ import annotations

from dataclasses import dataclass, field

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
