"""Means, counts and peaks over packing and sharding: sums travel, and are divided once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object


@dataclass(slots=True)
class Tally:
    """Named means as (sum, count), and named counts and peaks.

    >>> tally = Tally()
    >>> tally.add("reward/iou", 1.5, 2); tally.add("reward/iou", 0.5, 2)
    >>> tally.add_count("tool/calls", 3); tally.add_peak("gap", 0.25); tally.add_peak("gap", 0.125)
    >>> tally.figures()
    {'reward/iou': 0.5, 'tool/calls': 3, 'gap': 0.25}
    """

    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, total: float, count: float = 1.0) -> None:
        """Add ``count`` values that sum to ``total``."""
        before = self.parts.get(name, (0.0, 0.0))
        self.parts[name] = (before[0] + total, before[1] + count)

    def include(self, other: Tally) -> None:
        """Add everything that ``other`` holds."""
        for name, part in other.parts.items():
            self.add(name, *part)
        for name, count in other.counts.items():
            self.add_count(name, count)
        for name, value in other.peaks.items():
            self.add_peak(name, value)

    def add_count(self, name: str, count: float) -> None:
        """Add to what is summed over all ranks."""
        self.counts[name] = self.counts.get(name, 0) + count

    def add_peak(self, name: str, value: float) -> None:
        """Keep the largest of the values of ``name``."""
        self.peaks[name] = max(value, self.peaks.get(name, value))

    def figures(self) -> dict[str, float]:
        """Every figure, in the order of first use; a mean that counted nothing is left out."""
        means = {name: total / count for name, (total, count) in self.parts.items() if count}
        return means | self.counts | self.peaks

    def reduced(self, accelerator: Accelerator) -> Mapping[str, float]:
        """The figures over all ranks, in float64; every rank must hold the same names."""
        if accelerator.num_processes == 1:
            return self.figures()
        rows = [*self.parts.values(), *((count, 0.0) for count in self.counts.values())]
        table = torch.tensor(rows, dtype=torch.float64, device=accelerator.device)
        summed = accelerator.reduce(table, reduction="sum").tolist()
        means, counts = summed[: len(self.parts)], summed[len(self.parts) :]
        every = gather_object([self.peaks])
        return Tally(
            dict(zip(self.parts, map(tuple, means), strict=True)),
            {name: count for name, (count, _) in zip(self.counts, counts, strict=True)},
            {name: max(peaks[name] for peaks in every) for name in self.peaks},
        ).figures()
