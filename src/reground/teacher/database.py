"""The SQLite file of a set of chains: its tables, its version, its errors in one sentence.

WAL mode. Every change is one short transaction, so that a kill at any moment loses nothing that was
stored, and any number of processes may read along (a power cut may cost the last moments).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from reground.data.source import path_from
from reground.errors import DataError, RunError
from reground.grounding.sample import Sample, digest
from reground.io import whole

VERSION = "3"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE samples (
  id TEXT PRIMARY KEY, position INTEGER NOT NULL UNIQUE, task TEXT NOT NULL, row TEXT NOT NULL);
CREATE TABLE calls (
  id INTEGER PRIMARY KEY, sample TEXT NOT NULL REFERENCES samples(id), stage TEXT NOT NULL,
  number INTEGER NOT NULL, model TEXT NOT NULL, prompt_sha256 TEXT NOT NULL, state TEXT NOT NULL,
  text TEXT NOT NULL, finish TEXT, prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, cost REAL NOT NULL, latency_s REAL NOT NULL,
  attempts INTEGER NOT NULL, error TEXT, sizes TEXT NOT NULL, settings TEXT NOT NULL,
  at REAL NOT NULL,
  UNIQUE (sample, stage, number, model, prompt_sha256));
CREATE TABLE findings (
  call INTEGER PRIMARY KEY REFERENCES calls(id), ok INTEGER NOT NULL, reason TEXT,
  detail TEXT NOT NULL, think TEXT, boxes TEXT NOT NULL, iou REAL,
  settings TEXT NOT NULL);
CREATE TABLE picks (
  sample TEXT PRIMARY KEY REFERENCES samples(id), call INTEGER NOT NULL REFERENCES calls(id),
  rule TEXT NOT NULL, tie INTEGER NOT NULL, detail TEXT NOT NULL, candidates TEXT NOT NULL,
  settings TEXT NOT NULL);
CREATE TABLE reviews (
  id INTEGER PRIMARY KEY, sample TEXT NOT NULL REFERENCES samples(id),
  call INTEGER NOT NULL REFERENCES calls(id), reviewer TEXT NOT NULL, decision TEXT NOT NULL,
  text TEXT, at REAL NOT NULL);
CREATE INDEX reviews_of ON reviews (sample, reviewer);
"""


class Database:
    """The file at ``path``; made by :meth:`create`, opened by :meth:`open`.

    Its methods raise ``RunError`` naming the file where it cannot be read or written: a full disk,
    a lock that another process keeps. A context manager that closes it; it belongs to the thread
    that opened it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def create(cls, path: Path, samples: Iterable[Sample], *, data: str) -> Self:
        """A new database of ``samples``, whole or not at all; ``data`` says where they came from.

        Raises ``RunError`` where there is something at ``path``, ``DataError`` where two samples
        share an id.
        """
        if path.exists():
            raise RunError(f"{path}: exists already; open it, or choose another name")
        with whole(path) as partial, _naming(path), closing(_connected(partial)) as connection:
            _fill(connection, samples, data=data, folder=path.parent)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The database at ``path``; raises ``RunError`` where it is none, or of another version."""
        if not path.is_file():
            raise RunError(f"{path}: no such database; `reground teach ask` makes it")
        with _naming(path):
            connection = _connected(path)
            try:
                _check_version(path, connection)
                for setting in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
                    connection.execute(f"PRAGMA {setting}")
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
        with _naming(self.path), closing(_connected(lock, wait_s=0.0)) as connection:
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

    @contextmanager
    def together(self) -> Iterator[None]:
        """Everything written inside is one transaction: stored whole, or not at all; faster."""
        with _naming(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk ends it by itself
                    self._connection.execute("ROLLBACK")
                raise

    def _rows(
        self, sql: str, values: Sequence[object] | Mapping[str, object] = ()
    ) -> list[dict[str, Any]]:
        """Run one statement; the rows that it returns."""
        with _naming(self.path):
            return [dict(row) for row in self._connection.execute(sql, values)]

    def _put(self, table: str, columns: Mapping[str, object], *, ending: str = "") -> int | None:
        """Insert a row, in place of one with its key unless ``ending`` says otherwise; its id."""
        names, marks = ", ".join(columns), ", ".join(f":{name}" for name in columns)
        verb = "INSERT" if ending else "INSERT OR REPLACE"
        sql = f"{verb} INTO {table} ({names}) VALUES ({marks}) {ending} RETURNING rowid AS id"
        rows = self._rows(sql, columns)
        return int(rows[0]["id"]) if rows else None


def _connected(path: Path, *, wait_s: float = 30.0) -> sqlite3.Connection:
    """A connection in which every statement commits itself."""
    connection = sqlite3.connect(path, timeout=wait_s, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def _fill(
    connection: sqlite3.Connection, samples: Iterable[Sample], *, data: str, folder: Path
) -> None:
    """Make the tables and store the samples, image paths relative to ``folder``: all or nothing."""

    def stored() -> Iterator[Sample]:
        named = partial(path_from, folder.resolve())
        for position, sample in enumerate(samples):
            text = json.dumps(sample.to_json(named=named), ensure_ascii=False)
            values = (sample.id, position, sample.task, text)
            try:
                connection.execute("INSERT INTO samples VALUES (?, ?, ?, ?)", values)
            except sqlite3.IntegrityError:
                raise DataError(
                    f"{data}: two samples are called {sample.id!r}; give each its own id"
                ) from None
            yield sample

    # In memory, without a second file: a kill leaves only what the next try deletes.
    connection.executescript(f"PRAGMA journal_mode = MEMORY; BEGIN; {_SCHEMA}")
    meta = {"version": VERSION, "data": data, "digest": digest(stored())}
    meta["created"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    connection.execute("COMMIT")


def _check_version(path: Path, connection: sqlite3.Connection) -> None:
    """Raise ``RunError`` where this is no database of ours, or one of another version."""
    has_meta = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
    version = "SELECT value FROM meta WHERE key = 'version'"
    found = connection.execute(version).fetchone() if has_meta else None
    if found is None:
        raise RunError(f"{path}: a database, but none of `reground teach`; choose another name")
    if found[0] != VERSION:
        raise RunError(
            f"{path}: a database of version {found[0]}, and this ReGround reads version "
            f"{VERSION}; use the ReGround that made it, or begin a new one"
        )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What SQLite cannot do becomes a ``RunError`` that names the file; bugs stay bugs."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except sqlite3.DatabaseError as error:
        if "syntax error" in str(error):
            raise
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise RunError(
                f"{path}: not a database of chains; expected what `reground teach ask` made"
            ) from None
        raise RunError(
            f"{path}: {error}; everything stored before is kept, so mend that and run the same "
            "command again"
        ) from None
