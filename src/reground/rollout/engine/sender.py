"""The trainer's end of vLLM's weight transfer: the requests to the server, and the weights."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

import torch

from reground.errors import EngineError
from reground.rollout.engine.link import Gone, Link, Lost, offered, own_address, until
from reground.rollout.engine.weights import Source

UNFINISHED = "unfinished"  # begins the version of weights that a lost trainer left


class Requests(Protocol):
    """How a server is asked."""

    url: str

    def healthy(self) -> bool:
        """Whether the server's engine lives."""

    def ask(self, verb: str, path: str, **body: Any) -> Any:
        """The reply of a path; raises ``EngineError``."""

    def failed(self, path: str, how: str) -> EngineError:
        """What to raise where a path failed."""


class Sender:
    """Connects with all workers of the server, which forget the trainer of before."""

    def __init__(self, server: Requests, *, device: torch.device, timeout_s: float) -> None:
        self._server, self._timeout_s = server, timeout_s
        self._turn, self._link_id = 0, secrets.token_hex(8)
        self._workers = int(server.ask("GET", "/get_world_size")["world_size"])
        if self._version().startswith(UNFINISHED):
            server.ask("POST", "/finish_weight_update")
        where = urlsplit(server.url)
        address = own_address(where.hostname or "", where.port or 80)
        store, size = offered(address), 1 + self._workers
        info = {"address": address, "port": store.port, "size": size, "timeout_s": timeout_s}
        with self._meanwhile(
            "/init_weight_transfer_engine", init_info={**info, "link_id": self._link_id}
        ) as gone:
            self._link = Link(
                store, rank=0, size=size, device=device, timeout_s=timeout_s, gone=gone
            )
        server.ask("POST", "/update_weight_version", new_version=self._name())

    def send(self, source: Source) -> None:
        """Give every worker these weights; raises ``EngineError`` where they are not its own."""
        if (found := self._version()) != self._name():
            raise EngineError(
                f"{self._server.url}: its weights are {found}; expected those of this run, "
                f"{self._name()}; another run has connected, or the server was started again: give "
                "each run a server of its own, and the same command again with --resume"
            )
        self._turn += 1
        self._server.ask("POST", "/start_weight_update")
        self._server.ask(
            "POST", "/update_weight_version", new_version=f"{UNFINISHED} {self._name()}"
        )
        described = list(source.described())
        info = {
            "link_id": self._link_id,
            "turn": self._turn,
            "names": [name for name, _ in described],
            "dtypes": [str(each.dtype).removeprefix("torch.") for _, each in described],
            "shapes": [list(each.shape) for _, each in described],
        }
        with self._meanwhile("/update_weights", update_info=info) as gone:
            self._told("ready", gone)
            for _, tensor in source:
                self._link.broadcast(tensor, gone)
            complaints = self._told("written", gone)
        self._server.ask("POST", "/finish_weight_update", weight_version=self._name())
        for complaint in filter(None, complaints):
            raise EngineError(f"{self._server.url}: {complaint}")

    def close(self) -> None:
        """Hang up; the server goes on."""
        self._link.close()

    def _name(self) -> str:
        return f"{self._link_id}/{self._turn}"

    def _version(self) -> str:
        return str(self._server.ask("GET", "/weight_info")["weight_version"])

    def _told(self, what: str, gone: Gone) -> list[str]:
        what = f"{what}/{self._turn}"
        return [self._link.told(what, 1 + worker, gone) for worker in range(self._workers)]

    @contextmanager
    def _meanwhile(self, path: str, **body: Any) -> Iterator[Gone]:
        """Ask in a thread, and wait for the answer at the end.

        Gives whether nothing is to be expected any more: vLLM does not answer for a dead engine.
        """
        reply: Future[Any] = Future()

        def ask() -> None:
            try:
                reply.set_result(self._server.ask("POST", path, **body))
            except BaseException as error:
                reply.set_exception(error)

        def gone() -> bool:
            return reply.done() or not self._server.healthy()

        # A daemon, so that nothing waits for a server that hangs.
        threading.Thread(target=ask, daemon=True).start()
        try:
            yield gone
            until(reply.done, gone=gone, timeout_s=self._timeout_s)
        except Lost as lost:
            if not reply.done():  # which may say why
                raise self._server.failed(path, str(lost)) from lost
            reply.result()
            raise self._server.failed(path, f"answered too early ({lost})") from lost
        reply.result()
