"""The two teachers: a server that speaks OpenAI's protocol, and the embedded one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from reground.errors import ConfigError, EndpointError
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample
from reground.rollout.endpoint import Client, Endpoint, NoReply, check_plain
from reground.teacher import embedded
from reground.teacher.pictures import Pictures
from reground.teacher.settings import Teacher


@dataclass(frozen=True, slots=True)
class TeacherRequest:
    """One call to be made: the ``number``-th about a sample.

    ``text`` writes the user turn when it is needed, and raises ``DataError`` where it cannot;
    ``seed`` makes the calls of a sample differ.
    """

    sample: Sample
    number: int
    text: Callable[[], str]
    pictures: Pictures
    seed: int


@dataclass(frozen=True, slots=True)
class TeacherReply:
    """What came back, for images of these ``sizes``; tokens are None where nobody counted them.

    ``latency_s`` is from the request to the reply.
    """

    text: str
    finish: Literal["stop", "length"]
    sizes: tuple[EncodedSize, ...]
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_s: float = 0.0


Answerer = Callable[[TeacherRequest, str], Awaitable[TeacherReply]]
"""One reply to a text that the request wrote; tried once.

Raises ``NoReply`` where none came, ``DataError`` where this request cannot be made,
``EndpointError`` where none can.
"""


@asynccontextmanager
async def opened(
    teacher: Teacher, *, temperature: float, max_tokens: int
) -> AsyncIterator[Answerer]:
    """The teacher of the settings; raises ``EndpointError`` where its server cannot be used.

    Without a server it is the embedded one; raises ``ConfigError`` where another is named.
    """
    if teacher.url is None:
        if teacher.model != embedded.NAME:
            raise ConfigError(
                f"teacher.model is {teacher.model}, and no server is named that has it; set "
                "teacher.url, as http://127.0.0.1:8000/v1"
            )
        yield _from_data
        return
    endpoint = Endpoint(
        url=teacher.url,
        model=teacher.model,
        concurrency=teacher.concurrency,
        timeout_s=teacher.timeout_s,
        retries=teacher.retries,
    )
    async with aclosing(Client(endpoint)) as client:
        await _check(client, teacher)
        yield _Served(endpoint, client, temperature, max_tokens).reply


async def _check(client: Client, teacher: Teacher) -> None:
    try:
        await client.check()
    except EndpointError as error:
        if teacher.model != embedded.NAME:
            raise
        found = str(error).removesuffix(f", not {embedded.NAME}")
        raise EndpointError(f"teacher.model is missing; {found}") from None


async def _from_data(request: TeacherRequest, text: str) -> TeacherReply:
    """From the data itself; the text is not read, and nothing is spent."""
    written = embedded.chain(request.sample, request.number)
    return TeacherReply(written, "stop", request.pictures.sizes, 0, 0)


@dataclass(frozen=True, slots=True)
class _Served:
    endpoint: Endpoint
    client: Client
    temperature: float
    max_tokens: int

    async def reply(self, request: TeacherRequest, text: str) -> TeacherReply:
        """From the server; images that it finds too large are halved for the next try."""
        check_plain(text)
        sent = await request.pictures.sent()
        begin = time.monotonic()
        try:
            reply = await self.client.ask_once(
                sent.urls,
                text,
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                seed=request.seed,
            )
        except NoReply as error:
            self._check_usable(error)
            if error.status == _TOO_LARGE and request.pictures.halve(sent):
                raise NoReply(str(error), status=_TOO_LARGE, retry_after_s=0.0) from None
            raise
        took = round(time.monotonic() - begin, 4)
        tokens = reply.num_prompt_tokens, reply.num_tokens
        return TeacherReply(reply.text, reply.finish, sent.sizes, *tokens, latency_s=took)

    def _check_usable(self, error: NoReply) -> None:
        if advice := _ADVICE.get(error.status or 0):
            raise EndpointError(
                f"{self.endpoint.url}: {str(error).rstrip('.')}; "
                f"{advice.format(model=self.endpoint.model)}, then run the same command again: "
                "answers so far are kept"
            ) from None


_TOO_LARGE = 413

# What no retry and no other request would change, by status. A quota (429) is not among them: to
# Alibaba's hosted Qwen-VL it may be that of a minute.
_ADVICE = {
    401: "see that OPENAI_API_KEY is the key of this server",
    402: "see to the account",
    403: "see that OPENAI_API_KEY is the key of this server and may use {model}",
    404: "see that the address ends as in http://127.0.0.1:8000/v1, and that it serves {model}",
}
