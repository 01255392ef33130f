"""How far scores can be trusted, drawn: the share of hits by score, and what abstaining gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reground.evaluation.reporting.curves import BLUE, GREY, ORANGE, SVG_STYLE, Curve, svg_of
from reground.evaluation.scoring.columns import CONFIDENCE

_COLOURS = dict(zip(CONFIDENCE, (BLUE, ORANGE), strict=True))


def draw_reliability(calibration: Mapping[str, Any]) -> list[Curve]:
    """A panel for each score in ``calibration`` (of report.json), and one of what is left out."""
    own = {name: calibration[name] for name in CONFIDENCE if name in calibration}
    panels = [_reliability(name, figures) for name, figures in own.items()]
    return [*panels, _coverage(own)]


def _reliability(name: str, figures: Mapping[str, Any]) -> Curve:
    bins = figures["bins"]
    with matplotlib.rc_context(SVG_STYLE):
        figure = Figure(figsize=(4.4, 3.1), layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=(4, 1))
        above.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=0.8)
        centres = [each["score"] for each in bins]
        _points(above, centres, [each["share"] for each in bins], _COLOURS[name])
        below.bar(
            [each["low"] for each in bins],
            [each["share"]["n"] for each in bins],
            width=[max(each["high"] - each["low"], 0.004) for each in bins],
            align="edge",
            facecolor=(*matplotlib.colors.to_rgb(_COLOURS[name]), 0.35),
            edgecolor=_COLOURS[name],
            linewidth=0.7,
        )
        above.set(ylim=(0, 1.03), xlim=(0, 1.01), ylabel="share of hits")
        below.set(xlabel=f"{name}, mean of each bin", ylabel="n")
        _percent(above)
        text = svg_of(figure)
    caption = (
        "Hits among answers of like scores, with 95 % intervals (Wilson); below, how many these "
        "are. On the dashed line a score is the chance to be right."
    )
    return Curve(f"Calibration of the {name}", caption, text)


def _coverage(own: Mapping[str, Mapping[str, Any]]) -> Curve:
    with matplotlib.rc_context(SVG_STYLE):
        figure = Figure(figsize=(4.4, 3.1), layout="constrained")
        axes = figure.add_subplot()
        for name, figures in own.items():
            points = figures["thresholds"]
            places = [each["coverage"] for each in points]
            shares = [each["share"] for each in points]
            _points(axes, places, shares, _COLOURS[name], joined=True, label=name)
        axes.set(xlim=(0, 1.02), ylabel="share of hits", xlabel="share of answers that are kept")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        _percent(axes)
        if len(own) > 1:
            axes.legend(loc="lower left")
        text = svg_of(figure)
    caption = "Hits among the surest answers, when the others abstain (--min-score for the score)."
    return Curve("What abstaining gains", caption, text)


def _points(
    axes: Axes,
    places: Sequence[float],
    shares: Sequence[Mapping[str, Any]],
    colour: str,
    *,
    joined: bool = False,
    label: str = "",
) -> None:
    """Shares of hits with their intervals."""
    values = [each["accuracy"] for each in shares]
    ends = zip(*(each["interval"] for each in shares), strict=True)
    low, high = ([abs(value - end) for value, end in zip(values, own, strict=True)] for own in ends)
    style = "o-" if joined else "o"
    axes.errorbar(
        places, values, yerr=[low, high], fmt=style, ms=3.5, linewidth=1, color=colour, label=label
    )


def _percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(visible=True, axis="y", color=GREY, alpha=0.25, linewidth=0.6)
