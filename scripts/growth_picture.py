"""Draw docs/growth.png from docs/results/growth.json: what an update costs, measured and counted.

python scripts/growth_picture.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs/results/growth.json"
OUT = ROOT / "docs/growth.png"
MEASURED, COUNTED, GREY = "#2f81c7", "#d55e00", "#8a8f98"  # on light and dark pages alike
STYLE: dict[Any, object] = {
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
# What each column varies, how it is labelled, and in what unit it is shown.
COLUMNS = {
    "completions": ("completions of a group", 1),
    "images": ("images of the prompt", 1),
    "parameters": ("weights, millions", 1e6),
}


def main() -> None:
    """Seconds above, memory below; a column for each thing that varies."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 4.6), layout="constrained")
        grid = figure.subplots(2, len(COLUMNS), sharex="col", sharey="row")
        for (name, (label, unit)), (above, below) in zip(COLUMNS.items(), grid.T, strict=True):
            points = _varying(result["points"], name)
            values = [point[name] / unit for point in points]
            flops = _by_flops(result["points"][0], points)
            _draw(above, values, [point["seconds"] for point in points], flops)
            memory = [point["counted MiB"] / 1024 for point in points]
            _draw(below, values, [_gib(point["peak MiB"]) for point in points], memory)
            below.set(xlabel=label, xticks=values, xlim=(0, 1.08 * values[-1]))
            below.set_xticklabels([f"{value:.0f}" for value in values])
        grid[0, 0].set(ylabel="seconds of an update", ylim=(0, None))
        grid[1, 0].set(ylabel="memory, GiB", ylim=(0, None))
        labels = ["by counted FLOPs (from the base point) and tensors", "measured, with range"]
        figure.legend(grid[0, 0].lines[:1] + grid[0, 0].containers, labels, ncols=2,
                      loc="outside upper center")  # fmt: skip
        figure.savefig(OUT, dpi=150)
    print(OUT.relative_to(ROOT))


def _varying(points: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """The points that differ from the first one in ``name`` alone, and the first one."""
    others = set(COLUMNS) - {name}
    found = [own for own in points if all(own[key] == points[0][key] for key in others)]
    return sorted(found, key=lambda point: float(point[name]))


def _by_flops(start: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> list[float]:
    """Seconds of the first point times how much more FLOPs there are."""
    second = start["seconds"]["median"] / sum(start["gflop"].values())
    return [second * sum(point["gflop"].values()) for point in points]


def _gib(spread: Mapping[str, float]) -> dict[str, float]:
    return {name: value / 1024 for name, value in spread.items()}


def _draw(
    axes: Axes,
    values: Sequence[float],
    measured: Sequence[Mapping[str, float]],
    counted: Sequence[float],
) -> None:
    medians = [own["median"] for own in measured]
    below = [own["median"] - own["min"] for own in measured]
    above = [own["max"] - own["median"] for own in measured]
    axes.plot(values, counted, color=COUNTED, linewidth=1.2)
    axes.errorbar(
        values, medians, yerr=(below, above), color=MEASURED, fmt="o", ms=4.5, capsize=2.5
    )


if __name__ == "__main__":
    main()
