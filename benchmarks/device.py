"""The machine that is measured: its clock, its memory, its best, and images to measure with."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

_TRIES = 5


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


def noise(count: int, side: int) -> list[Image.Image]:
    """Random images of ``side`` x ``side`` pixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (count, side, side, 3), dtype=np.uint8)
    return [Image.fromarray(own) for own in pixels]


def in_own_process(action: Callable[..., Any], *given: object) -> Any:
    """``action(*given)`` in a fresh process, whose memory is its own.

    A process starts with the peak of the one that began it: the caller's must be small.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(action, given)
