"""A model behind an OpenAI-compatible server: one user turn of images and text, one reply."""

from __future__ import annotations

import asyncio
import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import openai
from PIL import Image

from reground.errors import EndpointError


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
    """What a model wrote."""

    text: str
    num_tokens: int | None
    finish: Literal["stop", "length"]


class NoReply(Exception):
    """A request that got no usable reply; the message is the reason."""


class Client:
    """Asks an endpoint; to be closed by ``aclose``."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._extra: dict[str, Any] = {}
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            timeout=endpoint.timeout_s,
            max_retries=endpoint.retries,
        )

    async def check(self) -> None:
        """Raise ``EndpointError`` where no server is, or it does not serve the model.

        A vLLM server is from now on asked to keep special tokens, with which some families mark
        boxes, and not to use the repetition penalty of a checkpoint's generation config.
        """
        try:
            served = {model.id: model async for model in self._client.models.list()}
        except openai.NotFoundError:  # an API of completions alone
            return
        except (ValueError, TypeError, AttributeError):  # what the client makes of another page
            raise EndpointError(
                f"{self._endpoint.url}: answers, but not as OpenAI's API does; expected an address "
                "such as http://127.0.0.1:8000/v1"
            ) from None
        except openai.OpenAIError as error:
            raise EndpointError(
                f"{self._endpoint.url}: {_first_line(error).rstrip('.')}; see that the address is "
                "right, the server runs, and OPENAI_API_KEY is its key"
            ) from None
        name = self._endpoint.model
        if name not in served:
            found = ", ".join(served) or "no model"
            raise EndpointError(f"{self._endpoint.url}: serves {found}, not {name}")
        if served[name].owned_by == "vllm":
            self._extra = {"skip_special_tokens": False, "repetition_penalty": 1.0}

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def ask(
        self, images: Sequence[Image.Image], text: str, *, temperature: float, max_tokens: int
    ) -> Reply:
        """One reply to RGB images, sent without loss in the order given, and then ``text``.

        Raises ``NoReply`` where no complete reply came, however often it was tried.
        """
        urls = await asyncio.to_thread(lambda: [_data_url(image) for image in images])
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        try:
            completion = await self._client.chat.completions.create(
                model=self._endpoint.model,
                messages=[{"role": "user", "content": [*content, {"type": "text", "text": text}]}],  # type: ignore[list-item,misc]
                temperature=temperature,
                max_tokens=max_tokens,
                extra_body=self._extra,
            )
        except openai.APITimeoutError:
            raise NoReply(f"no reply within {self._endpoint.timeout_s:g} s") from None
        except openai.APIStatusError as error:
            raise NoReply(f"status {error.status_code}: {_first_line(error)}") from None
        except (openai.OpenAIError, ValueError) as error:
            raise NoReply(f"{type(error).__name__}: {_first_line(error)}") from None
        return _reply(completion)


def _reply(completion: object) -> Reply:
    """The reply in a completion, of which a careless server may have left out anything."""
    choices = getattr(completion, "choices", None)
    if not choices:
        raise NoReply(f"the reply holds no choices: {_first_line(completion)}")
    text, finish = choices[0].message.content, choices[0].finish_reason
    if finish not in ("stop", "length"):
        raise NoReply(f"the reply ended with {finish!r}, expected 'stop' or 'length'")
    if text is None:
        raise NoReply("the reply holds no text")
    usage = getattr(completion, "usage", None)
    return Reply(text, usage.completion_tokens if usage else None, finish)


def _data_url(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "png")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
