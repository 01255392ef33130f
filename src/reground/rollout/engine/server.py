"""A vLLM server as the engine: `vllm serve` with the weight transfer of :mod:`.worker`."""

from __future__ import annotations

import asyncio
import math
import secrets
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

import torch

from reground.data.images import data_url
from reground.errors import EngineError
from reground.model.chat import Chat
from reground.rollout.engine.link import Gone, Link, Lost, offered, own_address, until
from reground.rollout.engine.policy import EngineRequest, check_pictures, check_version, finish
from reground.rollout.engine.weights import Weights
from reground.rollout.http import Address, JsonClient, Late, NoReply, escaped
from reground.rollout.policy import Completion, Sampling

CONCURRENCY = 64
_GENERATE = "/inference/v1/generate"
START = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --enable-scale-out --logprobs-mode processed_logprobs "
    "--generation-config vllm --weight-transfer-config.backend reground"
)
_HEALTH_S = 5.0
_MOST_SHOWN = 300  # characters of what the server says of itself
_MOST_BYTES = 500_000_000  # of a reply: every token comes with its log-prob
_Fact = TypeVar("_Fact", str, int)
_UNFINISHED = "unfinished"  # begins the version of weights that a lost trainer left


class Server:
    """The server at ``url``, to which the first rank of a run sends weights from its ``device``.

    Raises ``EngineError`` where it does not answer, was not started as ``START`` says, or takes
    longer than ``timeout_s`` seconds, and ``ModelError`` for a model type that it cannot sample.
    """

    def __init__(self, chat: Chat, url: str, *, device: torch.device, timeout_s: float) -> None:
        check_pictures(chat)
        self._chat = chat
        self._http = _Http(url.rstrip("/").removesuffix("/v1"), timeout_s)
        check_version(self._http.fact("/version", "version", str))
        self._http.ask("POST", "/reset_prefix_cache")
        self._several = torch.distributed.is_initialized()
        self._sender = None
        if not self._several or torch.distributed.get_rank() == 0:
            self._sender = _Sender(self._http, device=device, timeout_s=timeout_s)

    def complete(
        self, requests: Sequence[EngineRequest], sampling: Sampling
    ) -> list[list[Completion]]:
        """Completions of each prompt; raises ``EngineError`` where other ids were read."""
        return asyncio.run(self._complete(requests, sampling))

    def write(self, weights: Weights, *, new_vision: bool) -> None:
        """Send the weights, each parameter once, and reset caches.

        All ranks of a run call and gather each weight, which the first one sends.
        """
        if self._sender:
            self._sender.send(weights)
            self._http.ask("POST", "/reset_prefix_cache")
            if new_vision:
                self._http.ask("POST", "/reset_encoder_cache")
        else:
            for _ in weights:
                pass
        if self._several:
            torch.distributed.barrier()

    def rest(self) -> bool:
        """Nothing: the server has devices of its own."""
        return False

    def close(self) -> None:
        """Hang up; the server goes on."""
        if self._sender:
            self._sender.link.close()

    async def _complete(
        self, requests: Sequence[EngineRequest], sampling: Sampling
    ) -> list[list[Completion]]:
        places = asyncio.Semaphore(CONCURRENCY)
        async with aclosing(self._http.client()) as client:

            async def complete(request: EngineRequest) -> list[Completion]:
                async with places:
                    body = await asyncio.to_thread(self._body, request, sampling)
                    answer = await self._http.asked(client, "POST", _GENERATE, body)
                    return self._completions(answer, request)

            return await asyncio.gather(*map(complete, requests))

    def _body(self, request: EngineRequest, sampling: Sampling) -> dict[str, Any]:
        urls = [data_url(self._chat.picture(image)) for image in request.images]
        return {
            "token_ids": request.ids_to_send(self._chat),
            "content_parts": [{"type": "image_url", "url": url} for url in urls] or None,
            "sampling_params": request.parameters(sampling, self._chat),
            "return_token_ids": True,
        }

    def _completions(self, answer: Any, request: EngineRequest) -> list[Completion]:
        try:
            read = _ids(answer["prompt_token_ids"])
            completions = [_completion(choice) for choice in answer["choices"]]
        except (KeyError, TypeError, ValueError, OverflowError):
            raise self._http.failed(_GENERATE, "its reply is not such as vLLM's") from None
        request.check_read(read)
        if len(completions) != request.n:
            found = f"it sent {len(completions)} completions of {request.n}"
            raise self._http.failed(_GENERATE, found)
        return completions


class _Http:
    """Asks the server at ``url``."""

    def __init__(self, url: str, timeout_s: float) -> None:
        example = "http://127.0.0.1:8000"
        self.address = Address.of(url, whose="a vLLM server", example=example, error=EngineError)
        self._timeout_s = timeout_s

    def client(self) -> JsonClient:
        """A client for one event loop; to be closed."""
        return JsonClient(
            self.address, variable=None, timeout_s=self._timeout_s, max_bytes=_MOST_BYTES
        )

    def ask(self, verb: str, path: str, **body: Any) -> Any:
        """The reply of a path; raises ``EngineError``."""

        async def ask() -> Any:
            async with aclosing(self.client()) as client:
                return await self.asked(client, verb, path, body or None)

        return asyncio.run(ask())

    async def asked(self, client: JsonClient, verb: str, path: str, body: Any) -> Any:
        """The reply of a path, None for an empty one; raises ``EngineError``."""
        try:
            content = await client.send(verb, self.address.at(path), body)
            return client.parsed(content) if content else None
        except NoReply as error:
            if error.status == 404:
                started = f"expected one started as\n  {START}"
                raise EngineError(f"{self.address}: knows no {path}; {started}") from None
            raise self.failed(path, str(error)) from None

    def fact(self, path: str, name: str, kind: type[_Fact]) -> _Fact:
        """What the server says of itself; raises ``EngineError``."""
        found = self.ask("GET", path)
        value = found.get(name) if isinstance(found, dict) else None
        value = escaped(value[:_MOST_SHOWN]) if isinstance(value, str) else value
        if type(value) is not kind:  # true is no number
            raise self.failed(path, f"its reply does not say {name}")
        return value

    def healthy(self) -> bool:
        """Whether the server's engine lives, as far as it says."""

        async def look() -> None:
            async with aclosing(self.client()) as client:
                await client.send("GET", self.address.at("/health"), timeout_s=_HEALTH_S)

        try:
            asyncio.run(look())
            return True
        except NoReply as error:
            return isinstance(error, Late)

    def failed(self, path: str, how: str) -> EngineError:
        return EngineError(
            f"{self.address}{path}: {how.rstrip('.')}; see in the server's output why, start it "
            f"again as\n  {START}\nand give the same command again, with --resume where the run "
            "had begun: what was saved before is whole"
        )


class _Sender:
    """The trainer's end of vLLM's weight transfer.

    Connects with all workers of the server, which forget the trainer of before.
    """

    def __init__(self, http: _Http, *, device: torch.device, timeout_s: float) -> None:
        self._http, self._timeout_s = http, timeout_s
        self._turn, self._link_id = 0, secrets.token_hex(8)
        self._workers = http.fact("/get_world_size", "world_size", int)
        if self._workers < 1:
            raise http.failed("/get_world_size", "its reply names no worker")
        if self._version().startswith(_UNFINISHED):
            http.ask("POST", "/finish_weight_update")
        address = own_address(http.address.url.host, http.address.url.port or 80)
        store, size = offered(address), 1 + self._workers
        info = {"address": address, "port": store.port, "size": size, "timeout_s": timeout_s}
        with self._meanwhile(
            "/init_weight_transfer_engine", init_info={**info, "link_id": self._link_id}
        ) as gone:
            self.link = Link(
                store, rank=0, size=size, device=device, timeout_s=timeout_s, gone=gone
            )
        http.ask("POST", "/update_weight_version", new_version=self._name())

    def send(self, weights: Weights) -> None:
        """Give every worker these weights; raises ``EngineError`` where they are not its own."""
        if (found := self._version()) != self._name():
            raise EngineError(
                f"{self._http.address}: its weights are {found}; expected those of this run, "
                f"{self._name()}; another run has connected, or the server was started again: give "
                "each run a server of its own, and the same command again with --resume"
            )
        self._turn += 1
        self._http.ask("POST", "/start_weight_update")
        self._http.ask(
            "POST", "/update_weight_version", new_version=f"{_UNFINISHED} {self._name()}"
        )
        described = list(weights.described())
        info = {
            "link_id": self._link_id,
            "turn": self._turn,
            "names": [name for name, _ in described],
            "dtypes": [str(each.dtype).removeprefix("torch.") for _, each in described],
            "shapes": [list(each.shape) for _, each in described],
        }
        with self._meanwhile("/update_weights", update_info=info) as gone:
            self._from_workers("ready", gone)
            for _, tensor in weights:
                self.link.broadcast(tensor, gone)
            complaints = self._from_workers("written", gone)
        self._http.ask("POST", "/finish_weight_update", weight_version=self._name())
        for complaint in filter(None, complaints):
            raise EngineError(f"{self._http.address}: {complaint}")

    def _name(self) -> str:
        return f"{self._link_id}/{self._turn}"

    def _version(self) -> str:
        return self._http.fact("/weight_info", "weight_version", str)

    def _from_workers(self, what: str, gone: Gone) -> list[str]:
        workers = range(1, 1 + self._workers)
        return [self.link.get_from(f"{what}/{self._turn}", worker, gone) for worker in workers]

    @contextmanager
    def _meanwhile(self, path: str, **body: Any) -> Iterator[Gone]:
        """Ask in a thread, and wait for the answer at the end.

        Gives whether nothing is to be expected any more: vLLM does not answer for a dead engine.
        """
        reply: Future[Any] = Future()

        def ask() -> None:
            try:
                reply.set_result(self._http.ask("POST", path, **body))
            except BaseException as error:
                reply.set_exception(error)

        def gone() -> bool:
            return reply.done() or not self._http.healthy()

        # A daemon, so that nothing waits for a server that hangs.
        threading.Thread(target=ask, daemon=True).start()
        try:
            yield gone
            until(reply.done, gone=gone, timeout_s=self._timeout_s)
        except Lost as lost:
            if not reply.done():  # which may say why
                raise self._http.failed(path, str(lost)) from lost
            reply.result()
            raise self._http.failed(path, f"answered too early ({lost})") from lost
        reply.result()


def _completion(choice: Any) -> Completion:
    ids = _ids(choice["token_ids"])
    logprobs = tuple(float(step["logprob"]) for step in choice["logprobs"]["content"])
    fit = len(ids) == len(logprobs) and all(map(math.isfinite, logprobs))
    if not fit or choice["finish_reason"] not in ("stop", "length"):  # but aborted, or an error
        raise ValueError
    return Completion(ids, logprobs, finish(choice["finish_reason"], choice["stop_reason"]))


def _ids(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(each) is int and each >= 0 for each in value):
        raise ValueError
    return tuple(value)
