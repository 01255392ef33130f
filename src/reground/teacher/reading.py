"""What is read from a database of chains: samples, calls, verdicts, picks, reviews, and counts.

Iterators read a page at a time: memory stays flat, and the caller may write to the database between
two rows.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from reground.errors import RunError
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample, relocated
from reground.teacher.database import naming
from reground.teacher.rows import (
    Call,
    Chain,
    Counts,
    Item,
    Pick,
    Reason,
    Review,
    Stage,
    Todo,
    Verdict,
)

PAGE = 200  # samples that an iterator holds at a time


class Reading:
    """The reading half of a :class:`reground.teacher.store.Store`, on its connection."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._folder = path.parent
        self._connection = connection

    def meta(self) -> Mapping[str, str]:
        """``version``, ``data`` (where the samples came from), their ``digest``, ``created``."""
        return {row["key"]: row["value"] for row in self._rows("SELECT * FROM meta")}

    def samples(self) -> Iterator[Sample]:
        """Every sample, in order; image paths as they are found from the working directory."""
        return (sample for page in self._pages() for sample in page)

    def sample(self, sample_id: str) -> Sample:
        """One sample; raises ``KeyError`` for an unknown id."""
        for row in self._rows("SELECT row FROM samples WHERE id = ?", sample_id):
            return self._sample(row)
        raise KeyError(sample_id)

    def calls(self, *, stage: Stage, state: str | None = None) -> Iterator[Call]:
        """The calls of a stage, of samples in order, then by number; all, or those of a state."""
        for page in self._pages():
            for call in self._of(page, "calls", stage):
                if state in (None, call["state"]):
                    yield _call(call)

    def calls_of(self, sample_id: str, *, stage: Stage) -> list[Call]:
        """The calls of a stage about one sample, by number."""
        sql = "SELECT * FROM calls WHERE sample = ? AND stage = ? ORDER BY number, id"
        return [_call(row) for row in self._rows(sql, sample_id, stage)]

    def items(self) -> Iterator[Item]:
        """Every sample with its chains, their verdicts and its pick."""
        return (item for page in self._pages() for item in self._items(page))

    def item(self, sample_id: str) -> Item:
        """One sample with its chains; raises ``KeyError`` for an unknown id."""
        (item,) = self._items([self.sample(sample_id)])
        return item

    def picked(self) -> dict[str, str]:
        """The tasks, by id, of the samples that have a pick, in order."""
        sql = "SELECT id, task FROM samples JOIN picks ON sample = id ORDER BY position"
        return {row["id"]: row["task"] for row in self._rows(sql)}

    def todo(self, *, stage: Stage, n: int, model: str, prompt_sha256: str) -> Iterator[Todo]:
        """Samples with fewer than n answers of this model to this prompt, and which are lacking."""
        for page in self._pages():
            done = {
                (row["sample"], row["number"])
                for row in self._of(page, "calls", stage)
                if (row["state"], row["model"], row["prompt_sha256"])
                == ("answered", model, prompt_sha256)
            }
            for sample in page:
                numbers = tuple(k for k in range(n) if (sample.id, k) not in done)
                if numbers:
                    yield Todo(sample, numbers)

    def num_answered(self, *, stage: Stage, n: int, model: str, prompt_sha256: str) -> int:
        """How many of the calls 0 .. n - 1 of all samples this model has answered so."""
        sql = """SELECT count(*) AS n FROM calls WHERE state = 'answered' AND stage = ?
          AND number < ? AND model = ? AND prompt_sha256 = ?"""
        (row,) = self._rows(sql, stage, n, model, prompt_sha256)
        return int(row["n"])

    def latest_reviews(
        self, *, reviewer: str | None = None, sample_id: str | None = None
    ) -> list[Review]:
        """The last decision of each reviewer on each picked chain, but for those undone.

        Of all, of one reviewer, on one sample. A decision about a chain that is the sample's pick
        no more does not count.
        """
        asked = {"reviewer": reviewer, "sample": sample_id}
        given = {name: value for name, value in asked.items() if value is not None}
        where = " AND ".join(["TRUE", *(f"{name} = ?" for name in given)])
        sql = f"""SELECT reviews.* FROM
          (SELECT max(id) AS last FROM reviews WHERE {where} GROUP BY sample, reviewer)
          JOIN reviews ON reviews.id = last
          JOIN picks ON picks.sample = reviews.sample AND picks.call = reviews.call
          WHERE decision != 'undo' ORDER BY last"""
        return [Review(**row) for row in self._rows(sql, *given.values())]

    def check_asked(self) -> None:
        """Raise ``RunError`` where no chain is stored, which every later stage needs."""
        if not self.settings("chains"):
            raise RunError(f"{self.path}: holds no chain yet; run `reground teach ask` first")

    def counts(self) -> Counts:
        """How many there are of everything, as far as it is stored at this moment."""
        sums = """SELECT coalesce(sum(cost), 0) AS cost,
          coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
          coalesce(sum(completion_tokens), 0) AS completion_tokens FROM calls"""
        (total,) = self._rows(sums)
        reviews = [review.decision for review in self.latest_reviews()]
        return Counts(
            samples=self._count("samples"),
            answered=self._tally("stage", "calls WHERE state = 'answered'"),
            failed=self._tally("stage", "calls WHERE state = 'failed'"),
            verified=self._count("verdicts WHERE ok"),
            rejected=self._tally("reason", "verdicts WHERE NOT ok"),
            picks=self._tally("rule", "picks"),
            ties=self._count("picks WHERE tie"),
            decisions={each: reviews.count(each) for each in sorted(set(reviews))},
            **total,
        )

    def settings(self, what: Literal["chains", "verdicts", "picks"]) -> Mapping[str, int]:
        """The settings by which there are such rows, and how many each made."""
        chains = "calls WHERE stage = 'ask' AND state = 'answered'"
        return self._tally("settings", chains if what == "chains" else what)

    def _rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        with naming(self.path):
            cursor = self._connection.execute(sql, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _count(self, what: str) -> int:
        (row,) = self._rows(f"SELECT count(*) AS n FROM {what}")
        return int(row["n"])

    def _tally(self, column: str, what: str) -> dict[str, int]:
        sql = f"SELECT {column} AS name, count(*) AS n FROM {what} GROUP BY 1 ORDER BY 1"
        return {row["name"]: row["n"] for row in self._rows(sql)}

    def _sample(self, row: Mapping[str, Any]) -> Sample:
        return relocated(Sample.from_json(json.loads(row["row"])), self._folder)

    def _pages(self) -> Iterator[list[Sample]]:
        """The samples in order, ``PAGE`` at a time; no transaction stays open in between."""
        sql = "SELECT position, row FROM samples WHERE position > ? ORDER BY position LIMIT ?"
        last = -1
        while rows := self._rows(sql, last, PAGE):
            yield [self._sample(row) for row in rows]
            last = rows[-1]["position"]

    def _of(self, page: Sequence[Sample], table: str, stage: Stage) -> list[dict[str, Any]]:
        """The rows of ``table`` about the calls of a stage on a page of samples, in their order."""
        joined = "" if table == "calls" else "JOIN calls ON calls.id = verdicts.call"
        sql = f"""SELECT {table}.* FROM {table} {joined} JOIN samples ON samples.id = calls.sample
          WHERE calls.sample IN ({", ".join("?" * len(page))}) AND calls.stage = ?
          ORDER BY samples.position, calls.number, calls.id"""
        return self._rows(sql, *(sample.id for sample in page), stage)

    def _items(self, page: Sequence[Sample]) -> Iterator[Item]:
        verdicts = {row["call"]: _verdict(row) for row in self._of(page, "verdicts", "ask")}
        chains: dict[str, list[Chain]] = {sample.id: [] for sample in page}
        for row in self._of(page, "calls", "ask"):
            if row["state"] == "answered":
                chains[row["sample"]].append(Chain(_call(row), verdicts.get(row["id"])))
        places = ", ".join("?" * len(page))
        found = self._rows(f"SELECT * FROM picks WHERE sample IN ({places})", *chains)
        picks = {row["sample"]: _pick(row) for row in found}
        for sample in page:
            yield Item(sample, tuple(chains[sample.id]), picks.get(sample.id))


def _call(row: Mapping[str, Any]) -> Call:
    sizes = tuple(EncodedSize(*size) for size in json.loads(row["sizes"]))
    return Call(**{**row, "sizes": sizes})


def _pick(row: Mapping[str, Any]) -> Pick:
    candidates = tuple(json.loads(row["candidates"]))
    return Pick(**{**row, "tie": bool(row["tie"]), "candidates": candidates})


def _verdict(row: Mapping[str, Any]) -> Verdict:
    boxes = tuple(tuple(box) for box in json.loads(row["boxes"]))
    reason = None if row["reason"] is None else Reason(row["reason"])
    return replace(Verdict(**{**row, "boxes": boxes}), ok=bool(row["ok"]), reason=reason)
