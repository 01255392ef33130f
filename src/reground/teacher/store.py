"""The one database of a set of chains: samples, what a teacher answered, and what became of it.

SQLite in WAL mode. Every change is one short transaction, so that a kill at any moment loses
nothing that was stored, and any number of processes may read along (a power cut may cost the last
moments). A ``Store`` belongs to the thread that opened it. Iterators read a page at a time: memory
stays flat, and the caller may write to the database between two rows.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from reground.errors import RunError
from reground.grounding.families import EncodedSize
from reground.grounding.sample import Sample, relocated
from reground.teacher.database import check_version, connected, fill, naming
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


class Store:
    """The database at ``path``; made by :meth:`create`, opened by :meth:`open`.

    Its methods raise ``RunError`` naming the file where it cannot be read or written: a full disk,
    a lock that another process keeps. A context manager that closes it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._folder = path.parent
        self._connection = connection

    @classmethod
    def create(cls, path: Path, samples: Iterable[Sample], *, data: str) -> Self:
        """A new database of ``samples``, whole or not at all; ``data`` says where they came from.

        Raises ``RunError`` where there is something at ``path``, ``DataError`` where two samples
        share an id.
        """
        if path.exists():
            raise RunError(f"{path}: exists already; open it, or choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        try:
            partial.unlink(missing_ok=True)
            with naming(path), connected(partial) as connection:
                fill(connection, samples, data=data, folder=path.parent)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The database at ``path``; raises ``RunError`` where it is none, or of another version."""
        if not path.is_file():
            raise RunError(f"{path}: no such database; `reground teach ask` makes it")
        with naming(path):
            connection = sqlite3.connect(path, timeout=30.0, isolation_level=None)
            try:
                check_version(path, connection)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("PRAGMA foreign_keys = ON")
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def close(self) -> None:
        """Close the database; what is stored is stored."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Keep other processes from asking too, which would pay for answers twice.

        The lock is a file ``PATH.lock`` and ends with the process, however that ends. Raises
        ``RunError`` where another process holds it.
        """
        lock = self.path.with_name(self.path.name + ".lock")
        with naming(self.path), connected(lock) as connection:
            connection.execute("PRAGMA busy_timeout = 0")
            try:
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                raise RunError(
                    f"{self.path}: another process is asking for this database; wait until it is "
                    "done, or stop it"
                ) from None
            yield

    # Reading.

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

    # Writing.

    def add_call(self, call: Call) -> int:
        """Store a call, in place of an earlier try that failed; returns its id.

        Raises ``RunError`` where it has been answered already: an answer is never lost to another.
        """
        values = _values(call) | {
            "sizes": json.dumps(
                [[s.width, s.height, s.input_width, s.input_height] for s in call.sizes]
            ),
            "at": call.at or time.time(),
        }
        del values["id"]
        summed = ("prompt_tokens", "completion_tokens", "cost", "attempts")
        key = ("sample", "stage", "number", "model", "prompt_sha256")
        updates = [
            f"{name} = calls.{name} + excluded.{name}"
            if name in summed
            else f"{name} = excluded.{name}"
            for name in values
            if name not in key
        ]
        sql = f"""INSERT INTO calls ({", ".join(values)})
          VALUES ({", ".join(":" + name for name in values)})
          ON CONFLICT ({", ".join(key)}) DO UPDATE SET {", ".join(updates)}
          WHERE state = 'failed' RETURNING id"""
        stored = self._write(sql, values)
        if stored is None:
            raise RunError(
                f"{self.path}: call {call.number} about {call.sample!r} is answered already; "
                "does another process ask for this database?"
            )
        return stored

    def set_verdict(self, verdict: Verdict) -> None:
        """Store a verdict, in place of an earlier one about the same call."""
        values = _values(verdict) | {"boxes": json.dumps(verdict.boxes)}
        self._write(_upsert("verdicts", values), values)

    def set_pick(self, pick: Pick) -> None:
        """Store the pick of a sample, in place of an earlier one."""
        values = _values(pick) | {"candidates": json.dumps(pick.candidates)}
        self._write(_upsert("picks", values), values)

    def drop_pick(self, sample_id: str) -> None:
        """Take a pick back, as where its chain is verified no more."""
        self._write("DELETE FROM picks WHERE sample = :sample", {"sample": sample_id})

    def add_review(self, review: Review) -> int:
        """Store a decision behind all earlier ones; returns its id."""
        values = _values(review) | {"at": review.at or time.time()}
        del values["id"]
        sql = f"""INSERT INTO reviews ({", ".join(values)})
          VALUES ({", ".join(":" + name for name in values)}) RETURNING id"""
        stored = self._write(sql, values)
        assert stored is not None
        return stored

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is written inside is one transaction: stored whole, or not at all; faster."""
        with naming(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk ends it by itself
                    self._connection.execute("ROLLBACK")
                raise

    # How.

    def _rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        with naming(self.path):
            cursor = self._connection.execute(sql, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _write(self, sql: str, values: Mapping[str, object]) -> int | None:
        """Run one statement; the id that it returns, if it returns one."""
        with naming(self.path):
            rows = self._connection.execute(sql, values).fetchall()
        return int(rows[0][0]) if rows else None

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


def _values(row: Call | Verdict | Pick | Review) -> dict[str, Any]:
    return {name: _storable(getattr(row, name)) for name in row.__dataclass_fields__}


def _storable(value: object) -> object:
    """Half a character, which JSON can escape and UTF-8 cannot write, becomes a question mark."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _upsert(table: str, values: Mapping[str, object]) -> str:
    names = ", ".join(":" + name for name in values)
    return f"INSERT OR REPLACE INTO {table} ({', '.join(values)}) VALUES ({names})"


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
