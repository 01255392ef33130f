"""The SQLite file behind a set of chains: its tables, its version, what is said of its faults."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reground.data.source import relative_to
from reground.errors import DataError, RunError
from reground.grounding.sample import Sample, digest

VERSION = "2"

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
CREATE TABLE verdicts (
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


@contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the file at ``path``, closed in the end; every statement commits itself."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def fill(
    connection: sqlite3.Connection, samples: Iterable[Sample], *, data: str, folder: Path
) -> None:
    """Make the tables and store the samples, image paths relative to ``folder``: all or nothing.

    Raises ``DataError`` where two samples share an id.
    """

    def stored() -> Iterator[Sample]:
        resolved = folder.resolve()
        for position, sample in enumerate(samples):
            text = json.dumps(relative_to(sample, resolved).to_json(), ensure_ascii=False)
            values = (sample.id, position, sample.task, text)
            try:
                connection.execute("INSERT INTO samples VALUES (?, ?, ?, ?)", values)
            except sqlite3.IntegrityError:
                raise DataError(
                    f"{data}: two samples are called {sample.id!r}; give each its own id"
                ) from None
            yield sample

    # No file beside this one: a kill leaves only what the next try deletes.
    connection.executescript(f"PRAGMA journal_mode = MEMORY; BEGIN; {_SCHEMA}")
    meta = {"version": VERSION, "data": data, "digest": digest(stored())}
    meta["created"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    connection.execute("COMMIT")


def check_version(path: Path, connection: sqlite3.Connection) -> None:
    """Raise ``RunError`` where this is no database of ours, or one of another version."""
    try:
        rows = connection.execute("SELECT value FROM meta WHERE key = 'version'").fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        rows = []
    if not rows:
        raise RunError(f"{path}: a database, but none of `reground teach`; choose another name")
    if rows[0][0] != VERSION:
        raise RunError(
            f"{path}: a database of version {rows[0][0]}, and this ReGround reads version "
            f"{VERSION}; use the ReGround that made it, or begin a new one"
        )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What SQLite cannot do becomes a ``RunError`` that names the file; bugs stay bugs."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.ProgrammingError) or "syntax error" in str(error):
            raise
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise RunError(
                f"{path}: not a database of chains; expected what `reground teach ask` made"
            ) from None
        raise RunError(
            f"{path}: {error}; everything stored before is kept, so mend that and run the same "
            "command again"
        ) from None
