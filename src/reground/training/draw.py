"""Which sample is drawn as item n of a run: a pure function of the seed and n.

Nothing is stored, so a resumed run, another accumulation or another number of ranks sees exactly
the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from reground.data.schemes import is_endless
from reground.data.source import open_dataset
from reground.grounding.sample import ImageRef, Sample
from reground.training.settings import Phase


class Draws:
    """The items of a run with ``total`` items; item n belongs to the phase at share n / total.

    Endless sources are drawn by item number, so nothing is seen twice. Rows of a file are drawn
    epoch by epoch in an order that changes with the epoch: each once, or, where a file is one of
    several sources, those whose turn falls on it.
    """

    def __init__(self, phases: Sequence[Phase], *, seed: int, total: int) -> None:
        self._phases, self._seed, self._total = phases, seed, total
        specs = dict.fromkeys(spec for phase in phases for spec in phase.mix)
        self._sources = {spec: open_dataset(spec, seed=seed) for spec in specs}
        self._orders: dict[str, tuple[int, np.ndarray]] = {}
        self._rows = {
            spec: _rows_by_images(source)
            for spec, source in self._sources.items()
            if not is_endless(source)
        }

    def sample(self, item: int) -> Sample:
        """The sample that is item ``item`` of the run."""
        return self.samples(item, 1)[0]

    def rows(self) -> Iterator[Sample]:
        """All rows of the files that are drawn from."""
        for spec in self._rows:
            yield from self._sources[spec]

    def known(self) -> Iterator[Sample]:
        """All rows of the files, and the first sample of every endless source."""
        yield from self.rows()
        yield from (source[0] for spec, source in self._sources.items() if spec not in self._rows)

    def samples(self, item: int, limit: int | None = None) -> list[Sample]:
        """Item ``item`` and the other rows of its file about the same images, at most ``limit``."""
        share = item / self._total
        mix = next(each.mix for each in self._phases if share < each.until or each.until == 1.0)
        weights = np.array(list(mix.values()), dtype=np.float64)
        shares = np.cumsum(weights / weights.sum())[:-1]
        generator = np.random.Generator(np.random.Philox(key=[self._seed, item]))
        spec = list(mix)[int(np.searchsorted(shares, generator.random(), side="right"))]
        source = self._sources[spec]
        if spec not in self._rows:
            return [source[item]]
        row = self._shuffled(spec, item)
        others = [other for other in self._rows[spec][source[row].images] if other != row]
        chosen = [row, *generator.permutation(others).tolist()]
        return [source[index] for index in chosen[:limit]]

    def _shuffled(self, spec: str, item: int) -> int:
        """The row of a file that item ``item`` is: each file has an order of its own."""
        size, number = len(self._sources[spec]), list(self._rows).index(spec)
        epoch, place = divmod(item, size)
        if self._orders.get(spec, (None,))[0] != epoch:
            key = [self._seed ^ size ^ number << 32, epoch]
            generator = np.random.Generator(np.random.Philox(key=key))
            self._orders[spec] = (epoch, generator.permutation(size))
        return int(self._orders[spec][1][place])


def _rows_by_images(source: Sequence[Sample]) -> dict[tuple[ImageRef, ...], list[int]]:
    rows: dict[tuple[ImageRef, ...], list[int]] = {}
    for index, sample in enumerate(source):
        rows.setdefault(sample.images, []).append(index)
    return rows
