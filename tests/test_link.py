"""The link that carries weights: whatever is sent arrives, and who is left alone notices soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from reground.rollout.engine.link import Link, Lost, joined, offered, own_address, until

HOST = "127.0.0.1"
CPU = torch.device("cpu")
SENT = [
    torch.arange(12, dtype=torch.float32).view(3, 4).T,  # not contiguous
    torch.tensor([0.1, float("inf"), -0.0], dtype=torch.bfloat16),
    torch.tensor([1.5, -2.0], dtype=torch.float16),
    torch.tensor([[2**62, -1]], dtype=torch.int64),
    torch.tensor([True, False, True]),
    torch.tensor(3.25, dtype=torch.float64),
    torch.zeros(300_000),
]

# A worker: it takes SENT, and says what came; then it waits for another tensor.
WORKER = f"""
import sys, torch
from reground.rollout.engine.link import Link, Lost, joined
from test_link import CPU, SENT
store = joined("{HOST}", int(sys.argv[1]))
link = Link(store, rank=int(sys.argv[2]), size=int(sys.argv[3]), device=CPU, timeout_s=60)
for sent in SENT:
    came = torch.empty(sent.shape, dtype=sent.dtype)
    link.broadcast(came)
    assert torch.equal(came, sent), (came, sent)
link.put("came", "all")
try:
    link.broadcast(torch.empty(9))
except Lost as lost:
    print("lost:", lost)
"""


@contextmanager
def linked(workers: int) -> Iterator[tuple[Link, list[subprocess.Popen[str]]]]:
    """The trainer's end of a link, and its workers, which are processes."""
    store = offered(HOST)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(store.port), str(1 + rank), str(1 + workers)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(workers)
    ]
    try:
        link = Link(store, rank=0, size=1 + workers, device=CPU, timeout_s=60, gone=died(running))
        yield link, running
    finally:
        for each in running:
            each.kill()
            each.communicate()


def died(running: list[subprocess.Popen[str]]) -> Callable[[], bool]:
    return lambda: any(each.poll() is not None for each in running)


def test_tensors_arrive_at_all_workers_and_a_trainer_that_leaves_is_noticed() -> None:
    with linked(2) as (link, running):
        for tensor in SENT:
            link.broadcast(tensor, died(running))
        assert [link.get_from("came", rank, died(running)) for rank in (1, 2)] == ["all", "all"]
        link.close()
        for each in running:
            assert each.communicate(timeout=30)[0].startswith("lost: ")


def test_a_worker_that_is_killed_is_noticed() -> None:
    with linked(1) as (link, running):
        running[0].send_signal(signal.SIGKILL)
        running[0].wait()
        with pytest.raises(Lost):
            for _ in range(100):  # the first may still find room on the way
                link.broadcast(SENT[-1], lambda: False)
        with pytest.raises(Lost, match="the other end has left"):
            link.get_from("never", 1, died(running))


def test_a_trainer_that_is_not_there_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reground.rollout.engine.link.CONNECT_S", 1.0)
    with pytest.raises(Lost):
        joined(HOST, 9)


def test_patience_ends() -> None:
    with pytest.raises(Lost, match=r"nothing came for 0\.1 seconds"):
        until(lambda: False, gone=lambda: False, timeout_s=0.1)


def test_the_address_is_the_one_on_the_way_to_the_peer() -> None:
    assert own_address("127.0.0.1", 80) == own_address("localhost", 80) == HOST
