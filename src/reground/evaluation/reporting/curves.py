"""Training curves of a run, drawn by Matplotlib as SVG that follows the page's colours."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from reground.errors import DataError
from reground.grounding.boxes import FloatArray
from reground.io import read_jsonl

METRICS = "metrics.jsonl"

MetricsRow = Mapping[str, float]

# Okabe and Ito (2008): distinct for colour-blind readers, and on light and dark pages alike.
BLUE, ORANGE, GREEN, RED = "#2f81c7", "#e69f00", "#1a9e77", "#d55e00"
GREY = "#8a8f98"
_MAX_WINDOWS = 25  # a line is smoothed over 1/25 of its rows

# Text stays text, so that the page sets its font; a fixed salt makes equal curves equal bytes.
SVG_STYLE: dict[Any, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "reground",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "text.color": GREY,
    "legend.frameon": False,
    "savefig.transparent": True,
}


@dataclass(frozen=True, slots=True)
class Curve:
    """One drawn panel: a title, what to look at, and an ``<svg>`` element."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class _Line:
    metric: str
    label: str
    colour: str


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    caption: str
    lines: Sequence[_Line]
    is_share: bool = False
    is_stacked: bool = False


@dataclass(frozen=True, slots=True)
class _Series:
    line: _Line
    steps: FloatArray
    values: FloatArray


_PANELS = (
    _Panel(
        "Reward",
        "Mean reward of the sampled rollouts, in total and by term.",
        (
            _Line("reward/total", "total", BLUE),
            _Line("reward/iou", "IoU", GREEN),
            _Line("reward/format", "format", ORANGE),
            _Line("reward/refinement", "refinement", RED),
        ),
    ),
    _Panel(
        "Difficulty",
        "Share of prompts whose group's mean IoU is above 0.7 (easy), from 0.3 to 0.7 (medium), "
        "below 0.3 (hard).",
        (
            _Line("difficulty/easy", "easy", GREEN),
            _Line("difficulty/medium", "medium", ORANGE),
            _Line("difficulty/hard", "hard", RED),
        ),
        is_share=True,
        is_stacked=True,
    ),
    _Panel(
        "Validation",
        "Acc@0.5 of greedy answers on the validation set.",
        (_Line("validation/acc@0.5", "Acc@0.5", BLUE),),
        is_share=True,
    ),
    _Panel("Loss", "The loss that was minimised.", (_Line("loss", "loss", BLUE),)),
    _Panel(
        "KL",
        "Mean per-token KL from the reference policy (k3 estimate).",
        (_Line("objective/kl", "KL", BLUE),),
    ),
    _Panel(
        "Length",
        "Mean number of tokens a rollout sampled.",
        (_Line("rollout/length", "tokens", BLUE),),
    ),
    _Panel(
        "Endings",
        "How rollouts ended: by themselves, without a call for the tool that was there, after a "
        "call that got no result, or at the token limit.",
        (
            _Line("rollout/completed", "completed", GREEN),
            _Line("rollout/no_call", "no call", BLUE),
            _Line("rollout/tool_failed", "tool failed", ORANGE),
            _Line("rollout/over_long", "cut off", RED),
        ),
        is_share=True,
        is_stacked=True,
    ),
    _Panel(
        "Clipped",
        "Share of tokens whose ratio was clipped.",
        (_Line("objective/clip_share", "tokens clipped", BLUE),),
        is_share=True,
    ),
)


def read_metrics(run_dir: Path) -> list[MetricsRow]:
    """The rows of a run directory's metrics.jsonl.

    Raises ``DataError`` where the file is missing, and for a row that is no object of numbers with
    a ``step``.
    """
    expected = "a run directory of `reground train`"
    return list(read_jsonl(run_dir / METRICS, _row, expected=expected, advice="drop the line"))


def draw_curves(rows: Sequence[MetricsRow]) -> list[Curve]:
    """A panel for every group of metrics that ``rows`` hold; metrics may be missing on some rows.

    Lines with many points are drawn twice: faint as recorded, and strong as a centred moving
    average over 1/25 of their points.
    """
    return [
        Curve(panel.title, panel.caption, _svg(panel, series))
        for panel in _PANELS
        if (series := _series(panel, rows))
    ]


def _row(row: Any) -> MetricsRow:
    if not isinstance(row, dict) or "step" not in row:
        raise DataError("expected an object with a 'step'")
    for name, value in row.items():
        if not isinstance(value, int | float):
            raise DataError(f"{name!r} is {value!r}, expected a number")
    return row


def _series(panel: _Panel, rows: Sequence[MetricsRow]) -> list[_Series]:
    named = {line.metric for line in panel.lines}
    if panel.is_stacked:  # only rows that hold every share can be stacked
        rows = [row for row in rows if named <= row.keys()]
    series = []
    for line in panel.lines:
        points = [(row["step"], row[line.metric]) for row in rows if line.metric in row]
        if points:
            steps, values = np.array(points, dtype=np.float64).T
            series.append(_Series(line, steps, values))
    return series


def _svg(panel: _Panel, series: Sequence[_Series]) -> str:
    with matplotlib.rc_context(SVG_STYLE):
        figure = Figure(figsize=(4.4, 2.5), layout="constrained")
        axes = figure.add_subplot()
        (_stack if panel.is_stacked else _plot)(axes, series)
        _finish(axes, panel, num_lines=len(series))
        return svg_of(figure)


def svg_of(figure: Figure) -> str:
    """A figure drawn in ``SVG_STYLE`` as an ``<svg>`` element."""
    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(out, format="svg", metadata=nothing)
    svg = out.getvalue()
    return svg[svg.index("<svg") :]  # without the XML prolog, which cannot stand inside a page


def _plot(axes: Axes, series: Sequence[_Series]) -> None:
    for one in series:
        colour = one.line.colour
        is_long = len(one.values) > 2 * _MAX_WINDOWS
        if is_long:
            axes.plot(one.steps, one.values, color=colour, alpha=0.25, linewidth=0.8)
        smooth = _smoothed(one.values)
        marker = None if is_long else "o"
        axes.plot(one.steps, smooth, color=colour, label=one.line.label, marker=marker, ms=3)


def _stack(axes: Axes, series: Sequence[_Series]) -> None:
    axes.stackplot(
        series[0].steps,
        *(_smoothed(one.values) for one in series),
        labels=[one.line.label for one in series],
        colors=[one.line.colour for one in series],
        alpha=0.8,
    )


def _finish(axes: Axes, panel: _Panel, *, num_lines: int) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(visible=True, axis="y", color=GREY, alpha=0.25, linewidth=0.6)
    axes.margins(x=0.01)
    if panel.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        axes.set_ylim(bottom=0)
    if panel.is_stacked:
        axes.set_ylim(0, 1)
    if num_lines > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=num_lines)


def _smoothed(values: FloatArray) -> FloatArray:
    # Near the ends the window is cut, not padded, so that the ends are means of what is there.
    window = np.ones(len(values) // _MAX_WINDOWS or 1)
    sums: FloatArray = np.convolve(values, window, mode="same")
    counts: FloatArray = np.convolve(np.ones_like(values), window, mode="same")
    return sums / counts
