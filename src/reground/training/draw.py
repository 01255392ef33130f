"""Which sample is drawn as item n of a run: a pure function of the seed and n.

Nothing is stored, so a resumed run, another accumulation or another number of ranks sees exactly
the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reground.data.augment import augment
from reground.data.images import SYNTH_PREFIX
from reground.data.source import open_dataset
from reground.grounding.sample import Sample
from reground.training.settings import Phase


class Draws:
    """The items of a run with ``total`` items; item n belongs to the phase at share n / total.

    Scenes are drawn by item number, so none is seen twice. Rows of a file are drawn epoch by epoch
    in an order that changes with the epoch: each once, or, where a file is one of several sources,
    those whose turn falls on it.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        *,
        seed: int,
        total: int,
        augment_min_side: float | None = None,
    ) -> None:
        self._seed, self._total, self._min_side = seed, total, augment_min_side
        self._phases = [(phase.until, tuple(phase.mix), _shares(phase)) for phase in phases]
        specs = dict.fromkeys(spec for phase in phases for spec in phase.mix)
        self._sources = {spec: open_dataset(spec, seed=seed) for spec in specs}
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def sample(self, item: int) -> Sample:
        """The sample that is item ``item`` of the run."""
        share = item / self._total
        _, specs, shares = next(
            phase for phase in self._phases if share < phase[0] or phase[0] == 1.0
        )
        generator = np.random.Generator(np.random.Philox(key=[self._seed, item]))
        spec = specs[int(np.searchsorted(shares, generator.random(), side="right"))]
        source = self._sources[spec]
        if spec.startswith(SYNTH_PREFIX):
            return source[item]
        sample = source[self._shuffled(item, len(source))]
        return augment(sample, generator, min_side=self._min_side) if self._min_side else sample

    def _shuffled(self, item: int, size: int) -> int:
        epoch, place = divmod(item, size)
        if (size, epoch) not in self._orders:
            generator = np.random.Generator(np.random.Philox(key=[self._seed ^ size, epoch]))
            self._orders = {(size, epoch): generator.permutation(size)}
        return int(self._orders[size, epoch][place])


def _shares(phase: Phase) -> np.ndarray:
    weights = np.array(list(phase.mix.values()), dtype=np.float64)
    return np.cumsum(weights / weights.sum())[:-1]
