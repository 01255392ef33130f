"""A comparison as files: compare.json and .md, table.md, .tex, .csv, and the page table.html."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from reground.data.benchmarks import column
from reground.evaluation.records import SampleScore
from reground.evaluation.reporting import gallery
from reground.evaluation.reporting.compare import (
    Comparison,
    Difference,
    Pair,
    Paired,
    answered_by_all,
    compare,
)
from reground.evaluation.reporting.pages import markdown_table, percent, render, span
from reground.evaluation.reporting.pairing import Run
from reground.evaluation.reporting.table import Table, make_table, to_csv, to_latex, to_markdown
from reground.evaluation.scoring.metrics import HITS, Outcome, outcome

HEAD = (
    *("", "n", "A", "B", "Acc@0.5, B - A", "95 %", "mean IoU, B - A", "95 %"),
    *("only A", "only B", "McNemar p"),
)
NOTE = (
    "Figures are percent. A and B: Acc@0.5. B - A: the mean of paired differences ± one standard "
    "error, clustered by image, and its 95 % bootstrap interval over images. Only A, only B: hits "
    "of one run alone; McNemar's exact test of these is not corrected for the number of tasks and "
    "takes samples as independent."
)
TOOL_HEAD = ("", "n", "tool right", "right", "CCR", "NSRI", "NSRI_w", "NSRI_c", "worse")
TOOL_NOTE = (
    "With a detector's boxes: the share of samples whose best tool box is right, that of the run's "
    "own answers, and what it made of the tool's boxes (VG-Refiner), in percent."
)
_NUM_EXAMPLES = 12
_COLOURS = ("#ff9100", "#2f8fff", "#e0559f", "#9d86e0", "#00b3c4", "#e5483f", "#c9a13b", "#9aa3af")


@dataclass(frozen=True, slots=True)
class PairedRow:
    """One line of a table below ``HEAD``, ready to print, and the difference to draw."""

    cells: tuple[str, ...]
    gain: Difference


@dataclass(frozen=True, slots=True)
class RunAnswer:
    """One run's answer to the sample of an example."""

    name: str
    outcome: Outcome
    score: SampleScore


@dataclass(frozen=True, slots=True)
class Contrast:
    """A sample that some runs hit and others did not, drawn once."""

    drawn: gallery.Example
    replies: tuple[RunAnswer, ...]


def write_comparison(runs: Sequence[Run], *, out: Path) -> str:
    """Write all files of a comparison into ``out``; returns compare.md, for the terminal.

    ``runs`` are those of :func:`~reground.evaluation.reporting.pairing.read_runs`. Raises
    ``DataError`` as :func:`~reground.evaluation.reporting.compare.compare` does.
    """
    comparison = compare(runs)
    table = make_table(comparison)
    text = _markdown(comparison, table)
    files = {
        "compare.json": json.dumps(dataclasses.asdict(comparison), indent=2, allow_nan=False),
        "compare.md": text,
        "table.md": f"{to_markdown(table)}\n{table.note}\n",
        "table.tex": to_latex(table),
        "table.csv": to_csv(table),
        "table.html": _html(comparison, table, runs),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (out / name).write_text(content, encoding="utf-8")
    return text


def paired_rows(pair: Pair) -> list[PairedRow]:
    """All samples, the mean over tasks and each task, or the one task that there is."""
    tasks = [_row(column(task), own) for task, own in pair.tasks.items()]
    if len(tasks) == 1:
        return tasks
    macro = PairedRow(("AVG", "", *_both(pair.macro), *[""] * 5), pair.macro)
    return [_row("all", pair.overall), macro, *tasks]


def tool_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A line of a table below ``TOOL_HEAD`` for each run, if there are a detector's boxes."""
    rows = []
    for row in comparison.rows:
        if (own := row.refinement) is not None:
            shares = (own.tool_accuracy, own.accuracy, own.ccr, own.nsri, own.nsri_w, own.nsri_c)
            rows.append((row.name, str(own.n), *map(percent, (*shares, own.worsen_rate))))
    return rows


def contrasts(runs: Sequence[Run], *, count: int = _NUM_EXAMPLES) -> list[Contrast]:
    """At most ``count`` samples that some runs hit, each set of those runs in turn."""
    ended = partial(outcome, hit=HITS[runs[0].info.hit])
    replies: dict[str, tuple[RunAnswer, ...]] = {}
    kinds: dict[str, tuple[bool, ...]] = {}
    for index in answered_by_all(runs):
        scores = [run.scores[index] for run in runs]
        hits = tuple(ended(score) is Outcome.HIT for score in scores)
        if any(hits) and not all(hits):
            name = scores[0].sample.id
            kinds[name] = hits
            replies[name] = tuple(
                RunAnswer(run.name, ended(score), score)
                for run, score in zip(runs, scores, strict=True)
            )
    differing = [own[0].score for own in replies.values()]
    return [
        Contrast(gallery.draw(score, outcome=ended(score)), replies[score.sample.id])
        for score in gallery.choose_in_turn(differing, kinds, count=count)
    ]


def _row(name: str, own: Paired) -> PairedRow:
    counts = (str(own.only_a), str(own.only_b), _p_value(own.mcnemar))
    return PairedRow(
        (name, str(own.n), *_both(own.accuracy), *_gain(own.mean_iou), *counts), own.accuracy
    )


def _both(own: Difference) -> list[str]:
    return [percent(own.a.value), percent(own.b.value), *_gain(own)]


def _gain(own: Difference) -> list[str]:
    gain = own.difference
    error = "" if gain.stderr is None else f" ± {percent(gain.stderr)}"
    return [percent(gain.value) + error, span(own.interval)]


def _p_value(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _markdown(comparison: Comparison, table: Table) -> str:
    parts = [f"{to_markdown(table)}\n{table.note}\n"]
    for pair in comparison.pairs:
        rows = markdown_table([HEAD, *(row.cells for row in paired_rows(pair))])
        parts.append(f"A is {pair.a}, B is {pair.b}\n\n{rows}")
    parts.append(f"{NOTE}\n")
    if tools := tool_rows(comparison):
        parts.append(f"{TOOL_NOTE}\n\n{markdown_table([TOOL_HEAD, *tools])}")
    return "\n".join(parts)


def _html(comparison: Comparison, table: Table, runs: Sequence[Run]) -> str:
    names = [run.name for run in runs]
    return render(
        "table.html.j2",
        comparison=comparison,
        table=table,
        head=HEAD,
        note=NOTE,
        pairs=[(pair, paired_rows(pair)) for pair in comparison.pairs],
        tool_head=TOOL_HEAD,
        tool_note=TOOL_NOTE,
        tool_rows=tool_rows(comparison),
        limit=_limit(comparison),
        contrasts=contrasts(runs),
        colours={name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)},
        runs=[_settings(run) for run in runs],
    )


def _settings(run: Run) -> dict[str, Any]:
    """How a run was made; hashes by their beginning, so that several runs fit on a page."""
    return {
        name: f"{value[:12]}…" if re.fullmatch("[0-9a-f]{64}", str(value)) else value
        for name, value in dataclasses.asdict(run.info).items()
    }


def _limit(comparison: Comparison) -> float:
    """The largest end of any interval: the bars of a page share one scale."""
    gains = [row.gain for pair in comparison.pairs for row in paired_rows(pair)]
    ends = [end for own in gains for end in (own.difference.value, *(own.interval or ()))]
    return max((abs(end) for end in ends if end), default=1.0)
