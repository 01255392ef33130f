"""What a conversion finds, mends, leaves out and sets aside: everything is counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from reground.data.confine import OutsideError
from reground.errors import DataError
from reground.io import json_line, write_lines

FIRST = 3  # names that a table shows of each kind
What = Literal["photo", "box", "class", "row"]


class Unusable(DataError):
    """Something that cannot become a sample; ``kind`` is what tables count it under."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


# What reading the fields of a stranger's row raises.
FLAWS = (DataError, TypeError, ValueError, AttributeError, ArithmeticError, LookupError)


def named(error: Exception) -> DataError:
    """One of ``FLAWS`` as an error that says what is wrong with a row."""
    if isinstance(error, DataError):
        return error
    if isinstance(error, KeyError):
        return Unusable(f"field {error.args[0]!r} is missing")
    return Unusable("a field has the wrong form", str(error))


class _Located(DataError):
    """An error that names its place: that of the part inside, not of what is around it."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """One thing of the source that no sample is made of, and why."""

    what: What
    source: str
    id: str
    kind: str
    reason: str


@dataclass(slots=True)
class Tally:
    """Counts of one conversion.

    ``strict`` raises the first ``DataError``; without it, what cannot be used is set aside and the
    rest goes on. ``found`` counts what the source describes (photos, boxes), ``kept`` what of it
    questions are made of, ``notes`` holds where something was mended or left out on purpose, by
    kind: what is found is kept, noted as left out or set aside.
    """

    strict: bool = False
    found: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    kept: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    notes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    aside: list[SetAside] = field(default_factory=list)

    def note(self, kind: str, where: str) -> None:
        """Count something that was mended, or left out as the format asks."""
        self.notes[kind].append(_writable(where))

    def row(self, source: Path | str, name: str, what: What = "row") -> _Part:
        """A part of ``source`` is read; an error of its fields sets it aside, or is raised.

        What goes wrong becomes a ``DataError`` that names the part.
        """
        return _Part(self, source, name, what)

    def set_aside(self, source: Path | str, name: str, what: What, problem: DataError) -> None:
        """Keep a part of ``source`` out, or raise the ``problem`` because of which it is."""
        if self.strict:
            raise _Located(f"{source}: {name}: {problem}")
        kind = problem.kind if isinstance(problem, Unusable | OutsideError) else "not readable"
        said = map(_writable, (str(source), name, kind, str(problem)))
        self.aside.append(SetAside(what, *said))

    def take(self, other: Tally) -> None:
        """Count what another one did, of a later part of the source."""
        for own, more in ((self.found, other.found), (self.kept, other.kept)):
            for what, number in more.items():
                own[what] += number
        for kind, places in other.notes.items():
            self.notes[kind] += places
        self.aside += other.aside

    def table(self) -> Iterator[str]:
        """Lines for people: what was found, mended and set aside, with the first names."""
        if self.found:
            yield "read " + ", ".join(
                f"{count} {what}{f' ({self.kept[what]} asked about)' if what in self.kept else ''}"
                for what, count in self.found.items()
            )
        for kind, places in sorted(self.notes.items(), key=lambda item: -len(item[1])):
            yield f"  {len(places)} x {kind}: {_first(places)}"
        reasons: dict[str, list[str]] = defaultdict(list)
        for each in self.aside:
            reasons[each.kind].append(each.id)
        for kind, places in sorted(reasons.items(), key=lambda item: -len(item[1])):
            yield f"  set aside {len(places)} x {kind}: {_first(places)}"

    @staticmethod
    def rejected(out: Path) -> Path:
        """The file that what is set aside goes to, beside ``out``.

        >>> Tally.rejected(Path("data/train.jsonl")).as_posix()
        'data/train.rejected.jsonl'
        """
        return out.with_name(f"{out.stem}.rejected.jsonl")

    def write(self, out: Path) -> None:
        """Write what was set aside beside ``out``; where nothing was, no file stays there."""
        if not self.aside:
            self.rejected(out).unlink(missing_ok=True)
            return
        rows = (
            {key: getattr(each, key) for key in ("what", "source", "id", "kind", "reason")}
            for each in self.aside
        )
        write_lines(self.rejected(out), map(json_line, rows))


@dataclass(slots=True)
class _Part:
    """What :meth:`Tally.row` is; a class, for `contextmanager` takes twice the time of a row."""

    tally: Tally
    source: Path | str
    name: str
    what: What

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, FLAWS) or isinstance(error, _Located):
            return False
        self.tally.set_aside(self.source, self.name, self.what, named(error))
        return True


def _writable(text: str) -> str:
    """Text that UTF-8 can hold: names of files may have bytes that are none."""
    return text.encode(errors="backslashreplace").decode()


def _first(places: Iterable[str]) -> str:
    listed = list(places)
    more = f" and {len(listed) - FIRST} more" if len(listed) > FIRST else ""
    return ", ".join(listed[:FIRST]) + more
