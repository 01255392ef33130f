"""Calls to a teacher: several at a time, paced, tried again, paid for, and each stored at once."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from reground.errors import DataError, EndpointError
from reground.patience import Patience, pause_s
from reground.rollout.http import NoReply
from reground.teacher.limits import Budget, Pace
from reground.teacher.rows import Stage, TeacherCall
from reground.teacher.settings import Teacher
from reground.teacher.store import Store
from reground.teacher.teachers import Answerer, TeacherReply, TeacherRequest, opened

SPENT = "the budget is spent; raise max_calls or max_cost for more"

_BYTES_A_TOKEN = 3  # fewer than common texts have: an estimate that is rather too high
_PIXELS_A_TOKEN = 28 * 28  # Qwen-VL's


@dataclass(slots=True, kw_only=True)
class CallOutcome:
    """What a run of a stage did; filled while it runs.

    ``left`` of ``total`` calls have no answer yet, ``answered`` got theirs in this run. ``errors``
    counts the reasons for which calls failed; ``stopped`` says why the run ended early, where it
    did. ``settings`` are those stored with each call.
    """

    settings: str = "{}"
    total: int = 0
    left: int = 0
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None


@dataclass(slots=True, kw_only=True)
class Caller:
    """Puts the requests of one stage to a teacher and stores the result of each.

    ``settings`` are stored with every call. ``max_tokens`` is the longest reply, by which a call
    is reckoned before it is made; ``max_calls`` answers of this stage and ``max_cost``, of all
    stages, are the most that the database may hold. ``begin`` is called with how many calls are
    done and how many there are in all, then ``watch`` with every one that is stored.
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
    begin: Callable[[int, int], None]
    watch: Callable[[TeacherCall], None]
    _answerer: Answerer = field(init=False)
    _budget: Budget = field(init=False)
    _requests: Pace = field(init=False)
    _tokens: Pace = field(init=False)
    _draw: random.Random = field(init=False, default_factory=random.Random)
    _fatal: EndpointError | None = field(init=False, default=None)
    _patience: Patience = field(init=False)
    _done: CallOutcome = field(init=False)

    def run(
        self, requests: Callable[[], Iterator[TeacherRequest]], *, total: int | None = None
    ) -> CallOutcome:
        """Make all calls, or stop when the budget is spent or someone presses Ctrl-C.

        Running calls are then waited for and stored. So they are where nothing more can be
        expected, which raises ``EndpointError``: the key is refused, or many calls in a row failed.
        ``total`` counts the calls that are answered already, too. Raises ``RunError`` where another
        process is asking.
        """
        with self.store.exclusively():
            left = sum(1 for _ in requests())
            total = left if total is None else total
            self._done = CallOutcome(settings=self.settings, total=total, left=left)
            self.begin(total - left, total)
            if left:
                self._set_limits()
                asyncio.run(self._run(requests()))
        if self._fatal:
            raise self._fatal
        return self._done

    def _set_limits(self) -> None:
        self._patience = Patience("calls", "the endpoint", EndpointError)
        self._requests = Pace(self.teacher.requests_per_minute)
        self._tokens = Pace(self.teacher.tokens_per_minute)
        counts = self.store.counts()
        calls = math.inf if self.max_calls is None else self.max_calls
        money = math.inf if self.max_cost is None else self.max_cost
        self._budget = Budget(
            calls=calls - counts.answered.get(self.stage, 0), money=money - counts.cost
        )

    async def _run(self, requests: Iterator[TeacherRequest]) -> None:
        teacher = opened(self.teacher, temperature=self.temperature, max_tokens=self.max_tokens)
        async with teacher as self._answerer:
            self._heed_ctrl_c()
            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(self.teacher.concurrency):
                        workers.create_task(self._work(requests))
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None

    async def _work(self, requests: Iterator[TeacherRequest]) -> None:
        while not self._done.stopped and (request := next(requests, None)):
            try:
                await self._one(request)
            except EndpointError as error:
                self._fatal = self._fatal or error
                self._done.stopped = str(error)

    async def _one(self, request: TeacherRequest) -> None:
        call = blank = TeacherCall(
            sample=request.sample.id,
            stage=self.stage,
            number=request.number,
            model=self.teacher.model,
            prompt_sha256=self.prompt_sha256,
            settings=self.settings,
            state="failed",
            attempts=0,
        )
        try:
            text = request.text()
            most = self._billed(blank, _most_read(request, text), self.max_tokens)
            if not await self._budget.reserve(most.cost):
                self._done.stopped = self._done.stopped or SPENT
                return
            try:
                call = await self._tried(request, text, blank, most)
            finally:
                self._budget.settle(most.cost, paid=call.cost, is_answered=call.state == "answered")
        except DataError as error:  # of this sample alone: it says nothing about the teacher
            self._keep(replace(blank, error=str(error)))
            return
        self._keep(call)
        self._patience.note(call.error)

    async def _tried(
        self, request: TeacherRequest, text: str, spent: TeacherCall, most: TeacherCall
    ) -> TeacherCall:
        """Ask until an answer comes, the fault will not pass, or all tries are used up.

        ``most`` holds the most tokens that one try is likely to take.
        """
        for attempt in itertools.count(1):
            await self._wait_for_turn(most)
            spent = replace(spent, attempts=attempt)
            try:
                answer = await self._answerer(request, text)
            except NoReply as error:
                spent = self._billed(spent, error.num_prompt_tokens, error.num_tokens)
                if not error.may_pass or attempt > self.teacher.retries or self._done.stopped:
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
        reply = answer.reply
        read, written = reply.num_prompt_tokens, reply.num_tokens
        read = most.prompt_tokens if read is None else read
        written = _num_tokens(reply.text) if written is None else written
        self._tokens.correct(read + written - most.prompt_tokens - most.completion_tokens)
        return replace(
            self._billed(spent, read, written),
            state="answered",
            text=reply.text,
            finish=reply.finish,
            sizes=answer.sizes,
            latency_s=answer.latency_s,
        )

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
            self._done.answered += 1
            self._done.left -= 1
        else:
            self._done.errors[call.error] += 1
        self.watch(call)

    def _heed_ctrl_c(self) -> None:
        """Ctrl-C stops cleanly, until the loop is closed; the second one stops at once."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self._done.stopped = self._done.stopped or "interrupted"
            loop.remove_signal_handler(signal.SIGINT)

        with suppress(NotImplementedError, ValueError, RuntimeError):  # no main thread, or Windows
            loop.add_signal_handler(signal.SIGINT, stop)


def _most_read(request: TeacherRequest, text: str) -> int:
    """How many tokens a prompt is likely to have at most."""
    pixels = sum(size.input_width * size.input_height for size in request.pictures.sizes)
    return _num_tokens(text) + -(-pixels // _PIXELS_A_TOKEN)


def _num_tokens(text: str) -> int:
    return len(text.encode(errors="replace")) // _BYTES_A_TOKEN + 1
