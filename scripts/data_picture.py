"""Draw docs/data.png from docs/results/data.json: how the cost of data grows with its rows.

python scripts/data_picture.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from growth_picture import COUNTED, GREY, MEASURED, STYLE

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs/results/data.json"
OUT = ROOT / "docs/data.png"
COMMANDS = {"convert": "convert", "first open": "open, first", "open": "open, again",
            "score": "score half as many"}  # fmt: skip
COLOURS = (MEASURED, COUNTED, "#2f9e6e", "#8a5cc7")


def main() -> None:
    """Core seconds to the left, memory to the right, both against rows; dotted: in proportion."""
    points = json.loads(RESULT.read_text(encoding="utf-8"))["growth"]
    rows = [point["rows"] for point in points]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        for axes, unit in zip(figure.subplots(1, 2), ("s", "mib"), strict=True):
            for (command, label), colour in zip(COMMANDS.items(), COLOURS, strict=True):
                values = [max(point[command][unit], 1e-3) for point in points]
                axes.plot(rows, values, "o-", color=colour, ms=4.5, linewidth=1.2, label=label)
                if unit == "s":
                    line = [values[-1] * count / rows[-1] for count in rows]
                    axes.plot(rows, line, ":", color=GREY, linewidth=1)
            axes.set(xscale="log", yscale="log", xlabel="rows", xticks=rows)
            axes.set_xticklabels([f"{count:,}" for count in rows])
            axes.minorticks_off()
            axes.set_ylabel("core seconds" if unit == "s" else "MiB above an idle process")
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, ncols=len(COMMANDS), loc="outside upper center")
        figure.savefig(OUT, dpi=150)
    print(OUT.relative_to(ROOT))


if __name__ == "__main__":
    main()
