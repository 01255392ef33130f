"""The end of vLLM's weight transfer in a worker of a server: weights come over a link.

Nothing is raised in a worker that a trainer could hear of otherwise: with several workers, vLLM
takes the second one's error for the answer to the next request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from logging import getLogger
from typing import Any

import torch
from torch import Tensor

from reground.errors import EngineError
from reground.rollout.engine import weights
from reground.rollout.engine.link import Link, Lost, joined

try:
    from vllm.distributed.weight_transfer.base import WeightTransferEngine
except ImportError:  # vLLM alone makes use of this module, and others look into all of them
    WeightTransferEngine = object

_LOG = getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Invitation:
    """Where the trainer waits, and with how many ends the link is complete."""

    link_id: str
    address: str
    port: int
    size: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Announced:
    """The tensors that the trainer sends next, in this order."""

    link_id: str
    turn: int
    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]


class Receiver(WeightTransferEngine):  # type: ignore[misc]
    """Writes every parameter of a worker's model once, or tells the trainer what was wrong."""

    init_info_cls = Invitation
    update_info_cls = Announced
    _link: Link | None = None
    _link_id = ""

    def init_transfer_engine(self, init_info: Invitation) -> None:
        """Join the trainer, and forget the one of before."""
        self.shutdown()
        own = self.parallel_config
        rank = 1 + own.data_parallel_index * own.world_size + own.rank
        store = joined(init_info.address, init_info.port)
        with as_launched():
            self._link = Link(
                store,
                rank=rank,
                size=init_info.size,
                device=self.device,
                timeout_s=init_info.timeout_s,
            )
        self._link_id = init_info.link_id

    def start_weight_update(self) -> None:
        """Nothing: the model is opened once weights come."""

    def finish_weight_update(self) -> None:
        """Nothing: the model was closed after the last of them."""

    def receive_weights(self, update_info: Announced) -> None:
        """Take the tensors, and tell the trainer what was wrong with them, or nothing."""
        if self._link is None or update_info.link_id != self._link_id:
            _LOG.error("weights of a trainer whose place another one has taken are left out")
            return
        try:
            self._link.put(f"ready/{update_info.turn}", "")
            complaint = self._written(self._link, update_info)
            self._link.put(f"written/{update_info.turn}", complaint)
        except Lost as error:
            _LOG.error("the trainer left as it sent weights, which are mixed now (%s)", error)
            self.shutdown()

    def shutdown(self) -> None:
        """Leave the trainer."""
        if self._link:
            self._link.close()
        self._link = None

    def _written(self, link: Link, announced: Announced) -> str:
        coming, complaint = _coming(link, announced), ""
        try:
            weights.write(self.model, coming, self.model_config)
        except Lost:
            raise
        except EngineError as error:
            complaint = str(error)
        except Exception as error:
            _LOG.exception("weights were not taken")
            complaint = f"{str(error)[:200]}; expected the weights of its own model"
        for _ in coming:  # the trainer sends them all
            pass
        return complaint


def as_launched() -> AbstractContextManager[None]:
    """NCCL's settings without those that vLLM adds, which the trainer does not have."""
    from vllm.utils.nccl import unpinned_nccl_env

    settings: AbstractContextManager[None] = unpinned_nccl_env()
    return settings


def _coming(link: Link, announced: Announced) -> Iterator[tuple[str, Tensor]]:
    every = zip(announced.names, announced.dtypes, announced.shapes, strict=True)
    for name, dtype, shape in every:
        tensor: Any = torch.empty(shape, dtype=getattr(torch, dtype), device=link.device)
        link.broadcast(tensor)
        yield name, tensor
