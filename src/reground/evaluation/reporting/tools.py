"""What a report says of a detector's boxes: the figures with their errors, and their wording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reground.evaluation.records import SampleScore
from reground.evaluation.scoring.bootstrap import Interval, Intervals, intervals
from reground.evaluation.scoring.refinement import (
    Refined,
    ToolOutcome,
    ToolPolicy,
    figures,
    refined,
)
from reground.grounding.answers import RIGHT


@dataclass(frozen=True, slots=True)
class Wording:
    """What a reader sees of a figure: its ``name`` in the table, and what it measures."""

    key: str
    name: str
    meaning: str


MEASURES = (
    Wording("tool_accuracy", "tool only", "samples whose tool box is right"),
    Wording("accuracy", "final", "samples whose final box is right"),
    Wording("accuracy_difference", "difference", "final - tool only, of the same samples"),
    Wording("ccr", "CCR", "critical correction rate: wrong tool boxes that end right"),
    Wording(
        "nsri",
        "NSRI",
        "normalised signed relative IoU: the mean share of the missing IoU that was gained or, "
        "negative, of the tool's IoU that was lost",
    ),
    Wording("nsri_w", "NSRI, tool wrong", "the same of samples whose tool box is wrong"),
    Wording("nsri_c", "NSRI, tool right", "the same of samples whose tool box is right"),
    Wording("nsri_scaled", "NSRI from 0 to 100", "half of NSRI + 100: 50 is no change"),
    Wording("follow_correct_rate", "kept", "right tool boxes whose IoU stayed (follow-correct)"),
    Wording("refinement_rate", "refined", "right tool boxes whose IoU rose"),
    Wording("refinement_gain", "gain of the refined", "share of their missing IoU"),
    Wording("critical_gain", "gain of the corrected", "share of their missing IoU"),
    Wording("worsen_rate", "lowered", "final boxes with a lower IoU than the tool's (worsen rate)"),
    Wording("worsen_loss", "loss of the lowered", "share of the tool's IoU"),
    Wording(
        "inherited_error_rate",
        "inherited error",
        "of the wrong final boxes, those with the IoU of a wrong tool box",
    ),
    Wording("mean_iou_delta", "mean IoU, difference", "final - tool only"),
)

OUTCOMES: Mapping[ToolOutcome, str] = {
    ToolOutcome.CORRECTED: "tool wrong, final right",
    ToolOutcome.FOLLOWED: "tool right, final right",
    ToolOutcome.WORSENED: "tool right, final wrong",
    ToolOutcome.INHERITED: "both wrong, with the same IoU",
    ToolOutcome.STILL_WRONG: "both wrong, with another IoU",
}

NOTE = (
    f"A box is right with IoU > {RIGHT}. Where the tool gave several boxes, the best of them "
    "counts in every figure but those of the first box, of which the tool is surest; where it gave "
    "none, its IoU is 0."
)


@dataclass(frozen=True, slots=True)
class ToolFigures:
    """What report.json holds of the samples with a detector's boxes, and of those of each task.

    Keys: ``n`` samples with such boxes, ``unscored`` of them, ``outcomes`` (a count for each
    :class:`ToolOutcome`), for each measure of
    :class:`~reground.evaluation.scoring.refinement.Refinement` its mean, ``NAME_stderr`` and
    ``NAME_n``, and ``accuracy_difference_interval``. ``overall`` also counts answers that never
    called for the result (``no_call``) or called and got none (``tool_failed``: they have no boxes
    and are not among the n); it is None where no sample has boxes.
    """

    overall: dict[str, Any] | None
    tasks: Mapping[str, dict[str, Any]]


def tool_figures(scores: Sequence[SampleScore], policy: ToolPolicy) -> ToolFigures:
    """The figures of all samples with a detector's boxes; sort ``scores`` by sample id."""
    rows = refined(scores, policy)
    if not rows:
        return ToolFigures(None, {})
    tasks: dict[str, list[Refined]] = {}
    for row in rows:
        tasks.setdefault(row.score.sample.task, []).append(row)
    ends = _difference_intervals(rows)
    return ToolFigures(
        _to_json(rows, ends.overall) | _endings(scores),
        {task: _to_json(own, ends.tasks[task]) for task, own in tasks.items()},
    )


def tool_outcomes(scores: Sequence[SampleScore]) -> dict[str, ToolOutcome]:
    """What became of the detector's box, by sample id, where a sample has any and was answered."""
    return {row.score.sample.id: row.outcome for row in refined(scores) if row.outcome is not None}


def _difference_intervals(rows: Sequence[Refined]) -> Intervals:
    steps = {ToolOutcome.CORRECTED: 1.0, ToolOutcome.WORSENED: -1.0}
    gains = [0.0 if row.outcome is None else steps.get(row.outcome, 0.0) for row in rows]
    return intervals(
        {"difference": gains},
        tasks=[row.score.sample.task for row in rows],
        clusters=[row.score.cluster for row in rows],
    )["difference"]


def _endings(scores: Sequence[SampleScore]) -> dict[str, int]:
    found = Counter(score.finish for score in scores)
    return {"no_call": found["no_call"], "tool_failed": found["tool_failed"]}


def _to_json(rows: Sequence[Refined], ends: Interval | None) -> dict[str, Any]:
    counts = Counter(row.outcome for row in rows)
    report: dict[str, Any] = {
        "n": len(rows),
        "unscored": counts[None],
        "outcomes": {str(outcome): counts[outcome] for outcome in ToolOutcome},
    }
    for name, own in figures(rows).items():
        report |= {name: own.value, f"{name}_stderr": own.stderr, f"{name}_n": own.n}
    return report | {"accuracy_difference_interval": None if ends is None else list(ends)}
