"""Answers as they arrive: a run that is killed goes on where it stopped and asks nothing twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from reground.errors import DataError, RunError
from reground.evaluation.records import (
    JOURNAL,
    PREDICTIONS,
    RUN,
    Prediction,
    RunInfo,
    differing,
    prediction_line,
    read_predictions,
    read_run,
    write_predictions,
    write_run,
)
from reground.grounding.sample import Sample
from reground.io import drop_unfinished_line
from reground.rollout.tools.results import results_digest

# A server may move, and a tool answer what it failed at.
_MAY_CHANGE = ("endpoint", "tool_sha256")


class Journal:
    """The answers in ``folder`` so far, kept line by line until :meth:`finish`.

    A question that ended in an error, or was answered for want of a tool's boxes without them, is
    asked again when the run is started again. Raises ``RunError`` where ``folder`` holds another
    run, naming what differs.
    """

    def __init__(self, folder: Path, run: RunInfo) -> None:
        self._folder, self._run = folder, run
        self._failed: dict[str, Prediction] = {}
        if (folder / RUN).exists():
            _check_same(folder, read_run(folder), run)
        self._done = {row.sample.id: row for row in _kept(folder) if row.error is None}
        self._begun = False  # nothing is written before the first answer

    def left(self, samples: Iterable[Sample]) -> list[Sample]:
        """The samples that have no answer yet, or one for want of the boxes that they now have.

        Raises ``RunError`` where one was answered with other boxes.
        """
        return [sample for sample in samples if not self._is_answered(sample)]

    def add(self, prediction: Prediction) -> None:
        """Keep an answer, or the error in its place."""
        if prediction.error is not None:
            self._failed[prediction.sample.id] = prediction
            return
        self._done[prediction.sample.id] = prediction
        if not self._begun:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_run(self._folder, self._run)
            self._begun = True
        with (self._folder / JOURNAL).open("ab") as out:
            out.write(prediction_line(prediction, folder=self._folder))

    def finish(self, samples: Sequence[Sample]) -> int:
        """Write predictions.jsonl in the order of ``samples``; returns how many were answered."""
        found = self._failed | self._done
        rows = [found[each.id] for each in samples]
        boxes = results_digest(row.sample for row in rows)
        write_predictions(self._folder, rows, run=replace(self._run, tool_sha256=boxes))
        (self._folder / JOURNAL).unlink(missing_ok=True)
        return sum(sample.id in self._done for sample in samples)

    def _is_answered(self, sample: Sample) -> bool:
        if (row := self._done.get(sample.id)) is None:
            return False
        if row.sample.tool_results == sample.tool_results:
            return True
        if row.sample.tool_results is None:
            del self._done[sample.id]
            return False
        raise RunError(
            f"{self._folder}: sample {sample.id!r} was answered with other boxes of a tool than it "
            "has now; choose another --out, or delete that folder",
            help="a-folder-that-is-taken",
        )


def _kept(folder: Path) -> list[Prediction]:
    rows: list[Prediction] = []
    if (folder / PREDICTIONS).exists():
        rows += read_predictions(folder)
    if (folder / JOURNAL).exists() and drop_unfinished_line(folder / JOURNAL):
        rows += read_predictions(folder, JOURNAL)
    return rows


def _check_same(folder: Path, found: RunInfo, asked: RunInfo) -> None:
    changes = [
        f"{name} is {getattr(found, name)} there and {getattr(asked, name)} here"
        for name in differing(found, asked, apart_from=_MAY_CHANGE)
    ]
    if changes:
        raise RunError(
            f"{folder}: holds the answers of another run ({'; '.join(changes)}); "
            "choose another --out, or delete that folder",
            help="a-folder-that-is-taken",
        )


def check_unique(samples: Iterable[Sample], *, data: str) -> None:
    """Raise ``DataError`` where two samples have one id: answers are kept by id."""
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(f"{data}: two samples are called {sample.id!r}; give each its own id")
        seen.add(sample.id)
