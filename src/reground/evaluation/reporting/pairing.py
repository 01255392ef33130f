"""Folders of scores that can be compared: the same questions, true boxes and rules in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reground.errors import DataError
from reground.evaluation.records import RunInfo, SampleScore, read_run, read_scores
from reground.evaluation.scoring.peers.mig_bench import MIG_BENCH, MIGICIAN
from reground.grounding.sample import Sample, asked, digest

_NUM_SHOWN = 3  # ids in an error


@dataclass(frozen=True, slots=True)
class Run:
    """The scores of one folder, sorted by sample id."""

    name: str
    info: RunInfo
    scores: tuple[SampleScore, ...]

    @property
    def truth_sha256(self) -> str:
        """The digest of what is asked and true; a detector's boxes may differ between runs."""
        return digest(score.sample for score in self.scores)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs of two or more folders of scores, named by their folders.

    Raises ``DataError`` where a folder is missing, bad or given twice, and where runs cannot be
    compared: other samples, other truth for the same sample, another scorer.
    """
    names = [folder.resolve().name for folder in folders]
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        given = ", ".join(map(str, folders))
        raise DataError(
            f"found {given}; expected two or more different folders of scores",
            help="runs-that-do-not-compare",
        )
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    runs = [_read(name, folder) for name, folder in zip(names, folders, strict=True)]
    for other in runs[1:]:
        _check_comparable(runs[0], other)
    return runs


def rule_of(info: RunInfo) -> str:
    """The scorer of a run; MIG-Bench's has a name of its own for Migician, whose y it stretches."""
    return MIG_BENCH.name if info.scorer == MIGICIAN.name else info.scorer


def _read(name: str, folder: Path) -> Run:
    info = read_run(folder)
    scores = sorted(read_scores(folder), key=lambda score: score.sample.id)
    return Run(name, info, tuple(scores))


def _check_comparable(a: Run, b: Run) -> None:
    rules = [f"{run.name} by {_rule_in_words(run.info)}" for run in (a, b)]
    own, others = ((rule_of(each), each.hit, each.min_score) for each in (a.info, b.info))
    if own != others:
        raise DataError(
            f"scored by different rules: {' and '.join(rules)}; score both by the same",
            help="runs-that-do-not-compare",
        )
    ids = [{score.sample.id for score in run.scores} for run in (a, b)]
    if ids[0] != ids[1]:
        only_a, only_b = ids[0] - ids[1], ids[1] - ids[0]
        raise DataError(
            f"different samples: {len(only_a)} only in {a.name}{_examples(only_a)}, {len(only_b)} "
            f"only in {b.name}{_examples(only_b)}; evaluate both on one data set",
            help="runs-that-do-not-compare",
        )
    pairs = zip(a.scores, b.scores, strict=True)
    changed = [(x.sample, y.sample) for x, y in pairs if asked(x.sample) != asked(y.sample)]
    if changed:
        raise DataError(_other_version(a, b, changed), help="runs-that-do-not-compare")


def _rule_in_words(info: RunInfo) -> str:
    least = "" if info.min_score is None else f", min-score {info.min_score:g}"
    return f"{info.scorer} (IoU {info.hit} t{least})"


def _examples(ids: set[str]) -> str:
    shown = ", ".join(map(repr, sorted(ids)[:_NUM_SHOWN]))
    return f" ({shown}{', …' if len(ids) > _NUM_SHOWN else ''})" if ids else ""


def _other_version(a: Run, b: Run, changed: Sequence[tuple[Sample, Sample]]) -> str:
    one, other = map(asked, changed[0])
    field = next(name for name in one if one[name] != other[name])
    digests = [f"{run.name} {run.truth_sha256}" for run in (a, b)]
    return (
        f"another version of the benchmark: {len(changed)} of {len(a.scores)} samples differ, "
        f"first {one['id']!r} in its {field} ({one[field]!r} and {other[field]!r}); SHA-256 of the "
        f"truth: {', '.join(digests)}; expected the same questions and true boxes, so evaluate "
        "both on one data set"
    )
