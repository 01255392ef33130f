"""Means and peaks over packing and sharding: sums and counts travel, and are divided once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object


@dataclass(slots=True)
class Tally:
    """Named means as (sum, count), and named peaks.

    >>> tally = Tally()
    >>> tally.add("reward/iou", 1.5, 2); tally.add("reward/iou", 0.5, 2)
    >>> tally.means()
    {'reward/iou': 0.5}
    """

    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, total: float, count: float = 1.0) -> None:
        """Add ``count`` values that sum to ``total``."""
        before = self.parts.get(name, (0.0, 0.0))
        self.parts[name] = (before[0] + total, before[1] + count)

    def add_peak(self, name: str, value: float) -> None:
        """Keep the largest of the values of ``name``."""
        self.peaks[name] = max(value, self.peaks.get(name, value))

    def means(self) -> dict[str, float]:
        """Every mean, in the order of first use; a name that counted nothing is left out."""
        return {name: total / count for name, (total, count) in self.parts.items() if count}

    def reduced(self, accelerator: Accelerator) -> Mapping[str, float]:
        """Means and peaks over all ranks, in float64; every rank must hold the same names."""
        if accelerator.num_processes == 1:
            return self.means() | self.peaks
        table = torch.tensor(
            list(self.parts.values()), dtype=torch.float64, device=accelerator.device
        )
        summed = accelerator.reduce(table, reduction="sum")
        means = Tally(dict(zip(self.parts, map(tuple, summed.tolist()), strict=True))).means()
        every = gather_object([self.peaks])
        return means | {name: max(peaks[name] for peaks in every) for name in self.peaks}
