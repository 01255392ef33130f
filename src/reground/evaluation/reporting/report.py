"""Step three of an evaluation: scores -> report.json, report.md and report.html.

The HTML page is one file that opens without a network: images, curves, style and script stand in
it. All text of models and data sets is escaped.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reground.evaluation.coverage import check_cover
from reground.evaluation.records import RunInfo, SampleScore, read_run, read_scores
from reground.evaluation.reporting import gallery
from reground.evaluation.reporting.pages import estimate, markdown_table, render
from reground.evaluation.reporting.tools import (
    MEASURES,
    NOTE,
    OUTCOMES,
    tool_figures,
    tool_outcomes,
)
from reground.evaluation.scoring.authors import authors_scores
from reground.evaluation.scoring.bootstrap import Interval, Intervals, intervals
from reground.evaluation.scoring.metrics import (
    HITS,
    Hit,
    Outcome,
    by_task,
    is_hit,
    macro_accuracy,
    outcome,
    summarise,
)
from reground.evaluation.scoring.refinement import ToolOutcome
from reground.evaluation.scoring.sampled import Sampled
from reground.evaluation.scoring.slices import by_slice

if TYPE_CHECKING:
    from reground.evaluation.reporting.curves import Curve

REPORT = "report.json"

_NUM_BINS = 20  # of the IoU histogram


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One line of a table that compares reports, ready to print: percent and standard errors."""

    name: str
    accuracy: str
    mean_iou: str
    n: str


def write_report(
    folder: Path, *, training: Path | None = None, num_examples: int = 24, partial: bool = False
) -> dict[str, Any]:
    """Write report.json, report.md and report.html beside the scores in ``folder``.

    ``training`` is the run directory of `reground train` whose curves the page shows. Returns what
    report.json holds. Raises ``DataError`` where scores, run.json or metrics are missing or bad,
    and where the scores are not those of all the samples asked, unless a ``partial`` report is
    wanted, whose title says so.
    """
    scores, run = _read(folder, partial=partial)
    report = _write_json(folder, scores, run)
    curves = _curves(training) if training else []
    ended = functools.partial(outcome, hit=HITS[run.hit])
    tools = tool_outcomes(scores)
    words = {"measures": MEASURES, "tool_outcomes": OUTCOMES, "tool_note": NOTE}
    page = render(
        "report.html.j2",
        **words,
        report=report,
        outcomes=_outcome_counts(scores, ended),
        histogram=_histogram(scores),
        examples=[
            gallery.draw(score, outcome=ended(score), tool_outcome=tools.get(score.sample.id))
            for score in _choose(scores, tools, count=num_examples, ended=ended)
        ],
        curves=curves,
    )
    text = render("report.md.j2", **words, report=report)
    (folder / "report.md").write_text(text, encoding="utf-8")
    (folder / "report.html").write_text(page, encoding="utf-8")
    return report


def write_json_report(folder: Path, *, partial: bool = False) -> dict[str, Any]:
    """Write report.json alone, the figures without the pages, and return what it holds.

    Pages of earlier scores are removed. Raises as :func:`write_report` does.
    """
    for stale in ("report.html", "report.md"):
        (folder / stale).unlink(missing_ok=True)
    return _write_json(folder, *_read(folder, partial=partial))


def _read(folder: Path, *, partial: bool) -> tuple[list[SampleScore], RunInfo]:
    scores, run = list(read_scores(folder)), read_run(folder)
    if not partial:
        check_cover([score.sample for score in scores], run)
    return scores, run


def _write_json(folder: Path, scores: Sequence[SampleScore], run: RunInfo) -> dict[str, Any]:
    report = build_report(scores, run=run)
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / REPORT).write_text(text + "\n", encoding="utf-8")
    return report


def build_report(scores: Sequence[SampleScore], *, run: RunInfo) -> dict[str, Any]:
    """What report.json holds; shares and IoU in [0, 1], null where there is nothing to measure.

    Keys: ``title``, those of :meth:`Summary.to_json` for all scores, ``reasons`` (the commonest of
    the errors, with their counts), ``macro@0.5`` with its
    standard error (mean over tasks), ``tasks`` (the same keys for each), ``slices`` (by what
    divides the samples, as the size of the true box, the same keys for each slice),
    ``refinement`` (those of :class:`ToolFigures`, of all and of each task, null without a
    detector's boxes; the best of several boxes counts), ``refinement_top1`` (the same of the first
    box, of all alone), ``sampled`` (those of :meth:`Sampled.to_json`, of all and of each task, null
    where one answer was asked for), and ``run``.
    ``authors`` holds the figures by the authors' scorer, null without one: ``scorer``, ``hit``,
    ``left_out`` (samples without exactly one true box), those of all scores, ``macro@0.5`` and
    ``tasks``. ``acc@0.5_interval``, of tasks too, ``mean_iou_interval`` and ``macro@0.5_interval``
    are the ends of 95 % intervals. The order of ``scores`` changes nothing.
    """
    scores = sorted(scores, key=lambda score: score.sample.id)
    hit = HITS[run.hit]
    tools = tool_figures(scores, "best")
    figures = _figures(scores, hit)
    for name, row in figures["tasks"].items():
        own = [score for score in scores if score.sample.task == name]
        row |= {"refinement": tools.tasks.get(name), "sampled": _sampled(own, hit)}
    return {
        "title": _title(len(scores), run),
        **figures,
        "reasons": dict(Counter(score.error for score in scores if score.error).most_common(3)),
        "authors": _authors(scores, run),
        "slices": {
            name: {
                value: each.summary.to_json() | {"acc@0.5_interval": _ends(each.accuracy)}
                for value, each in slices.items()
            }
            for name, slices in by_slice(scores, hit).items()
        },
        "refinement": tools.overall,
        "sampled": _sampled(scores, hit),
        "refinement_top1": tool_figures(scores, "top-1").overall,
        "run": dataclasses.asdict(run),
    }


def _figures(scores: Sequence[SampleScore], hit: Hit) -> dict[str, Any]:
    """The figures of all scores, their mean over tasks, and those of each task, with intervals."""
    macro = macro_accuracy(scores, hit)
    accuracy, mean_iou = _intervals(scores, hit)
    return {
        **summarise(scores, hit).to_json(),
        "acc@0.5_interval": _ends(accuracy.overall),
        "mean_iou_interval": _ends(mean_iou.overall),
        "macro@0.5": macro.value,
        "macro@0.5_stderr": macro.stderr,
        "macro@0.5_interval": _ends(accuracy.macro),
        "tasks": {
            name: summary.to_json() | {"acc@0.5_interval": _ends(accuracy.tasks.get(name))}
            for name, summary in by_task(scores, hit).items()
        },
    }


def _authors(scores: Sequence[SampleScore], run: RunInfo) -> dict[str, Any] | None:
    found = authors_scores(scores, run)
    if found is None:
        return None
    named = {"scorer": found.scorer, "hit": found.rule, "left_out": found.left_out}
    return named | _figures(found.scores, found.hit)


def _sampled(scores: Sequence[SampleScore], hit: Hit) -> dict[str, Any] | None:
    found = Sampled.of(scores, hit)
    return found.to_json() if found else None


def _intervals(scores: Sequence[SampleScore], hit: Hit) -> tuple[Intervals, Intervals]:
    """Those of Acc@0.5 and of the mean IoU."""
    scored = [score for score in scores if score.error is None]
    found = intervals(
        {
            "acc@0.5": [float(is_hit(score, hit=hit)) for score in scored],
            "mean_iou": [score.iou or 0.0 for score in scored],
        },
        tasks=[score.sample.task for score in scored],
        clusters=[score.cluster for score in scored],
    )
    return found["acc@0.5"], found["mean_iou"]


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _title(count: int, run: RunInfo) -> str:
    title = f"{run.model} on {run.data}"
    if count < run.num_samples:
        return f"{title}: partial, {count} of {run.num_samples} samples"
    return title if run.limit is None else f"{title}: the first {run.limit} samples"


def comparison(reports: Mapping[str, Mapping[str, Any]]) -> list[ComparisonRow]:
    """A row per report (contents of report.json, by display name), in the order given.

    >>> report = {"n": 200, "acc@0.5": 0.615, "acc@0.5_stderr": 0.034,
    ...           "mean_iou": 0.58, "mean_iou_stderr": None}
    >>> comparison({"after GRPO": report})
    [ComparisonRow(name='after GRPO', accuracy='61.5 ± 3.4', mean_iou='58.0', n='200')]
    """
    return [
        ComparisonRow(
            name, estimate(report, "acc@0.5"), estimate(report, "mean_iou"), str(report["n"])
        )
        for name, report in reports.items()
    ]


def comparison_markdown(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """:func:`comparison` as a Markdown table."""
    head = ComparisonRow("", "Acc@0.5 (%)", "mean IoU (%)", "n")
    return markdown_table([dataclasses.astuple(row) for row in [head, *comparison(reports)]])


def _curves(training: Path) -> Sequence[Curve]:
    from reground.evaluation.reporting.curves import draw_curves, read_metrics  # matplotlib: 0.4 s

    return draw_curves(read_metrics(training))


def _choose(
    scores: Sequence[SampleScore],
    tools: Mapping[str, ToolOutcome],
    *,
    count: int,
    ended: Callable[[SampleScore], Outcome],
) -> list[SampleScore]:
    """The examples; with a detector's boxes, what became of them and of the answers in turn."""
    if not tools:
        return gallery.choose(scores, count=count, outcome=ended)
    kinds = {score.sample.id: (tools.get(score.sample.id), ended(score)) for score in scores}
    return gallery.choose_in_turn(scores, kinds, count=count)


def _outcome_counts(
    scores: Sequence[SampleScore], ended: Callable[[SampleScore], Outcome]
) -> dict[Outcome, int]:
    counts = Counter(map(ended, scores))
    return {name: counts[name] for name in Outcome if counts[name]}


def _histogram(scores: Sequence[SampleScore]) -> list[int]:
    ious = [score.iou for score in scores if score.iou is not None]
    counts, _ = np.histogram(ious, bins=_NUM_BINS, range=(0.0, 1.0))
    return [int(count) for count in counts]
