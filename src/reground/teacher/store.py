"""What is read from and written to a database of chains: samples, calls, picks, reviews.

Iterators read a page at a time: memory stays flat, and the caller may write to the database between
two rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from reground.errors import RunError
from reground.grounding.sample import Sample, relocated
from reground.teacher.database import Database
from reground.teacher.rows import (
    Chain,
    Counts,
    Entry,
    Finding,
    Pick,
    Review,
    Stage,
    TeacherCall,
    from_columns,
    to_columns,
)

PAGE = 200  # samples that an iterator holds at a time

_CALL_KEY = ("sample", "stage", "number", "model", "prompt_sha256")
_CALL_SUMS = ("prompt_tokens", "completion_tokens", "cost", "attempts")


class Store(Database):
    """The one database of a set of chains: samples, a teacher's answers, and their fate."""

    def meta(self) -> Mapping[str, str]:
        """``version``, ``data`` (where the samples came from), their ``digest``, ``created``."""
        return {row["key"]: row["value"] for row in self._rows("SELECT * FROM meta")}

    def samples(self) -> Iterator[Sample]:
        """Every sample, in order; image paths as they are found from the working directory."""
        return (sample for page in self._pages() for sample in page)

    def entries(self) -> Iterator[Entry]:
        """Every sample with its chains, what verification found in them, and its pick."""
        return (entry for page in self._pages() for entry in self._entries(page))

    def entry(self, sample_id: str) -> Entry:
        """One sample with its chains; raises ``KeyError`` for an unknown id."""
        for row in self._rows("SELECT row FROM samples WHERE id = ?", [sample_id]):
            return next(self._entries([self._sample(row)]))
        raise KeyError(sample_id)

    def calls(self, *, stage: Stage, sample_id: str | None = None) -> list[TeacherCall]:
        """The calls of a stage, of samples in order, then by number; all, or about one sample."""
        where, values = _where(stage=stage, sample=sample_id)
        sql = f"""SELECT calls.* FROM calls JOIN samples ON samples.id = sample WHERE {where}
          ORDER BY position, number, calls.id"""
        return [from_columns(TeacherCall, row) for row in self._rows(sql, values)]

    def picked(self) -> dict[str, str]:
        """The tasks, by id, of the samples that have a pick, in order."""
        sql = "SELECT id, task FROM samples JOIN picks ON sample = id ORDER BY position"
        return {row["id"]: row["task"] for row in self._rows(sql)}

    def latest_reviews(
        self, *, reviewer: str | None = None, sample_id: str | None = None
    ) -> list[Review]:
        """The last decision of each reviewer on each picked chain, but for those undone.

        Of all, of one reviewer, on one sample. A decision about a chain that is the sample's pick
        no more does not count.
        """
        where, values = _where(reviewer=reviewer, sample=sample_id)
        sql = f"""SELECT reviews.* FROM
          (SELECT max(id) AS last FROM reviews WHERE {where} GROUP BY sample, reviewer)
          JOIN reviews ON reviews.id = last
          JOIN picks ON picks.sample = reviews.sample AND picks.call = reviews.call
          WHERE decision != 'undo' ORDER BY last"""
        return [from_columns(Review, row) for row in self._rows(sql, values)]

    def check_asked(self) -> None:
        """Raise ``RunError`` where no chain is stored, which every later stage needs."""
        if not self.settings("chains"):
            raise RunError(f"{self.path}: holds no chain yet; run `reground teach ask` first")

    def counts(self) -> Counts:
        """How many there are of everything, as far as it is stored at this moment."""
        (cost,) = self._rows("SELECT coalesce(sum(cost), 0) AS sum FROM calls")
        return Counts(
            samples=self._count("samples"),
            answered=self._tally("stage", "calls WHERE state = 'answered'"),
            picks=self._tally("rule", "picks"),
            ties=self._count("picks WHERE tie"),
            cost=cost["sum"],
        )

    def spent(self) -> Sequence[Mapping[str, Any]]:
        """What the calls of each stage, model and prompt took, as sums over their columns."""
        return self._rows(
            """SELECT stage, model, prompt_sha256, sum(state = 'answered') AS answered,
              sum(state = 'failed') AS failed, sum(attempts) AS requests,
              sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
              sum(cost) AS cost, sum(latency_s) AS latency_s
              FROM calls GROUP BY stage, model, prompt_sha256 ORDER BY stage, min(id)"""
        )

    def settings(self, what: Literal["chains", "findings", "picks"]) -> Mapping[str, int]:
        """The settings by which there are such rows, and how many each made."""
        chains = "calls WHERE stage = 'ask' AND state = 'answered'"
        return self._tally("settings", chains if what == "chains" else what)

    def add_call(self, call: TeacherCall) -> int:
        """Store a call, in place of an earlier try that failed; returns its id.

        Raises ``RunError`` where it has been answered already: an answer is never lost to another.
        """
        columns = to_columns(call) | {"at": call.at or time.time()}
        del columns["id"]
        updates = [
            f"{name} = " + (f"calls.{name} + " if name in _CALL_SUMS else "") + f"excluded.{name}"
            for name in columns.keys() - _CALL_KEY
        ]
        replacing = f"""ON CONFLICT ({", ".join(_CALL_KEY)})
          DO UPDATE SET {", ".join(updates)} WHERE state = 'failed'"""
        stored = self._put("calls", columns, ending=replacing)
        if stored is None:
            raise RunError(
                f"{self.path}: call {call.number} about {call.sample!r} is answered already; "
                "does another process ask for this database?"
            )
        return stored

    def set_finding(self, finding: Finding) -> None:
        """Store what verification found, in place of what it found earlier in the same call."""
        self._put("findings", to_columns(finding))

    def set_pick(self, pick: Pick) -> None:
        """Store the pick of a sample, in place of an earlier one."""
        self._put("picks", to_columns(pick))

    def drop_pick(self, sample_id: str) -> None:
        """Take a pick back, as where its chain is verified no more."""
        self._rows("DELETE FROM picks WHERE sample = ?", [sample_id])

    def add_review(self, review: Review) -> None:
        """Store a decision after all earlier ones."""
        self._put("reviews", to_columns(review) | {"at": review.at or time.time(), "id": None})

    def _count(self, what: str, *values: object) -> int:
        (row,) = self._rows(f"SELECT count(*) AS n FROM {what}", values)
        return int(row["n"])

    def _tally(self, column: str, what: str) -> dict[str, int]:
        sql = f"SELECT {column} AS name, count(*) AS n FROM {what} GROUP BY 1 ORDER BY 1"
        return {row["name"]: row["n"] for row in self._rows(sql)}

    def _sample(self, row: Mapping[str, Any]) -> Sample:
        return relocated(Sample.from_json(json.loads(row["row"])), self.path.parent)

    def _pages(self) -> Iterator[list[Sample]]:
        """The samples in order, ``PAGE`` at a time; no transaction stays open in between."""
        sql = "SELECT position, row FROM samples WHERE position > ? ORDER BY position LIMIT ?"
        last = -1
        while rows := self._rows(sql, [last, PAGE]):
            yield [self._sample(row) for row in rows]
            last = rows[-1]["position"]

    def _entries(self, page: Sequence[Sample]) -> Iterator[Entry]:
        ids = [sample.id for sample in page]
        within = f"sample IN ({', '.join('?' * len(ids))})"
        query = f"SELECT findings.* FROM findings JOIN calls ON calls.id = call WHERE {within}"
        findings = {row["call"]: from_columns(Finding, row) for row in self._rows(query, ids)}
        answered = f"SELECT * FROM calls WHERE {within} AND stage = 'ask' AND state = 'answered'"
        chains: dict[str, list[Chain]] = {each: [] for each in ids}
        for row in self._rows(f"{answered} ORDER BY number, id", ids):
            chain = Chain(from_columns(TeacherCall, row), findings.get(row["id"]))
            chains[chain.call.sample].append(chain)
        found = self._rows(f"SELECT * FROM picks WHERE {within}", ids)
        picks = {row["sample"]: from_columns(Pick, row) for row in found}
        for sample in page:
            yield Entry(sample, tuple(chains[sample.id]), picks.get(sample.id))


def _where(**wanted: str | None) -> tuple[str, list[str]]:
    """A condition on the columns whose value is given, and its values."""
    given = {name: value for name, value in wanted.items() if value is not None}
    return " AND ".join(["TRUE", *(f"{name} = ?" for name in given)]), [*given.values()]
