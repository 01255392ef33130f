"""A vLLM server as the engine: `vllm serve` with the worker extension of :mod:`.worker`."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from reground.disk import room_in
from reground.errors import EngineError
from reground.model.chat import Chat
from reground.rollout.engine.asking import Asked, check_ids, check_version, finish, parameters
from reground.rollout.engine.pictures import collapsed, picture
from reground.rollout.policy import Completion, Sampling

CONCURRENCY = 64
CONNECT_S = 30.0  # a machine that is gone does not even refuse
START = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --enable-scale-out --logprobs-mode processed_logprobs "
    "--generation-config vllm --worker-extension-cls reground.rollout.engine.worker.WeightWriter"
)


class Server:
    """The server at ``url``, which shares the folder ``exchange`` with the trainer.

    Raises ``EngineError`` where it does not answer, was not started as ``START`` says, or takes
    longer than ``timeout_s`` seconds.
    """

    def __init__(self, chat: Chat, url: str, *, exchange: Path, timeout_s: float) -> None:
        self._chat, self._url, self._exchange = chat, url.removesuffix("/v1"), exchange
        self._banned = chat.tokenizer.convert_ids_to_tokens(list(chat.banned_ids))
        patience = httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S))
        self._client = httpx2.Client(base_url=self._url, timeout=patience)
        check_version(self._sent("GET", "/version")["version"])
        self._sent("POST", "/reset_prefix_cache")

    def complete(self, asked: Sequence[Asked], sampling: Sampling) -> list[list[Completion]]:
        """Completions of each prompt; raises ``EngineError`` where other ids were read."""
        with ThreadPoolExecutor(CONCURRENCY) as workers:
            return list(workers.map(lambda each: self._completions(each, sampling), asked))

    def write(self, state: Mapping[str, Tensor], *, new_vision: bool) -> None:
        """Hand the weights over in a file, each parameter once, and reset caches.

        All ranks of a run call, and the first one does it.
        """
        several = torch.distributed.is_initialized()
        if not several or torch.distributed.get_rank() == 0:
            self._hand_over(state, new_vision=new_vision)
        if several:
            torch.distributed.barrier()

    def _hand_over(self, state: Mapping[str, Tensor], *, new_vision: bool) -> None:
        self._exchange.mkdir(parents=True, exist_ok=True)
        path = self._exchange / "weights.safetensors"
        own = {name: _alone(each) for name, each in state.items()}
        with room_in(self._exchange):
            save_file(own, path)
        try:
            where = os.path.abspath(path)
            reply = self._sent("POST", "/collective_rpc", method="write_weights", args=[where])
        finally:
            path.unlink(missing_ok=True)
        for complaint in filter(None, reply["results"]):
            raise EngineError(f"{self._url}: {complaint}")
        self._sent("POST", "/reset_prefix_cache")
        if new_vision:
            self._sent("POST", "/reset_encoder_cache")

    def rest(self) -> bool:
        """Nothing: the server has devices of its own."""
        return False

    def close(self) -> None:
        """Hang up; the server goes on."""
        self._client.close()

    def _completions(self, asked: Asked, sampling: Sampling) -> list[Completion]:
        urls = [_url(picture(image, self._chat)) for image in asked.images]
        answer = self._sent(
            "POST",
            "/inference/v1/generate",
            token_ids=collapsed(asked.ids, asked.images, self._chat),
            content_parts=[{"type": "image_url", "url": url} for url in urls] or None,
            sampling_params=parameters(asked, sampling, self._banned),
            return_token_ids=True,
        )
        check_ids(asked, answer["prompt_token_ids"])
        return [_completion(choice) for choice in answer["choices"]]

    def _sent(self, verb: str, path: str, **body: Any) -> Any:
        try:
            reply = self._client.request(verb, path, json=body or None)
        except httpx2.HTTPError as error:
            raise self._failed(path, str(error) or type(error).__name__) from None
        if reply.status_code == 404:
            raise EngineError(f"{self._url}: knows no {path}; expected one started as\n  {START}")
        if reply.is_error:
            raise self._failed(path, f"{reply.status_code} {reply.text[:500]}")
        return reply.json() if reply.content else None

    def _failed(self, path: str, how: str) -> EngineError:
        return EngineError(
            f"{self._url}{path}: {how}; see in the server's output why, start it again as\n"
            f"  {START}\nand give the same command again, with --resume where the run had begun: "
            "what was saved before is whole"
        )


def _alone(tensor: Tensor) -> Tensor:
    """A copy in memory of its own: the file format refuses tied weights."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)  # lossless
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _completion(choice: Mapping[str, Any]) -> Completion:
    logprobs = tuple(step["logprob"] for step in choice["logprobs"]["content"])
    ended = finish(choice["finish_reason"], choice["stop_reason"])
    return Completion(tuple(choice["token_ids"]), logprobs, ended)
