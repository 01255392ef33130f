"""A model behind an OpenAI-compatible server: one user turn of images and text, and its reply.

The reply may be asked for in parts, with text of ours between them.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import openai
from PIL import Image

from reground.data.images import data_url
from reground.errors import DataError, EndpointError
from reground.patience import retry_after_s

_GO_ON = {"continue_final_message": True, "add_generation_prompt": False}

_PASSING = (408, 409, 429)  # and 5xx: what the same request may get past

_CHECK_S = 30.0  # in which a server says what it serves

# Of texts that a server may strip or rewrite: a thought, and a line break at the end.
_SAID = "<think>a</think>\nb\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a server is and how hard it is asked.

    ``model`` is the name under which it serves. A request without a reply within ``timeout_s``
    seconds, a refused connection and a status 408, 409, 429 or 5xx are tried again ``retries``
    times, after as long as Retry-After says (two minutes at most) or ever longer pauses. The key
    is read from the environment's OPENAI_API_KEY.
    """

    url: str
    model: str
    concurrency: int = 8
    timeout_s: float = 300.0
    retries: int = 4


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model wrote.

    ``at_stop`` is whether it ended at the stop string; None where the server does not say.
    """

    text: str
    num_tokens: int | None
    finish: Literal["stop", "length"]
    at_stop: bool | None = None
    num_prompt_tokens: int | None = None


class NoReply(Exception):
    """A request that got no usable reply; the message is the reason.

    ``status`` is the server's, if it answered with one that is no success. ``may_pass`` is whether
    the same request may get a reply later, after ``retry_after_s`` seconds where the server says
    so. What the useless reply took is in ``num_prompt_tokens`` and ``num_tokens``.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        may_pass: bool = True,
        retry_after_s: float | None = None,
        num_prompt_tokens: int = 0,
        num_tokens: int = 0,
    ) -> None:
        super().__init__(reason)
        self.status, self.may_pass, self.retry_after_s = status, may_pass, retry_after_s
        self.num_prompt_tokens, self.num_tokens = num_prompt_tokens, num_tokens


def check_plain(text: str) -> None:
    """Raise ``DataError`` for a text in which a server would read a special token.

    In process such a text is plain.
    """
    if found := re.search(r"<\|\w+\|>", text):
        raise DataError(f"the question holds {found[0]}, which a server takes for a special token")


class Client:
    """Asks an endpoint; to be closed by ``aclose``. No error of it tells the key."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._extra: dict[str, Any] = {}  # options of every request
        self._whole: dict[str, Any] = {}  # those that leave a part of a reply as it was sampled
        self._key = os.environ.get("OPENAI_API_KEY")
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.url,
            api_key=self._key or "none",
            timeout=endpoint.timeout_s,
            max_retries=endpoint.retries,
        )

    async def check(self) -> None:
        """Raise ``EndpointError`` where no server is, or it does not serve the model.

        A wrong address is soon known: this is tried twice, however patient later requests are.
        A vLLM server is from now on asked to keep special tokens, with which some families mark
        boxes, and not to use the repetition penalty of a checkpoint's generation config.
        """
        if not self._endpoint.url.startswith(("http://", "https://")):
            raise EndpointError(
                f"{self._endpoint.url}: expected an address such as http://127.0.0.1:8000/v1"
            )
        timeout_s = min(self._endpoint.timeout_s, _CHECK_S)
        client = self._client.with_options(
            max_retries=min(self._endpoint.retries, 1), timeout=timeout_s
        )
        try:
            served = {model.id: model async for model in client.models.list()}
        except openai.NotFoundError:  # an API of completions alone
            return
        except (ValueError, TypeError, AttributeError):  # what the client makes of another page
            raise EndpointError(
                f"{self._endpoint.url}: answers, but not as OpenAI's API does; expected an address "
                "such as http://127.0.0.1:8000/v1"
            ) from None
        except openai.OpenAIError as error:
            raise EndpointError(
                f"{self._endpoint.url}: {self._said(error).rstrip('.')}; see that the address is "
                "right, the server runs, and OPENAI_API_KEY is its key"
            ) from None
        name = self._endpoint.model
        if name not in served:
            found = ", ".join(served) or "no model"
            raise EndpointError(f"{self._endpoint.url}: serves {found}, not {name}")
        if served[name].owned_by == "vllm":
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
                f"{self._endpoint.url}: does not go on within a turn of the assistant just as it "
                f"is sent ({found}); expected a server that knows continue_final_message, such as "
                "vLLM or SGLang, and a chat template that leaves the turn alone; or ask under "
                "another protocol, such as piter"
            )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def ask(
        self,
        images: Sequence[Image.Image],
        text: str,
        *,
        temperature: float,
        max_tokens: int,
        stop: str | None = None,
        so_far: str = "",
    ) -> Reply:
        """One reply to RGB images, sent without loss in this order, and then ``text``.

        The reply ends at the string ``stop``, which vLLM leaves in the text and other servers may
        take off. It goes on from ``so_far``, where the server can (:meth:`check_goes_on`). Raises
        ``NoReply`` where no complete reply came, however often it was tried.
        """
        urls = await asyncio.to_thread(lambda: [data_url(image) for image in images])
        is_part = bool(stop or so_far)
        options: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
        if is_part:
            options |= self._whole | ({"stop": [stop]} if stop else {})
        completion = await self._complete(self._client, urls, text, so_far, options)
        return _reply(completion, stop=stop, is_part=is_part)

    async def ask_once(
        self, urls: Sequence[str], text: str, *, temperature: float, max_tokens: int, seed: int
    ) -> Reply:
        """One reply to images as :func:`data_url` writes them, then ``text``; tried once.

        For callers that count and pace every request. Raises ``NoReply`` as :meth:`ask` does.
        """
        client = self._client.with_options(max_retries=0)
        options = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        try:
            async with asyncio.timeout(self._endpoint.timeout_s):  # of the whole reply, not a part
                completion = await self._complete(client, urls, text, "", options)
        except TimeoutError:
            raise NoReply(f"no reply within {self._endpoint.timeout_s:g} s") from None
        return _reply(completion, stop=None, is_part=False)

    async def _num_read(self, said: str) -> int:
        """How many tokens the server reads of a question and the begin of an answer; 0: unsaid."""
        options = {"temperature": 0.0, "max_tokens": 1}
        completion = await self._complete(self._client, [], "?", said, options)
        usage = getattr(completion, "usage", None)
        return (usage and usage.prompt_tokens) or 0

    async def _complete(
        self,
        client: openai.AsyncOpenAI,
        urls: Sequence[str],
        text: str,
        so_far: str,
        options: dict[str, Any],
    ) -> Any:
        """A reply with choices; the server goes on from ``so_far``, which is the assistant's."""
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        messages: list[Any] = [
            {"role": "user", "content": [*content, {"type": "text", "text": text}]}
        ]
        if so_far:
            messages.append({"role": "assistant", "content": so_far})
            options = options | _GO_ON
        try:
            completion = await client.chat.completions.create(
                model=self._endpoint.model, messages=messages, extra_body=self._extra | options
            )
        except openai.APITimeoutError:
            raise NoReply(f"no reply within {self._endpoint.timeout_s:g} s") from None
        except openai.APIStatusError as error:
            raise NoReply(
                f"status {error.status_code}: {self._said(error)}",
                status=error.status_code,
                may_pass=error.status_code in _PASSING or error.status_code >= 500,
                retry_after_s=retry_after_s(error.response.headers.get("retry-after", "")),
            ) from None
        except (openai.OpenAIError, ValueError) as error:
            raise NoReply(f"{type(error).__name__}: {self._said(error)}") from None
        if not getattr(completion, "choices", None):
            raise NoReply(f"the reply holds no choices: {self._said(completion)}")
        return completion

    def _said(self, error: object) -> str:
        """The first line of an error, without the key, which some servers repeat."""
        line = (str(error).strip().splitlines() or [""])[0]
        return (line.replace(self._key, "(the key)") if self._key else line)[:300]


def _reply(completion: Any, *, stop: str | None, is_part: bool) -> Reply:
    """The reply in a completion, of which a careless server may have left out anything."""
    choices = completion.choices
    usage = getattr(completion, "usage", None)
    num_read, num_tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
    text, finish = choices[0].message.content, choices[0].finish_reason
    if finish not in ("stop", "length") or text is None:
        reason = f"the reply ended with {finish!r}, expected 'stop' or 'length'"
        raise NoReply(
            "the reply holds no text" if finish in ("stop", "length") else reason,
            may_pass=False,
            num_prompt_tokens=num_read or 0,
            num_tokens=num_tokens or 0,
        )
    if is_part:
        _check_part(choices[0].message, usage)
    return Reply(text, num_tokens, finish, _at_stop(choices[0], stop), num_read)


def _check_part(message: object, usage: object) -> None:
    """What goes on needs all that was written, and how many tokens that took."""
    if getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None):
        raise NoReply("the thoughts were taken out of the reply; serve without a reasoning parser")
    if usage is None:
        raise NoReply("the reply does not say how many tokens it has ('usage')")


def _at_stop(choice: object, stop: str | None) -> bool | None:
    """By what vLLM and SGLang name as the reason: a string, an end token's id, or nothing."""
    for name in ("stop_reason", "matched_stop"):
        if hasattr(choice, name):
            return stop is not None and getattr(choice, name) == stop
    return None
