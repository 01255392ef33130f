"""The machine that is measured: its clock, its memory, and what it can do at best."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

_TRIES = 5


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'min': 1.0, 'max': 3.0}
    """
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def seconds(action: Callable[[], object]) -> float:
    """What a call of ``action`` takes, work that it left to a GPU included."""
    begin = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def peak_mib() -> float:
    """The most memory that this process has held so far: of the GPU where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def name() -> str:
    """The GPU, or the CPU with its threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def best_gflops() -> float:
    """GFLOP a second of one large matrix product, in the precision that training has here."""
    on_gpu = torch.cuda.is_available()
    size, dtype = (8192, torch.bfloat16) if on_gpu else (2048, torch.float32)
    left, right = torch.randn(2, size, size, dtype=dtype, device="cuda" if on_gpu else "cpu")
    torch.mm(left, right)
    fastest = min(seconds(lambda: torch.mm(left, right)) for _ in range(_TRIES))
    return 2 * size**3 / fastest / 1e9


def in_own_process(action: Callable[..., Any], *given: object) -> Any:
    """``action(*given)`` in a fresh process, whose memory is its own.

    A process starts with the peak of the one that began it: the caller's must be small.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(action, given)
