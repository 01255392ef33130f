"""Asks tools: every request gets a reply, in time and fit to be used.

Tools are other people's programs: they hang, raise, or answer with anything. None of that leaves
:meth:`ToolRunner.ask`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread

from reground.errors import DataError, UserError
from reground.grounding.sample import Detection
from reground.rollout.tools.tool import (
    Request,
    Tool,
    ToolError,
    ToolResult,
    clean,
    from_rows,
    reason,
    to_rows,
)

_LOG = logging.getLogger(__name__)
_WAIT_S = 60.0  # for another process that writes to the cache

_Found = Sequence[tuple[Detection | None, ...] | ToolError]


class ToolRunner:
    """Asks ``tool`` in batches of ``batch_size``, one after another, and cleans what it returns.

    A batch without a result within ``timeout_s`` seconds gets replies that say so, as does the
    rest of that ``ask``; the tool is never called a second time while it is still busy. Answers of
    tools that go ``by_image`` are kept in the folder ``cache``; what failed is not.

    ``counts`` are for metrics, and for the caller to clear: ``asked`` counts requests; of different
    ones ``calls`` went to the tool and ``cached`` needed not, ``failed`` got no usable answer,
    ``late`` none in time; ``dropped_...`` count boxes by reason (see ``clean``).
    """

    def __init__(
        self, tool: Tool, *, timeout_s: float, batch_size: int, cache: Path | None = None
    ) -> None:
        self.tool = tool
        self.counts: Counter[str] = Counter()
        self._cache = Cache(cache) if cache and tool.by_image else None
        self._timeout_s = timeout_s
        self.batch_size = batch_size
        self._busy = threading.Lock()
        self._logged: set[str] = set()

    def ask(self, requests: Sequence[Request]) -> list[ToolResult]:
        """A reply to each request, in that order; the same question is asked once. Never raises."""
        self.counts["asked"] += len(requests)
        keys = self._keys(requests)
        firsts: dict[str, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            if isinstance(key, str):
                firsts.setdefault(key, request)
        replies = self._cached(firsts)
        replies |= self._asked({key: firsts[key] for key in firsts if key not in replies})
        return [
            key if isinstance(key, ToolResult) else _moved(replies[key], request)
            for key, request in zip(keys, requests, strict=True)
        ]

    def _keys(self, requests: Sequence[Request]) -> list[str | ToolResult]:
        """What makes two requests the same; a reply where the image cannot be read."""
        known: dict[tuple[int, int, str], str | ToolResult] = {}
        keys = []
        for request in requests:
            own = (id(request.sample), id(request.shown), request.expression)
            if own not in known:
                known[own] = self._key(request) if self.tool.by_image else repr(own)
            keys.append(known[own])
        return keys

    def _key(self, request: Request) -> str | ToolResult:
        try:
            image = request.image()
            pixels = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes())
            parts = (pixels.hexdigest(), request.expression, self.tool.name, self.tool.settings)
            return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        except Exception as error:  # whatever an image file or a tool comes up with
            return self._failed(error)

    def _cached(self, firsts: dict[str, Request]) -> dict[str, ToolResult]:
        replies = {}
        for key, text in (self._cache.get(list(firsts)) if self._cache else {}).items():
            with suppress(ValueError, RecursionError):  # what is broken is asked again
                if (found := from_rows(json.loads(text), firsts[key].sample)) is not None:
                    replies[key] = ToolResult(found)
        self.counts["cached"] += len(replies)
        return replies

    def _asked(self, firsts: dict[str, Request]) -> dict[str, ToolResult]:
        replies: dict[str, ToolResult] = {}
        keys = list(firsts)
        for start in range(0, len(keys), self.batch_size):
            batch = {key: firsts[key] for key in keys[start : start + self.batch_size]}
            self.counts["calls"] += len(batch)
            new = self._batch(batch)
            if new is None:
                break
            replies |= new
            self._keep(new)
        late = [key for key in keys if key not in replies]
        self.counts["late"] += len(late)
        problem = f"no result within {self._timeout_s:g} s"
        return replies | {key: ToolResult(problem=problem) for key in late}

    def _batch(self, batch: dict[str, Request]) -> dict[str, ToolResult] | None:
        """Replies by key; None where none came in time."""
        call: Future[_Found] = Future()
        # A daemon: one that hangs keeps no program alive.
        Thread(target=self._detect, args=[list(batch.values()), call], daemon=True).start()
        if not wait([call], timeout=self._timeout_s).done:
            call.cancel()  # while it waits for one that hangs, it is not begun any more
            return None
        error = call.exception()
        found = [] if error else call.result()
        if not error and not (isinstance(found, tuple | list) and len(found) == len(batch)):
            error = ToolError(f"did not give one answer for each of {len(batch)} questions")
        if error:
            return {key: self._failed(error) for key in batch}
        return {key: self._reply(batch[key], each) for key, each in zip(batch, found, strict=True)}

    def _detect(self, requests: list[Request], call: Future[_Found]) -> None:
        with self._busy:
            if call.set_running_or_notify_cancel():
                try:
                    call.set_result(self.tool.detect(requests))
                except BaseException as error:  # a tool may even call sys.exit
                    call.set_exception(error)

    def _reply(self, request: Request, found: object) -> ToolResult:
        if isinstance(found, ToolError):
            return self._failed(found)
        dropped: Counter[str] = Counter()
        try:
            reply = ToolResult(clean(found, request.sample, dropped))
        except Exception as error:  # of whatever is in the place of a detection
            return self._failed(error)
        self.counts.update({f"dropped_{why}": count for why, count in dropped.items()})
        return reply

    def _failed(self, error: BaseException) -> ToolResult:
        """The reply that says why there is no answer; the same reason is logged once."""
        self.counts["failed"] += 1
        own = isinstance(error, ToolError | UserError)
        problem = reason(error if own else f"{type(error).__name__}: {error}")
        if problem not in self._logged and len(self._logged) < 100:
            self._logged.add(problem)
            _LOG.warning("tool %s: %s", self.tool.name, problem, exc_info=None if own else error)
        return ToolResult(problem=problem)

    def _keep(self, replies: dict[str, ToolResult]) -> None:
        if self._cache:
            good = {key: each.detections for key, each in replies.items() if each.problem is None}
            self._cache.put({key: json.dumps(to_rows(found)) for key, found in good.items()})


@dataclass(slots=True)
class Cache:
    """Texts by key in ``folder/tools.sqlite``, which several processes may share.

    Every access is a connection of its own: none is carried over to a thread or a forked process.
    What fails later, as a full disk, is logged once; then nothing is kept any more. Raises
    ``DataError`` where there can be no such file.
    """

    folder: Path
    _works: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._open() as db:
                db.execute("PRAGMA journal_mode=WAL")  # readers do not wait for a writer
                db.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT)")
        except (sqlite3.Error, OSError) as error:
            raise DataError(
                f"{self.path}: cannot keep answers of tools there ({error}); "
                "delete the file, or name another folder"
            ) from None

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "tools.sqlite"

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """What is kept, of these keys."""
        found: dict[str, str] = {}
        if self._works:
            with self._failing_once(), self._open() as db:
                for key in keys:
                    row = db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
                    if row:
                        found[key] = str(row[0])
        return found

    def put(self, replies: Mapping[str, str]) -> None:
        """Keep texts by their keys, all or none."""
        if self._works and replies:
            with self._failing_once(), self._open() as db:
                db.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?)", replies.items())

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=_WAIT_S)) as db, db:
            yield db

    @contextmanager
    def _failing_once(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._works = False
            _LOG.warning("%s: %s; answers of tools are kept no longer", self.path, error)


def _moved(reply: ToolResult, request: Request) -> ToolResult:
    """The reply to the same question about the same image, in this request's sample."""
    image = request.sample.target_image
    return replace(reply, detections=tuple(replace(each, image=image) for each in reply.detections))
