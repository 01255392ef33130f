"""The one database of a set of chains: samples, what a teacher answered, and what became of it.

SQLite in WAL mode. Every change is one short transaction, so that a kill at any moment loses
nothing that was stored, and any number of processes may read along (a power cut may cost the last
moments). A ``Store`` belongs to the thread that opened it.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from reground.errors import RunError
from reground.grounding.sample import Sample
from reground.teacher.database import check_version, connected, fill, naming
from reground.teacher.reading import Reading
from reground.teacher.rows import Call, Pick, Review, Verdict


class Store(Reading):
    """The database at ``path``; made by :meth:`create`, opened by :meth:`open`.

    Its methods raise ``RunError`` naming the file where it cannot be read or written: a full disk,
    a lock that another process keeps. A context manager that closes it.
    """

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

    def _write(self, sql: str, values: Mapping[str, object]) -> int | None:
        """Run one statement; the id that it returns, if it returns one."""
        with naming(self.path):
            rows = self._connection.execute(sql, values).fetchall()
        return int(rows[0][0]) if rows else None


def _values(row: Call | Verdict | Pick | Review) -> dict[str, Any]:
    return {name: _storable(getattr(row, name)) for name in row.__dataclass_fields__}


def _storable(value: object) -> object:
    """Half a character, which JSON can escape and UTF-8 cannot write, becomes a question mark."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _upsert(table: str, values: Mapping[str, object]) -> str:
    names = ", ".join(":" + name for name in values)
    return f"INSERT OR REPLACE INTO {table} ({', '.join(values)}) VALUES ({names})"
