"""Step three of an evaluation: scores -> report.json, report.md and report.html.

The HTML page is one file that opens without a network: images, curves, style and script stand in
it. All text of models and data sets is escaped.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from reground.evaluation.scoring.authors import Authors
from reground.evaluation.scoring.bootstrap import Interval, Intervals, intervals
from reground.evaluation.scoring.calibration import calibrations
from reground.evaluation.scoring.columns import Collector, Columns
from reground.evaluation.scoring.metrics import (
    HITS,
    Hit,
    Outcome,
    by_task,
    hits,
    macro_accuracy,
    outcome,
    summarise,
)
from reground.evaluation.scoring.refinement import ToolOutcome
from reground.evaluation.scoring.sampled import Sampled
from reground.evaluation.scoring.slices import by_slice
from reground.grounding.sample import row_digest

if TYPE_CHECKING:
    from reground.evaluation.reporting.curves import Curve

REPORT = "report.json"

_CALIBRATION_NOTE = (
    "The score is the geometric mean probability of the tokens of the least sure box; agreement "
    "is the mean IoU of the chosen answer with the other sampled ones. ECE is the mean distance of "
    "score and share of hits over bins of equally many answers, which by chance alone is not 0; "
    "AUROC is the chance that a hit has a higher score than a miss. "
    "Answers without a box that can be read have neither."
)
_NUM_BINS = 20  # of the IoU histogram
_ENDINGS = ("no_call", "tool_failed")  # of answers for which a detector may have given no boxes


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
    run = read_run(folder)
    ended = functools.partial(outcome, hit=HITS[run.hit])
    gathered, candidates = Gathered(run), gallery.Candidates(num_examples)
    counts: Counter[Outcome] = Counter()
    for score in read_scores(folder):
        gathered.add(score)
        counts[ended(score)] += 1
        candidates.add(score, (*tool_outcomes([score]).values(), ended(score)))
    report = gathered.write(folder, partial=partial)
    curves = _curves(training) if training else []
    scores = candidates.scores()
    tools = tool_outcomes(scores)
    words = {"measures": MEASURES, "tool_outcomes": OUTCOMES, "tool_note": NOTE}
    words["calibration_note"] = _CALIBRATION_NOTE
    page = render(
        "report.html.j2",
        **words,
        report=report,
        outcomes={name: counts[name] for name in Outcome if counts[name]},
        histogram=gathered.histogram(),
        examples=[
            gallery.draw(score, outcome=ended(score), tool_outcome=tools.get(score.sample.id))
            for score in _choose(scores, tools, count=num_examples, ended=ended)
        ],
        curves=curves,
        calibration=_drawn(report["calibration"] or {}),
    )
    text = render("report.md.j2", **words, report=report)
    (folder / "report.md").write_text(text, encoding="utf-8")
    (folder / "report.html").write_text(page, encoding="utf-8")
    return report


def write_json_report(folder: Path, *, partial: bool = False) -> dict[str, Any]:
    """Write report.json alone, the figures without the pages, and return what it holds.

    Pages of earlier scores are removed. Raises as :func:`write_report` does.
    """
    return _gathered(read_scores(folder), read_run(folder)).write(
        folder, partial=partial, pages=False
    )


class Gathered:
    """Takes scores of a run one after another, and keeps what report.json needs of them.

    That is numbers, and whole scores only of samples with a detector's boxes and of several
    answers to a question.
    """

    def __init__(self, run: RunInfo) -> None:
        self._run, self._scores, self._authors = run, Collector(), Authors.of(run)
        self._asked: list[bytes] = []
        self._errors: list[tuple[str, str]] = []
        self._apart: list[SampleScore] = []
        self._plain: SampleScore | None = None  # a score of one answer

    def add(self, score: SampleScore) -> None:
        """Take a score in."""
        self._scores.add(score)
        self._asked.append(row_digest(score.sample))
        if self._authors:
            self._authors.add(score)
        if score.error is not None:
            self._errors.append((score.sample.id, score.error))
        elif not score.draws:
            self._plain = score
        if score.sample.tool_results is not None or score.draws or score.finish in _ENDINGS:
            self._apart.append(score)

    def another(self) -> Gathered:
        """One that has taken nothing in yet, for some of the run's scores."""
        return Gathered(self._run)

    def take(self, other: Gathered) -> None:
        """Take in what another one did, of later scores."""
        self._scores.take(other._scores)
        self._asked += other._asked
        self._errors += other._errors
        self._apart += other._apart
        self._plain = other._plain or self._plain
        if self._authors and other._authors:
            self._authors.take(other._authors)

    def write(self, folder: Path, *, partial: bool, pages: bool = True) -> dict[str, Any]:
        """Write report.json into ``folder``, and return what it holds.

        Raises ``DataError`` unless the scores are those of all the samples asked, or a ``partial``
        report is wanted. Without new ``pages`` those of earlier scores are removed.
        """
        for stale in () if pages else ("report.html", "report.md"):
            (folder / stale).unlink(missing_ok=True)
        if not partial:
            check_cover(self._asked, self._run)
        report = self.report()
        text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / REPORT).write_text(text + "\n", encoding="utf-8")
        return report

    def histogram(self) -> list[int]:
        """How many IoUs of answers lie in each twentieth."""
        scores = self._scores.columns()
        ious = scores.values["iou"][scores.scored]
        counts, _ = np.histogram(ious, bins=_NUM_BINS, range=(0.0, 1.0))
        return [int(count) for count in counts]

    def report(self) -> dict[str, Any]:
        """What :func:`build_report` gives."""
        run, scores, hit = self._run, self._scores.columns(), HITS[self._run.hit]
        apart = sorted(self._apart, key=lambda score: score.sample.id)
        drawn = [score for score in apart if score.draws]
        if drawn and self._plain:
            drawn.append(self._plain)  # which is an error
        sampled, tools = _sampled(drawn, hit), tool_figures(apart, "best")
        figures = _figures(scores, hit)
        for name, row in figures["tasks"].items():
            own = [score for score in drawn if score.sample.task == name]
            row |= {"refinement": tools.tasks.get(name), "sampled": _sampled(own, hit)}
        reasons = Counter(error for _, error in sorted(self._errors))
        return {
            "title": _title(len(scores), run),
            **figures,
            "reasons": dict(reasons.most_common(3)),
            "authors": _by_authors(self._authors) if self._authors else None,
            "slices": {
                name: {
                    value: each.summary.to_json() | {"acc@0.5_interval": _ends(each.accuracy)}
                    for value, each in slices.items()
                }
                for name, slices in by_slice(scores, hit).items()
            },
            "refinement": tools.overall,
            "sampled": sampled,
            "calibration": calibrations(scores, hit),
            "refinement_top1": tool_figures(apart, "top-1").overall,
            "run": dataclasses.asdict(run),
        }


def _gathered(scores: Iterable[SampleScore], run: RunInfo) -> Gathered:
    gathered = Gathered(run)
    for score in scores:
        gathered.add(score)
    return gathered


def build_report(scores: Iterable[SampleScore], *, run: RunInfo) -> dict[str, Any]:
    """What report.json holds; shares and IoU in [0, 1], null where there is nothing to measure.

    Keys: ``title``, those of :meth:`Summary.to_json` for all scores, ``reasons`` (the commonest of
    the errors, with their counts), ``macro@0.5`` with its
    standard error (mean over tasks), ``tasks`` (the same keys for each), ``slices`` (by what
    divides the samples, as the size of the true box, the same keys for each slice),
    ``refinement`` (those of :class:`ToolFigures`, of all and of each task, null without a
    detector's boxes; the best of several boxes counts), ``refinement_top1`` (the same of the first
    box, of all alone), ``sampled`` (those of :meth:`Sampled.to_json`, of all and of each task, null
    where one answer was asked for), ``calibration`` (by :func:`calibrations`, null where no box has
    a score), and ``run``.
    ``authors`` holds the figures by the authors' scorer, null without one: ``scorer``, ``hit``,
    ``left_out`` (samples without exactly one true box), those of all scores, ``macro@0.5`` and
    ``tasks``. ``acc@0.5_interval``, of tasks too, ``mean_iou_interval`` and ``macro@0.5_interval``
    are the ends of 95 % intervals. The order of ``scores`` changes nothing.
    """
    return _gathered(scores, run).report()


def _figures(scores: Columns, hit: Hit) -> dict[str, Any]:
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


def _by_authors(own: Authors) -> dict[str, Any]:
    named = {"scorer": own.scorer, "hit": own.rule, "left_out": own.left_out}
    return named | _figures(own.scores.columns(), HITS[own.rule])


def _sampled(scores: Sequence[SampleScore], hit: Hit) -> dict[str, Any] | None:
    found = Sampled.of(scores, hit)
    return found.to_json() if found else None


def _intervals(scores: Columns, hit: Hit) -> tuple[Intervals, Intervals]:
    """Those of Acc@0.5 and, of all tasks together, of the mean IoU."""
    scored = np.flatnonzero(scores.scored)
    tasks = [scores.tasks.names[place] for place in scores.tasks.codes[scored]]
    clusters = scores.clusters.codes[scored]
    found = {"acc@0.5": hits(scores, scored, hit)}
    accuracy = intervals(found, tasks=tasks, clusters=clusters)["acc@0.5"]
    found = {"mean_iou": scores.values["iou"][scored]}
    mean_iou = intervals(found, tasks=[""] * len(scored), clusters=clusters)["mean_iou"]
    return accuracy, mean_iou


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


def _drawn(calibration: Mapping[str, Any]) -> list[Curve]:
    if not calibration:
        return []
    from reground.evaluation.reporting.reliability import draw_reliability  # matplotlib: 0.4 s

    return draw_reliability(calibration)


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
