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
from reground.teacher.rows import Stage, TeacherCall
from reground.teacher.settings import Teacher
from reground.teacher.store import Store
from reground.teacher.teachers import Answerer, TeacherReply, TeacherRequest, opened

SPENT = "the budget is spent; raise max_calls or max_cost for more"

_BYTES_A_TOKEN = 3  # fewer than common texts have: an estimate that is rather too high
_PIXELS_A_TOKEN = 28 * 28  # Qwen-VL's


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOutcome:
    """What a run of a stage did.

    ``errors`` counts the reasons for which calls failed; ``stopped`` says why the run ended early,
    where it did.
    """

    answered: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    stopped: str | None = None


@dataclass(slots=True, kw_only=True)
class Caller:
    """Puts the requests of one stage to a teacher and stores the result of each.

    ``settings`` are stored with every call. ``max_tokens`` is the longest reply, by which a call
    is reckoned before it is made; ``max_calls`` answers of this stage and ``max_cost``, of all
    stages, are the most that the database may hold. ``watch`` is called with every stored call.
    """

    store: Store
    teacher: Teacher
    stage: Stage
    prompt_sha256: str
    settings: str
    temperature: float
    max_tokens: int
    max_calls: int | None = None
    max_cost: float | None = None
    watch: Callable[[TeacherCall], None] = lambda _: None
    _answerer: Answerer = field(init=False)
    _budget: Budget = field(init=False)
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
        counts = self.store.counts()
        answered = counts.answered.get(self.stage, 0)
        self._budget = Budget(
            calls=None if self.max_calls is None else self.max_calls - answered,
            money=None if self.max_cost is None else self.max_cost - counts.cost,
        )

    def run(self, requests: Iterator[TeacherRequest]) -> CallOutcome:
        """Make all calls, or stop when the budget is spent or someone presses Ctrl-C.

        Running calls are then waited for and stored. So they are where nothing more can be
        expected, which raises ``EndpointError``: the key is refused, or many calls in a row failed.
        """
        return asyncio.run(self._run(requests))

    async def _run(self, requests: Iterator[TeacherRequest]) -> CallOutcome:
        teacher = opened(self.teacher, temperature=self.temperature, max_tokens=self.max_tokens)
        async with teacher as self._answerer:
            with self._interruptible():
                try:
                    async with asyncio.TaskGroup() as workers:
                        for _ in range(self.teacher.concurrency):
                            workers.create_task(self._work(requests))
                except BaseExceptionGroup as group:
                    raise group.exceptions[0] from None
        if self._fatal:
            raise self._fatal
        return CallOutcome(answered=self._answers, errors=self._errors, stopped=self._stopped)

    async def _work(self, requests: Iterator[TeacherRequest]) -> None:
        while not self._stopped and (request := next(requests, None)):
            try:
                await self._one(request)
            except EndpointError as error:
                self._fatal = self._fatal or error
                self._stopped = str(error)

    async def _one(self, request: TeacherRequest) -> None:
        blank = self._call(request)
        try:
            text = request.text()
            most = self._most(request, text)
            if not await self._budget.reserve(most.cost):
                self._stopped = self._stopped or SPENT
                return
            call = blank
            try:
                call = await self._tried(request, text, most)
            finally:
                self._budget.settle(most.cost, paid=call.cost, is_answered=call.state == "answered")
        except DataError as error:  # of this sample alone: it says nothing about the teacher
            self._keep(replace(blank, error=str(error)))
            return
        self._keep(call)
        self._patience.note(call.error)

    async def _tried(self, request: TeacherRequest, text: str, most: TeacherCall) -> TeacherCall:
        """Ask until an answer comes, the fault will not pass, or all tries are used up."""
        spent = replace(most, prompt_tokens=0, completion_tokens=0, cost=0.0)
        for attempt in itertools.count(1):
            await self._wait_for_turn(most)
            spent = replace(spent, attempts=attempt)
            try:
                answer = await self._answerer(request, text)
            except NoReply as error:
                spent = self._billed(spent, error.num_prompt_tokens, error.num_tokens)
                if not error.may_pass or attempt > self.teacher.retries or self._stopped:
                    return replace(spent, error=str(error))
                await asyncio.sleep(pause_s(attempt - 1, error.retry_after_s, draw=self._draw))
            else:
                return self._answered(spent, most, answer)
        raise AssertionError("the last try returns")

    async def _wait_for_turn(self, most: TeacherCall) -> None:
        tokens = most.prompt_tokens + most.completion_tokens
        if wait := max(self._requests.reserve(1), self._tokens.reserve(tokens)):
            await asyncio.sleep(wait)

    def _answered(self, spent: TeacherCall, most: TeacherCall, answer: TeacherReply) -> TeacherCall:
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

    def _call(self, request: TeacherRequest) -> TeacherCall:
        """The call before it is made."""
        return TeacherCall(
            sample=request.sample.id,
            stage=self.stage,
            number=request.number,
            model=self.teacher.model,
            prompt_sha256=self.prompt_sha256,
            settings=self.settings,
            state="failed",
            attempts=0,
        )

    def _most(self, request: TeacherRequest, text: str) -> TeacherCall:
        """The call with the most tokens that one try is likely to take."""
        pixels = sum(size.input_width * size.input_height for size in request.pictures.sizes)
        read = _num_tokens(text) + -(-pixels // _PIXELS_A_TOKEN)
        return self._billed(self._call(request), read, self.max_tokens)

    def _billed(self, call: TeacherCall, read: int, written: int) -> TeacherCall:
        """The call with more tokens, and what these cost."""
        price = read * self.teacher.prompt_price + written * self.teacher.completion_price
        return replace(
            call,
            prompt_tokens=call.prompt_tokens + read,
            completion_tokens=call.completion_tokens + written,
            cost=call.cost + price / 1e6,
        )

    def _keep(self, call: TeacherCall) -> None:
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
