"""Calls to a teacher: several at a time, paced, tried again, paid for, and each stored at once."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from reground.errors import DataError, EndpointError
from reground.patience import Patience
from reground.rollout.endpoint import NoReply
from reground.teacher.limits import Budget, Pace, pause_s
from reground.teacher.rows import Call, Stage
from reground.teacher.settings import Teacher
from reground.teacher.store import Store
from reground.teacher.teachers import Answer, Answerer, Question

SPENT = "the budget is spent; raise max_calls or max_cost for more"

_BYTES_A_TOKEN = 3  # fewer than common texts have: an estimate that is rather too high
_PIXELS_A_TOKEN = 28 * 28  # Qwen-VL's


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run of a stage did.

    ``errors`` counts the reasons for which calls failed; ``stopped`` says why it ended before all
    was asked, where it did.
    """

    answered: int
    errors: Mapping[str, int]
    stopped: str | None


@dataclass(slots=True, kw_only=True)
class Caller:
    """Puts the questions of one stage to a teacher and stores what comes of each.

    ``settings`` are kept beside every call. ``max_tokens`` is the longest answer, by which a call
    is reckoned before it is made; ``watch`` is told of every call once it is stored.
    """

    store: Store
    answerer: Answerer
    teacher: Teacher
    stage: Stage
    prompt_sha256: str
    settings: str
    max_tokens: int
    budget: Budget
    watch: Callable[[Call], None] = lambda _: None
    _requests: Pace = field(init=False)
    _tokens: Pace = field(init=False)
    _draw: random.Random = field(init=False, default_factory=random.Random)
    _stopped: str | None = field(init=False, default=None)
    _fatal: EndpointError | None = field(init=False, default=None)
    _patience: Patience = field(init=False)
    _answers: int = field(init=False, default=0)
    _errors: Counter[str] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        self._patience = Patience("calls", "the endpoint", EndpointError)
        self._requests = Pace(self.teacher.requests_per_minute)
        self._tokens = Pace(self.teacher.tokens_per_minute)

    async def run(self, questions: Iterator[Question]) -> Outcome:
        """Ask all questions, or until the budget is spent or someone presses Ctrl-C.

        Running calls are then waited for and stored. So they are where nothing more can be
        expected, which raises ``EndpointError``: the key is refused, or many calls in a row failed.
        """
        with self._interruptible():
            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(self.teacher.concurrency):
                        workers.create_task(self._work(questions))
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
        if self._fatal:
            raise self._fatal
        return Outcome(answered=self._answers, errors=self._errors, stopped=self._stopped)

    async def _work(self, questions: Iterator[Question]) -> None:
        while not self._stopped and (question := next(questions, None)):
            try:
                await self._one(question)
            except EndpointError as error:
                self._fatal = self._fatal or error
                self._stopped = str(error)

    async def _one(self, question: Question) -> None:
        blank = self._call(question)
        try:
            text = question.text()
            most = self._most(question, text)
            if not await self.budget.reserve(most.cost):
                self._stopped = self._stopped or SPENT
                return
            call = blank
            try:
                call = await self._tried(question, text, most)
            finally:
                self.budget.settle(most.cost, paid=call.cost, is_answered=call.state == "answered")
        except DataError as error:  # of this sample alone: it says nothing about the teacher
            self._keep(replace(blank, error=str(error)))
            return
        self._keep(call)
        self._patience.note(call.error)

    async def _tried(self, question: Question, text: str, most: Call) -> Call:
        """Ask until an answer comes, the fault will not pass, or all tries are used up."""
        spent = replace(most, prompt_tokens=0, completion_tokens=0, cost=0.0)
        for attempt in itertools.count(1):
            await self._wait_for_turn(most)
            spent = replace(spent, attempts=attempt)
            try:
                answer = await self.answerer.answer(question, text)
            except NoReply as error:
                spent = self._billed(spent, error.num_prompt_tokens, error.num_tokens)
                if not error.may_pass or attempt > self.teacher.retries or self._stopped:
                    return replace(spent, error=str(error))
                await asyncio.sleep(pause_s(attempt - 1, error.retry_after_s, draw=self._draw))
            else:
                return self._answered(spent, most, answer)
        raise AssertionError("the last try returns")

    async def _wait_for_turn(self, most: Call) -> None:
        tokens = most.prompt_tokens + most.completion_tokens
        if wait := max(self._requests.reserve(1), self._tokens.reserve(tokens)):
            await asyncio.sleep(wait)

    def _answered(self, spent: Call, most: Call, answer: Answer) -> Call:
        read, written = answer.prompt_tokens, answer.completion_tokens
        read = most.prompt_tokens if read is None else read
        written = _num_tokens(answer.text) if written is None else written
        self._tokens.correct(read + written - most.prompt_tokens - most.completion_tokens)
        return replace(
            self._billed(spent, read, written),
            state="answered",
            text=answer.text,
            finish=answer.finish,
            sizes=answer.sizes,
            latency_s=answer.latency_s,
        )

    def _call(self, question: Question) -> Call:
        """The call before anything came of it."""
        return Call(
            sample=question.sample.id,
            stage=self.stage,
            number=question.number,
            model=self.teacher.model,
            prompt_sha256=self.prompt_sha256,
            settings=self.settings,
            state="failed",
            attempts=0,
        )

    def _most(self, question: Question, text: str) -> Call:
        """The call with the most tokens that one try is likely to take."""
        pixels = sum(size.input_width * size.input_height for size in question.pictures.sizes)
        read = _num_tokens(text) + -(-pixels // _PIXELS_A_TOKEN)
        return self._billed(self._call(question), read, self.max_tokens)

    def _billed(self, call: Call, read: int, written: int) -> Call:
        """The call with more tokens, and what these cost."""
        price = read * self.teacher.prompt_price + written * self.teacher.completion_price
        return replace(
            call,
            prompt_tokens=call.prompt_tokens + read,
            completion_tokens=call.completion_tokens + written,
            cost=call.cost + price / 1e6,
        )

    def _keep(self, call: Call) -> None:
        self.store.add_call(call)
        if call.error is None:
            self._answers += 1
        else:
            self._errors[call.error] += 1
        self.watch(call)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C stops cleanly; the second one stops at once."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self._stopped = self._stopped or "interrupted"
            loop.remove_signal_handler(signal.SIGINT)

        with suppress(NotImplementedError, ValueError, RuntimeError):  # no main thread, or Windows
            loop.add_signal_handler(signal.SIGINT, stop)
        try:
            yield
        finally:
            with suppress(NotImplementedError, ValueError, RuntimeError):
                loop.remove_signal_handler(signal.SIGINT)


def _num_tokens(text: str) -> int:
    return len(text.encode(errors="replace")) // _BYTES_A_TOKEN + 1
