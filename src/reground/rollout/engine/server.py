"""A vLLM server as the engine: `vllm serve` with the weight transfer of :mod:`.worker`."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import torch
from PIL import Image

from reground.errors import EngineError
from reground.model.chat import Chat
from reground.rollout.engine.asking import (
    Asked,
    check_ids,
    check_pictures,
    check_version,
    finish,
    parameters,
)
from reground.rollout.engine.link import CONNECT_S
from reground.rollout.engine.pictures import collapsed
from reground.rollout.engine.sender import Sender
from reground.rollout.engine.weights import Source
from reground.rollout.policy import Completion, Sampling

CONCURRENCY = 64
_HEALTH_S = 5.0
START = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --enable-scale-out --logprobs-mode processed_logprobs "
    "--generation-config vllm --weight-transfer-config.backend reground"
)


class Server:
    """The server at ``url``, to which the first rank of a run sends weights from its ``device``.

    Raises ``EngineError`` where it does not answer, was not started as ``START`` says, or takes
    longer than ``timeout_s`` seconds, and ``ModelError`` for a model type that it cannot sample.
    """

    def __init__(self, chat: Chat, url: str, *, device: torch.device, timeout_s: float) -> None:
        check_pictures(chat)
        self._chat, self.url = chat, url.removesuffix("/v1")
        # A machine that is gone does not even refuse.
        patience = httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S))
        self._client = httpx2.Client(base_url=self.url, timeout=patience)
        check_version(self.ask("GET", "/version")["version"])
        self.ask("POST", "/reset_prefix_cache")
        self._several = torch.distributed.is_initialized()
        self._sender = None
        if not self._several or torch.distributed.get_rank() == 0:
            self._sender = Sender(self, device=device, timeout_s=timeout_s)

    def complete(self, asked: Sequence[Asked], sampling: Sampling) -> list[list[Completion]]:
        """Completions of each prompt; raises ``EngineError`` where other ids were read."""
        with ThreadPoolExecutor(CONCURRENCY) as workers:
            return list(workers.map(lambda each: self._completions(each, sampling), asked))

    def write(self, source: Source, *, new_vision: bool) -> None:
        """Send the weights, each parameter once, and reset caches.

        All ranks of a run call and gather each weight, which the first one sends.
        """
        if self._sender:
            self._sender.send(source)
            self.ask("POST", "/reset_prefix_cache")
            if new_vision:
                self.ask("POST", "/reset_encoder_cache")
        else:
            for _ in source:
                pass
        if self._several:
            torch.distributed.barrier()

    def rest(self) -> bool:
        """Nothing: the server has devices of its own."""
        return False

    def close(self) -> None:
        """Hang up; the server goes on."""
        if self._sender:
            self._sender.close()
        self._client.close()

    def _completions(self, asked: Asked, sampling: Sampling) -> list[Completion]:
        urls = [_url(self._chat.picture(image)) for image in asked.images]
        answer = self.ask(
            "POST",
            "/inference/v1/generate",
            token_ids=collapsed(asked.ids, asked.images, self._chat),
            content_parts=[{"type": "image_url", "url": url} for url in urls] or None,
            sampling_params=parameters(asked, sampling, self._chat),
            return_token_ids=True,
        )
        check_ids(asked, answer["prompt_token_ids"])
        return [_completion(choice) for choice in answer["choices"]]

    def ask(self, verb: str, path: str, **body: Any) -> Any:
        """The reply of a path; raises ``EngineError``."""
        try:
            reply = self._client.request(verb, path, json=body or None)
        except httpx2.HTTPError as error:
            raise self.failed(path, str(error) or type(error).__name__) from None
        if reply.status_code == 404:
            raise EngineError(f"{self.url}: knows no {path}; expected one started as\n  {START}")
        if reply.is_error:
            raise self.failed(path, f"{reply.status_code} {reply.text[:500]}")
        return reply.json() if reply.content else None

    def healthy(self) -> bool:
        """Whether the server's engine lives, as far as it says."""
        try:
            return not self._client.get("/health", timeout=_HEALTH_S).is_error
        except httpx2.TimeoutException:
            return True
        except httpx2.HTTPError:
            return False

    def failed(self, path: str, how: str) -> EngineError:
        """What to raise where a path failed."""
        return EngineError(
            f"{self.url}{path}: {how}; see in the server's output why, start it again as\n"
            f"  {START}\nand give the same command again, with --resume where the run had begun: "
            "what was saved before is whole"
        )


def _url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)  # lossless
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _completion(choice: Mapping[str, Any]) -> Completion:
    logprobs = tuple(step["logprob"] for step in choice["logprobs"]["content"])
    ended = finish(choice["finish_reason"], choice["stop_reason"])
    return Completion(tuple(choice["token_ids"]), logprobs, ended)
