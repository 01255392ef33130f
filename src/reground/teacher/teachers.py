"""The two teachers: a server that speaks OpenAI's protocol, and the embedded one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from reground.errors import ConfigError, EndpointError
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample
from reground.rollout.completions import Reply
from reground.rollout.endpoint import Client, Endpoint
from reground.rollout.http import NoReply
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
    """A reply to images of these ``sizes``, ``latency_s`` after the request."""

    reply: Reply
    sizes: tuple[EncodedSize, ...]
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
        try:
            await client.check()
        except EndpointError as error:
            if teacher.model != embedded.NAME:
                raise
            found = str(error).removesuffix(f", not {embedded.NAME}")
            raise EndpointError(f"teacher.model is missing; {found}") from None
        yield partial(_from_server, client, endpoint, temperature, max_tokens)


async def _from_data(request: TeacherRequest, text: str) -> TeacherReply:
    """From the data itself; the text is not read, and nothing is spent."""
    written = embedded.chain(request.sample, request.number)
    return TeacherReply(Reply(written, 0, "stop", num_prompt_tokens=0), request.pictures.sizes)


async def _from_server(
    client: Client,
    endpoint: Endpoint,
    temperature: float,
    max_tokens: int,
    request: TeacherRequest,
    text: str,
) -> TeacherReply:
    """From the server; images that it finds too large are halved for the next try."""
    sent = await request.pictures.sent()
    begin = time.monotonic()
    try:
        reply = await client.ask_once(
            sent.urls, text, temperature=temperature, max_tokens=max_tokens, seed=request.seed
        )
    except NoReply as error:
        if advice := _ADVICE.get(error.status or 0):
            raise EndpointError(
                f"{endpoint.address}: {str(error).rstrip('.')}; "
                f"{advice.format(model=endpoint.model)}, then run the same command again: answers "
                "so far are kept"
            ) from None
        if error.status == _TOO_LARGE and request.pictures.halve(sent):
            raise NoReply(str(error), status=_TOO_LARGE, retry_after_s=0.0) from None
        raise
    return TeacherReply(reply, sent.sizes, latency_s=round(time.monotonic() - begin, 4))


_TOO_LARGE = 413

# What no retry and no other request would change, by status. A quota (429) is not among them: to
# Alibaba's hosted Qwen-VL it may be that of a minute.
_ADVICE = {
    401: "see that OPENAI_API_KEY is the key of this server",
    402: "see to the account",
    403: "see that OPENAI_API_KEY is the key of this server and may use {model}",
    404: "see that the address ends as in http://127.0.0.1:8000/v1, and that it serves {model}",
}
