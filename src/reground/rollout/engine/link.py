"""The way of weights to the workers of a server: a process group that trainer and workers join."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.distributed import (  # type: ignore[attr-defined]
    BroadcastOptions,
    ProcessGroupGloo,
    TCPStore,
)

CONNECT_S = 30.0
_GRACE_S = 1.0  # what the other end did last may still be under way
_LOOK_S = 1.0  # between two looks whether the other end is there
_PAUSE_S = 1e-4
_PLACE = re.compile(r"^\[[^]]*\] |\. This is typically.*")  # what gloo puts around its words

Gone = Callable[[], bool]


class Lost(Exception):
    """The other end is gone, or nothing came from it for too long."""


class Link:
    """One end of the link. Rank 0 is the trainer, which keeps the store; the others are workers.

    NCCL carries tensors where each end has a GPU of its own, gloo elsewhere. ``gone`` says here and
    below whether the other end has left; workers look at the store, which ends with the trainer.
    ``Lost`` is raised then, or after ``timeout_s`` seconds.
    """

    def __init__(
        self,
        store: TCPStore,
        *,
        rank: int,
        size: int,
        device: torch.device,
        timeout_s: float,
        gone: Gone | None = None,
    ) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._timeout_s = timeout_s
        self.put("device", _identity(device))
        devices = [self.get_from("device", each, gone) for each in range(size)]
        with _lost():
            if "cpu" not in devices and len(set(devices)) == size:
                self.device = device
                self._group = _nccl(store, rank, size, timeout_s)
            else:
                self.device = torch.device("cpu")
                self._group = _gloo(store, rank, size, timeout_s)
        self.broadcast(torch.zeros(1, device=self.device), gone)  # whether it carries

    def broadcast(self, tensor: Tensor, gone: Gone | None = None) -> None:
        """Send a tensor from the trainer; to a worker, the numbers of one on ``device``."""
        if self._rank == 0:
            tensor = tensor.detach().to(self.device).contiguous()
        options = BroadcastOptions()
        options.rootRank = options.rootTensor = 0
        with _lost():
            work = self._group.broadcast([tensor.view(-1).view(torch.uint8)], options)
            try:
                self._until(work.is_completed, gone)
            except Lost:
                self._group.abort()  # else a GPU would wait for ever
                raise
            work.wait()

    def put(self, what: str, text: str) -> None:
        """Leave a text for the other end."""
        with _lost():
            self._store.set(f"{what}/{self._rank}", text)

    def get_from(self, what: str, rank: int, gone: Gone | None = None) -> str:
        """The text that this rank left, or will leave."""
        key = f"{what}/{rank}"
        with _lost():
            self._until(lambda: bool(self._store.check([key])), gone)
            text: bytes = self._store.get(key)
        return text.decode()

    def close(self) -> None:
        """Leave; the other end notices."""
        self._group.abort()
        del self._group, self._store

    def _until(self, done: Callable[[], bool], gone: Gone | None) -> None:
        until(done, gone=gone or self._store_gone, timeout_s=self._timeout_s)

    def _store_gone(self) -> bool:
        try:
            self._store.check(["device/0"])
        except RuntimeError:
            return True
        return False


def until(done: Callable[[], bool], *, gone: Gone, timeout_s: float) -> None:
    """Wait; raises ``Lost`` where the other end has left, or after so many seconds."""
    begin = look = time.monotonic()
    left: float | None = None
    while not done():
        now = time.monotonic()
        if now - begin > timeout_s:
            raise Lost(f"nothing came for {timeout_s:g} seconds")
        if left and now - left > _GRACE_S:
            raise Lost("the other end has left")
        if not left and now - look > _LOOK_S:
            left, look = now if gone() else None, now
        time.sleep(_PAUSE_S)


def offered(address: str) -> TCPStore:
    """The store of a link, on a free port of this machine, which others reach at ``address``."""
    return TCPStore(
        address, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=CONNECT_S)
    )


def joined(address: str, port: int) -> TCPStore:
    """The trainer's store; raises ``Lost`` where it cannot be reached."""
    with _lost():
        return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=CONNECT_S))


def own_address(peer: str, port: int) -> str:
    """The address of this machine at which that one reaches it."""
    family, kind, protocol, _, where = socket.getaddrinfo(peer, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as unsent:
        unsent.connect(where)
        address: str = unsent.getsockname()[0]
        return address


def _identity(device: torch.device) -> str:
    if device.type != "cuda":
        return "cpu"
    return str(torch.cuda.get_device_properties(device).uuid)


def _gloo(store: TCPStore, rank: int, size: int, timeout_s: float) -> Any:
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    # The route to the store, and not what the machine's name resolves to.
    address = store.host if rank == 0 else own_address(store.host, store.port)
    options._devices = [ProcessGroupGloo.create_device(hostname=address)]
    options._timeout = timedelta(seconds=timeout_s)
    return ProcessGroupGloo(store, rank, size, options)


def _nccl(store: TCPStore, rank: int, size: int, timeout_s: float) -> Any:
    from accelerate.utils import patch_environment
    from torch.distributed import ProcessGroupNCCL  # not in every build of torch

    options = ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=timeout_s)
    # A group that is made so raises where it fails; others end their process.
    with patch_environment(TORCH_NCCL_BLOCKING_WAIT=1):
        return ProcessGroupNCCL(store, rank, size, options)


@contextmanager
def _lost() -> Iterator[None]:
    """What torch raises where a connection breaks, as ``Lost``."""
    try:
        yield
    except RuntimeError as error:
        raise Lost(_PLACE.sub("", str(error)).partition("\n")[0][:300]) from error
