"""Ranks that lose one another: each of the others stops soon, and says so in one sentence."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.distributed import DistError

from reground.errors import TrainingError

_LOG = logging.getLogger(__name__)
_CONNECT_S = 20.0
_NOTICE_S = 5.0  # in which a rank that waits for the lost one stops by itself
_DONE = b"\n"
# A machine that is cut off closes no connection: it is asked after 15 silent seconds, and given up
# after 30 more. Not every system lets that be set.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


@contextmanager
def together(accelerator: Accelerator, out: Path, *, timeout_s: float) -> Iterator[None]:
    """Train as one of the accelerator's ranks; ``out`` is the run, for what is said at its end.

    Raises ``TrainingError`` where a collective fails: another rank is gone, or did not come for
    ``timeout_s`` seconds. A rank that is elsewhere, or waits for a GPU (NCCL does not notice who is
    gone), is ended by a thread, with that sentence and exit code 2.
    """
    if accelerator.num_processes == 1:
        yield
        return
    try:
        with _watching(_connected(accelerator), out):
            yield
    except RuntimeError as error:
        if not isinstance(error, DistError) and "gloo/transport" not in str(error):
            raise
        raise TrainingError(
            _lost(f"another rank is gone, or did not come for {timeout_s:g} seconds", out)
        ) from error


@contextmanager
def _watching(peers: Mapping[int, socket.socket], out: Path) -> Iterator[None]:
    left = threading.Event()
    for rank, peer in peers.items():
        threading.Thread(target=_watch, args=(rank, peer, left, out), daemon=True).start()
    try:
        yield
        for peer in peers.values():
            with suppress(OSError):  # of a rank that is done as well
                peer.sendall(_DONE)
    finally:
        left.set()
        for peer in peers.values():
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)


def _watch(rank: int, peer: socket.socket, left: threading.Event, out: Path) -> None:
    """Wait until a rank is done; end this process where it ends before."""
    try:
        done = peer.recv(1) == _DONE
    except OSError:
        done = False
    if not done and not left.wait(_NOTICE_S):
        print(f"error: {_lost(f'rank {rank} is gone', out)}", file=sys.stderr, flush=True)
        os._exit(2)


def _connected(accelerator: Accelerator) -> dict[int, socket.socket]:
    """Connections, which end with a process: the first rank's to all others, theirs to the first.

    Where the first one learns that a rank is gone, it goes as well, and so the others learn.
    """
    peers: dict[int, socket.socket] = {}
    try:
        if accelerator.is_main_process:
            for peer in _accepted(accelerator.num_processes - 1):
                peers[int.from_bytes(peer.recv(4))] = peer
        else:
            (port,) = broadcast_object_list([0])
            where = os.environ["MASTER_ADDR"], port
            peers[0] = socket.create_connection(where, timeout=_CONNECT_S)
            peers[0].sendall(accelerator.process_index.to_bytes(4))
    except OSError as error:
        _LOG.warning(
            "rank %d: no connection between ranks (%s); expected free ports between machines; a "
            "rank that is gone may be noticed late, after collective_timeout_s",
            accelerator.process_index,
            error,
        )
    for peer in peers.values():
        peer.settimeout(None)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return peers


def _accepted(count: int) -> Iterator[socket.socket]:
    """Connections from other ranks, which learn the port."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    with socket.create_server(("", 0), family=family, backlog=count, dualstack_ipv6=both) as server:
        broadcast_object_list([server.getsockname()[1]])
        server.settimeout(_CONNECT_S)
        for _ in range(count):
            peer, _ = server.accept()
            peer.settimeout(_CONNECT_S)
            yield peer


def _lost(what: str, out: Path) -> str:
    return (
        f"{what}; expected all ranks to go on together; see in its output why it stopped, then "
        f"start all of them again with --resume: the checkpoints in {out} are whole"
    )
