"""One thread with the model: questions that wait are answered together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from reground.errors import UserError

if TYPE_CHECKING:
    from reground.api import Grounding, Way
    from reground.rollout.environment import Start
    from reground.rollout.policy import Heard

GATHER_S = 0.01  # that a batch waits for one more question while none is on its way
LARGEST = 32  # questions of a batch
LATELY = 20  # batches over which the pace is measured

Listener = Callable[[tuple[int, ...] | str], None]
"""Is told an answer so far, in the model's thread: its ids, or its text where another server has
the ids."""


class Answers(Protocol):
    """What answers questions together, as ``Grounder`` does."""

    def answers(
        self, starts: Sequence[Start], *, way: Way, keys: Sequence[int], heard: Heard
    ) -> list[Grounding]:
        """The answers, in the order of the questions."""


class AnswerThread(Protocol):
    """Where a model answers: ``ModelThread``, or the one of a model behind another server."""

    @property
    def waiting(self) -> int:
        """How many questions wait."""

    @property
    def is_open(self) -> bool:
        """Whether questions are taken and answered."""

    def expecting(self) -> AbstractContextManager[None]:
        """While a question is made ready that will be submitted, or not."""

    def submit(
        self, start: Any, way: Way, *, key: int = 0, listener: Listener | None = None
    ) -> Future[Answered]:
        """The answer to come; raises ``QueueFullError`` where too many wait."""

    def close(self) -> None:
        """Answer what waits, then end."""


class QueueFullError(UserError):
    """Too many questions wait; ``retry_s`` says when there will be room."""

    help = "too-many-questions-wait"

    def __init__(self, waiting: int, retry_s: int) -> None:
        super().__init__(f"{waiting} questions wait already; ask again in {retry_s} s")
        self.retry_s = retry_s


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, how long its question waited for the model, and how long the model took."""

    grounding: Grounding
    waited_s: float
    model_s: float
    batch: int  # questions that were answered together


class _Coming(Future[Answered]):
    """An answer to come; ``is_unwanted`` once it was cancelled, also while it is being made."""

    is_unwanted = False

    def cancel(self) -> bool:
        self.is_unwanted = True
        return super().cancel()


@dataclass(frozen=True, slots=True)
class _Waiting:
    start: Start
    way: Way
    key: int
    since: float
    listener: Listener | None
    future: _Coming = field(default_factory=_Coming)

    @property
    def tokens(self) -> int:
        return len(self.start.prompt.ids) + len(self.start.begun) + self.way.max_tokens

    def heard(self, ids: Sequence[int]) -> bool:
        if self.listener:
            self.listener(tuple(ids))
        return not self.future.is_unwanted


class ModelThread:
    """Answers questions in batches of at most ``batch_tokens``, in the order in which they came.

    At most ``most_waiting`` wait. A question whose future was cancelled costs nothing from then on,
    also in the middle of its answer. Where a batch fails, each of its questions is answered alone,
    so that one cannot spoil the others. ``begin`` is called in the thread before all.
    """

    def __init__(
        self,
        model: Answers,
        *,
        batch_tokens: int,
        most_waiting: int,
        begin: Callable[[], None] | None = None,
    ) -> None:
        self._begin = begin
        self._model, self._batch_tokens, self._most = model, batch_tokens, most_waiting
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._pace: deque[float] = deque([1.0], maxlen=LATELY)  # seconds a question
        self._took = 0.0  # seconds of the last batch
        self._on_way = 0
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many questions wait."""
        return len(self._queue)

    @property
    def is_open(self) -> bool:
        """Whether questions are taken, and the thread is there to answer them."""
        return not self._closed and self._thread.is_alive()

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While a question is made ready that will be submitted, or not."""
        with self._changed:
            self._on_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._on_way -= 1
                self._changed.notify()

    def submit(
        self, start: Start, way: Way, *, key: int = 0, listener: Listener | None = None
    ) -> Future[Answered]:
        """The answer to come; raises ``QueueFullError`` where too many wait.

        ``key`` seeds what is sampled; ``listener`` hears the answer as it grows.
        """
        with self._changed:
            if len(self._queue) >= self._most:
                self._queue = deque(each for each in self._queue if not each.future.cancelled())
            if len(self._queue) >= self._most:
                pace = sum(self._pace) / len(self._pace)
                raise QueueFullError(len(self._queue), max(1, round(len(self._queue) * pace)))
            waiting = _Waiting(start, way, key, time.monotonic(), listener)
            self._queue.append(waiting)
            self._changed.notify()
        return waiting.future

    def close(self) -> None:
        """Answer what waits, then end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        if self._begin:
            self._begin()
        while batch := self._batch():
            begin = time.monotonic()
            self._answer(batch)
            self._took = time.monotonic() - begin
            self._pace.append(self._took / len(batch))

    def _batch(self) -> list[_Waiting]:
        """The next questions; none at the end."""
        batch: list[_Waiting] = []
        with self._changed:
            while not batch and (self._queue or not self._closed):
                self._changed.wait_for(lambda: self._queue or self._closed)
                self._gather()
                while self._queue and self._fits(batch, self._queue[0]):
                    first = self._queue.popleft()
                    if first.future.set_running_or_notify_cancel():
                        batch.append(first)
        return batch

    def _gather(self) -> None:
        """Wait for what is on its way: what comes a moment later waits for a whole batch.

        The wait is never longer than the last batch took, or ``GATHER_S``.
        """
        until = time.monotonic() + max(GATHER_S, self._took)
        is_quiet = False
        while not (is_quiet or self._is_full or self._closed):
            left = until - time.monotonic()
            if self._on_way:
                is_quiet = not self._changed.wait_for(
                    lambda: not self._on_way or self._is_full or self._closed, left
                )
            else:
                is_quiet = not self._changed.wait_for(
                    lambda: self._on_way or self._is_full or self._closed, min(GATHER_S, left)
                )

    @property
    def _is_full(self) -> bool:
        return len(self._queue) >= LARGEST

    def _fits(self, batch: Sequence[_Waiting], following: _Waiting) -> bool:
        if not batch:
            return True
        widest = max(each.tokens for each in [*batch, following])
        return (
            following.way == batch[0].way
            and len(batch) < LARGEST
            and widest * (len(batch) + 1) <= self._batch_tokens
        )

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        begin = time.monotonic()
        # Ids tell the questions of a batch apart, whatever their askers called them.
        starts = [
            replace(each.start, sample=replace(each.start.sample, id=str(place)))
            for place, each in enumerate(batch)
        ]
        try:
            found = self._model.answers(
                starts,
                way=batch[0].way,
                keys=[each.key for each in batch],
                heard=lambda place, ids: batch[place].heard(ids),
            )
        except Exception as error:  # of a model, of memory: the server goes on
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for each in batch:
                self._answer([each])
            return
        took = time.monotonic() - begin
        for each, grounding in zip(batch, found, strict=True):
            waited = begin - each.since
            each.future.set_result(Answered(grounding, waited, took, len(batch)))
