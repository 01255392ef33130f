"""Which sample is drawn as item n of a run: a pure function of the seed and n.

Nothing is stored, so a resumed run, another accumulation or another number of ranks sees exactly
the same samples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from reground.data.rows import groups_of
from reground.data.schemes import is_endless
from reground.data.source import open_dataset
from reground.errors import DataError, TrainingError
from reground.grounding.sample import Sample, content
from reground.training.settings import Phase

T = TypeVar("T")

MOST_IN_A_ROW = 10  # rows that are tried in the place of one that cannot be used
MOST_LEFT_OUT = 0.05  # of all rows, before a run stops

_LOG = logging.getLogger(__name__)


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
        self.left_out: dict[str, str] = {}
        self._rows = {
            spec: _Alike(groups_of(source))
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

    def files(self) -> dict[str, dict[str, Any]]:
        """How many rows each file holds, and their digest."""
        return {
            spec: {"rows": len(self._sources[spec]), "sha256": content(self._sources[spec])}
            for spec in self._rows
        }

    def known(self) -> Iterator[Sample]:
        """All rows of the files, and the first sample of every endless source."""
        yield from self.rows()
        yield from (source[0] for spec, source in self._sources.items() if spec not in self._rows)

    def usable(self, item: int, ask: Callable[[list[Sample]], T], limit: int | None = None) -> T:
        """What ``ask`` makes of :meth:`samples`, or of the next row where it raises ``DataError``.

        A photo that cannot be decoded, or a prompt that is too long, is left out and named; the
        same rows take their place in every run. Raises the error where that helps nothing, and
        ``TrainingError`` where too many rows are left out.
        """
        for shift in range(MOST_IN_A_ROW):
            samples = self.samples(item, limit, shift)
            try:
                return ask(samples)
            except DataError as error:
                problem = error
                self._leave_out(samples[0], error)
        raise problem

    def _leave_out(self, sample: Sample, error: DataError) -> None:
        if sample.id not in self.left_out:
            self.left_out[sample.id] = str(error)
            _LOG.warning("row %r is left out (%d by now): %s", sample.id, len(self.left_out), error)
        rows = sum(len(self._sources[spec]) for spec in self._rows)
        if len(self.left_out) > max(MOST_IN_A_ROW, MOST_LEFT_OUT * rows):
            raise TrainingError(
                f"{len(self.left_out)} of {rows} rows cannot be used, the last: {error}; run "
                "`reground data validate` on the data, and train on what it calls good",
                help="rows-that-are-refused",
            )

    def samples(self, item: int, limit: int | None = None, shift: int = 0) -> list[Sample]:
        """Item ``item`` and the other rows of its file about the same images, at most ``limit``.

        With ``shift`` another row of the same file, so many after those of the whole run.
        """
        share = item / self._total
        mix = next(each.mix for each in self._phases if share < each.until or each.until == 1.0)
        weights = np.array(list(mix.values()), dtype=np.float64)
        shares = np.cumsum(weights / weights.sum())[:-1]
        generator = np.random.Generator(np.random.Philox(key=[self._seed, item]))
        spec = list(mix)[int(np.searchsorted(shares, generator.random(), side="right"))]
        source = self._sources[spec]
        if spec not in self._rows:
            return [source[item]]
        row = self._shuffled(spec, item + shift * self._total)
        others = self._rows[spec].others(row)
        chosen = [row, *generator.permutation(others).tolist()]
        return [source[index] for index in chosen[:limit]]

    def _shuffled(self, spec: str, item: int) -> int:
        """The row of a file that item ``item`` is: each file has an order of its own."""
        size, number = len(self._sources[spec]), list(self._rows).index(spec)
        epoch, place = divmod(item, size)
        known = self._orders.get(spec)
        if known is None or known[0] != epoch:
            key = [self._seed ^ size ^ number << 32, epoch]
            generator = np.random.Generator(np.random.Philox(key=key))
            known = self._orders[spec] = (epoch, generator.permutation(size))
        return int(known[1][place])


class _Alike:
    """Rows by the number of their group [N]."""

    def __init__(self, groups: NDArray[np.uint32]) -> None:
        self._groups, self._order = groups, np.argsort(groups, kind="stable")
        self._ends = np.cumsum(np.bincount(groups))

    def others(self, row: int) -> list[int]:
        """The other rows of a row's group, in their order."""
        end = self._ends[self._groups[row]]
        start = self._ends[self._groups[row] - 1] if self._groups[row] else 0
        return [other for other in self._order[start:end].tolist() if other != row]
