"""A model behind an OpenAI-compatible server: one user turn of images and text, and its reply.

The reply may be asked for in parts, with text of ours between them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from PIL import Image

from reground.data.images import data_url
from reground.errors import EndpointError
from reground.rollout.chunks import STREAM, Chunks, HeardText
from reground.rollout.completions import REFUSED, Reply, num_read, read_reply, read_served
from reground.rollout.http import Address, JsonClient, NoReply

_EXAMPLE = "http://127.0.0.1:8000/v1"
_CHAT, _MODELS = "/chat/completions", "/models"
_OWN_PATHS = re.compile(r"/(?:chat/completions|chat|completions|models|responses)/?\Z")
_GO_ON = {"continue_final_message": True, "add_generation_prompt": False}

_LOGPROBS = {"logprobs": True}
_MOST_LOGPROBS = 8192  # tokens, at some hundred bytes each
_REFUSALS = (400, 403, 422, 501)  # how servers refuse an option that they do not have

_CHECK_S = 30.0  # in which a server says what it serves
_UNKNOWN = (404, 405, 501)  # a path that a server does not know
_FILTERED = ("content_filter", "content_policy_violation")  # refused before the model, by Azure

# Of texts that a server may strip or rewrite: a thought, and a line break at the end.
_SAID = "<think>a</think>\nb\n"

# What tokenizers and chat templates take for marks of their own: <|im_end|> and <|turn>, <image>
# and </s>, [INST] and [gMASK].
_MARK = re.compile(
    r"<(?=[|\uff5c][^<>\s]*+>|[^<>\s|\uff5c]++[|\uff5c]>|/?+[^\W\d][\w.:\u2581-]*+/?+>|0x[0-9A-Fa-f]{2}>)"
    r"|\[(?=/?+[A-Za-z]?+[A-Z][A-Z_0-9]++\])"
)


def without_marks(text: str) -> str:
    """The text with a space in all that a server might read as a special token.

    In process such a text is plain.

    >>> without_marks("cup<|im_end|> <image> [INST] a < b")
    'cup< |im_end|> < image> [ INST] a < b'
    """
    return _MARK.sub(lambda found: found[0] + " ", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a server is and how hard it is asked.

    ``model`` is the name under which it serves. A request without a reply within ``timeout_s``
    seconds, a refused connection and a status 408, 409, 429 or 5xx are tried again ``retries``
    times, after as long as Retry-After says (two minutes at most) or ever longer pauses. The key
    is read from the environment's OPENAI_API_KEY. Raises ``EndpointError`` for no address.
    """

    url: str = field(repr=False)  # which may hold a key
    model: str
    concurrency: int = 8
    timeout_s: float = 300.0
    retries: int = 4

    def __post_init__(self) -> None:
        _ = self.address

    @property
    def address(self) -> Address:
        """The address, which shows no key."""
        whose = "an OpenAI-compatible server"
        return Address.of(self.url, whose=whose, example=_EXAMPLE, error=EndpointError)


Listen = Callable[[], Chunks]


class Client:
    """Asks an endpoint; to be closed by ``aclose``. No error of it tells the key."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._address = endpoint, endpoint.address
        self._extra: dict[str, Any] = {}  # options of every request
        self._whole: dict[str, Any] = {}  # those that leave a part of a reply as it was sampled
        self._is_known = False  # whether the address is that of the API
        self._gives_logprobs: bool | None = None  # None: nobody knows yet
        self._streams: bool | None = None
        self._http = JsonClient(
            self._address,
            variable="OPENAI_API_KEY",
            timeout_s=endpoint.timeout_s,
            retries=endpoint.retries,
        )

    async def check(self) -> None:
        """Raise ``EndpointError`` where no server is, or it does not serve the model.

        A wrong address is soon known: this is tried twice, however patient later requests are.
        A vLLM server is from now on asked to keep special tokens, with which some families mark
        boxes, and not to use the repetition penalty of a checkpoint's generation config.
        """
        try:
            served = await self._served(self._address)
        except NoReply as error:
            reason = str(error).rstrip(".")
            if error.status in _UNKNOWN or (error.status is None and not error.may_pass):
                await self._look_around(reason)
            if error.status in _UNKNOWN:  # an API of completions alone
                return
            raise EndpointError(
                f"{self._address}: {reason}; see that the address is right (as {_EXAMPLE}), the "
                "server runs, and OPENAI_API_KEY is its key",
                help="a-server-that-does-not-answer",
            ) from None
        name = self._endpoint.model
        if name not in served:
            found = self._http.quoted(", ".join(served)) or "no model"
            raise EndpointError(
                f"{self._address}: serves {found}, not {name}", help="a-server-that-does-not-answer"
            )
        self._is_known = True
        if served[name] == "vllm":
            self._extra = {"skip_special_tokens": False, "repetition_penalty": 1.0}
            self._whole = {"include_stop_str_in_output": True}

    async def check_goes_on(self) -> None:
        """Raise ``EndpointError`` where the server does not go on from the words that it is sent.

        The same words, once and twice, must lengthen its prompt by as many tokens each. They do not
        where a server ends the turn after them, or its chat template strips or rewrites them.
        """
        try:
            none, once, twice = [await self._num_read(_SAID * times) for times in range(3)]
            first, second = once - none, twice - once
            found = f"the same words lengthened its prompt by {first}, then by {second} tokens"
            goes_on = 0 < first == second
        except NoReply as error:
            found, goes_on = str(error).rstrip("."), False
        if not goes_on:
            raise EndpointError(
                f"{self._address}: does not go on within a turn of the assistant just as it "
                f"is sent ({found}); expected a server that knows continue_final_message, such as "
                "vLLM or SGLang, and a chat template that leaves the turn alone; or ask under "
                "another protocol, such as piter"
            )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def ask(
        self,
        images: Sequence[Image.Image],
        text: str,
        *,
        temperature: float,
        max_tokens: int,
        stop: str | None = None,
        so_far: str = "",
        thinks: bool = False,
        heard: HeardText | None = None,
    ) -> Reply:
        """One reply to RGB images, sent without loss in this order, and then ``text``.

        The reply ends at the string ``stop``, which vLLM leaves in the text and other servers may
        take off. It goes on from ``so_far``, where the server can (:meth:`check_goes_on`).
        ``thinks`` is :func:`read_reply`'s. ``heard`` is told the text, after ``so_far``, as it
        grows, where the server streams. Raises ``NoReply`` where none came, however often it was
        tried.
        """
        urls = await asyncio.to_thread(lambda: [data_url(image) for image in images])
        options: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
        if stop or so_far:
            options |= self._whole | ({"stop": [stop]} if stop else {})
        listen = self._listen(heard and (lambda more: heard(so_far + more)), thinks)
        completion = await self._with_logprobs(urls, text, options, so_far, listen)
        return read_reply(completion, stop=stop, thinks=thinks)

    async def ask_once(
        self, urls: Sequence[str], text: str, *, temperature: float, max_tokens: int, seed: int
    ) -> Reply:
        """One reply to images as :func:`data_url` writes them, then ``text``; tried once.

        For callers that count and pace every request. Raises ``NoReply`` as :meth:`ask` does.
        """
        options = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        return read_reply(await self._complete(urls, text, options, retries=0), thinks=True)

    async def _with_logprobs(
        self,
        urls: Sequence[str],
        text: str,
        options: dict[str, Any],
        so_far: str,
        listen: Listen | None,
    ) -> Any:
        """A completion with the log-probs of its tokens, as long as the server does not refuse.

        Of a long one they would not fit into a reply.
        """
        complete = partial(self._complete, urls, text, so_far=so_far, listen=listen)
        if self._gives_logprobs is not False and options["max_tokens"] <= _MOST_LOGPROBS:
            try:
                found = await complete(options | _LOGPROBS)
            except NoReply as error:
                if self._gives_logprobs or error.status not in _REFUSALS:
                    raise
            else:
                self._gives_logprobs = True
                return found
            plain = await complete(options)
            self._gives_logprobs = False
            return plain
        return await complete(options)

    async def pass_on(
        self, messages: Sequence[Any], options: dict[str, Any], *, heard: HeardText | None = None
    ) -> Reply:
        """One reply to somebody's messages with his options; ``heard``, errors as :meth:`ask`."""
        return read_reply(await self._sent(messages, options, listen=self._listen(heard, False)))

    def _listen(self, heard: HeardText | None, thinks: bool) -> Listen | None:
        """What puts a stream together for the one who hears it."""
        return heard and partial(Chunks, heard, thinks=thinks, quoted=self._http.quoted)

    async def _num_read(self, said: str) -> int:
        """How many tokens the server reads of a question and the begin of an answer; 0: unsaid."""
        options = {"temperature": 0.0, "max_tokens": 1}
        return num_read(await self._complete([], "?", options, so_far=said))

    async def _complete(
        self,
        urls: Sequence[str],
        text: str,
        options: dict[str, Any],
        *,
        so_far: str = "",
        retries: int | None = None,
        listen: Listen | None = None,
    ) -> Any:
        """A completion; the server goes on from ``so_far``, which is the assistant's."""
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        messages: list[Any] = [
            {"role": "user", "content": [*content, {"type": "text", "text": text}]}
        ]
        if so_far:
            messages.append({"role": "assistant", "content": so_far})
            options = options | _GO_ON
        return await self._sent(messages, options, retries=retries, listen=listen)

    async def _sent(
        self,
        messages: Sequence[Any],
        options: dict[str, Any],
        *,
        retries: int | None = None,
        listen: Listen | None = None,
    ) -> Any:
        body = {"model": self._endpoint.model, "messages": messages, **self._extra, **options}
        try:
            found = await self._posted(body, retries, listen)
        except NoReply as error:
            if error.code in _FILTERED:
                return REFUSED
            if error.status in _UNKNOWN and not self._is_known:
                await self._look_around(str(error).rstrip("."), body)
            raise
        self._is_known = True
        return found

    async def _posted(self, body: Any, retries: int | None, listen: Listen | None) -> Any:
        """A completion, in chunks for the one who listens, as long as the server has streams."""
        post = partial(self._http.ask, "POST", self._address.at(_CHAT), retries=retries)
        if listen is None or self._streams is False:
            return await post(body)
        chunks = listen()
        try:
            await self._http.send(
                "POST", self._address.at(_CHAT), body | STREAM, retries=retries, hears=chunks.take
            )
        except NoReply as error:
            if self._streams or error.status not in _REFUSALS:
                raise
            found = await post(body)
            self._streams = False
            return found
        self._streams = True
        return chunks.whole()

    async def _served(self, address: Address) -> dict[str, object]:
        """The models that a server at this address serves, each with its owner."""
        timeout_s, retries = min(self._endpoint.timeout_s, _CHECK_S), min(self._endpoint.retries, 1)
        content = await self._http.send(
            "GET", address.at(_MODELS), timeout_s=timeout_s, retries=retries
        )
        try:
            return read_served(self._http.parsed(content))
        except NoReply as error:
            reason = f"answers, but not as OpenAI's API does ({error})"
            raise NoReply(reason, may_pass=False) from None

    async def _look_around(self, reason: str, body: Any = None) -> None:
        """Raise ``EndpointError`` where the API is near the address; a ``body`` is asked there."""
        for other in self._others():
            try:
                if body is None:
                    await self._served(other)
                else:
                    await self._http.send("POST", other.at(_CHAT), body, retries=0)
            except NoReply as error:
                if body is None or error.status is None or error.status in _UNKNOWN:
                    continue
            raise EndpointError(
                f"{self._address}: is not the address of the API ({reason}); give {other}, where "
                "it is",
                help="a-server-that-does-not-answer",
            )

    def _others(self) -> list[Address]:
        """Addresses that may be meant: without the path of a request, and with /v1."""
        own = self._address.url.raw_path.decode().partition("?")[0].rstrip("/")
        base = _OWN_PATHS.sub("", own)
        paths = [path for path in (base, f"{base.removesuffix('/v1')}/v1") if path != own]
        return [self._address.at(path, instead=True) for path in paths]
