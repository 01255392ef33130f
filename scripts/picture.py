"""Draw docs/picture.png: the shipped model answers the first scene of some tasks (seed 7).

python scripts/picture.py
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from reground.api import Grounder, Grounding
from reground.data.images import load
from reground.grounding.boxes import Box
from reground.grounding.sample import Sample
from reground.tinyworld import scenes as synth

OUT = Path(__file__).parents[1] / "docs/picture.png"
TASKS = ("attribute", "relation", "diff", "refer_grounding")
SEED = 7
TRUTH, ANSWER = "#1f9d3a", "#ff8c00"


def main() -> None:
    """Ask, draw one panel a task, save."""
    grounder = Grounder.from_pretrained("tiny")
    samples = [synth.sample(task, seed=SEED, index=0) for task in TASKS]
    counts = [len(sample.images) for sample in samples]
    figure = plt.figure(figsize=(2.1 * sum(counts), 3.1), layout="constrained")
    panels = figure.subfigures(1, len(samples), width_ratios=counts, wspace=0.04)
    for panel, sample in zip(panels, samples, strict=True):
        images = [load(image) for image in sample.images]
        answer = grounder.ground(images, sample.question, target_image=sample.target_image)
        _draw(panel, sample, answer)
    figure.savefig(OUT, dpi=110, facecolor="white")
    print(OUT.relative_to(OUT.parents[1]))


def _draw(panel: Any, sample: Sample, grounding: Grounding) -> None:
    width = 26 * len(sample.images)
    panel.suptitle("\n".join(textwrap.wrap(f"“{sample.question}”", width)), size=9, weight="bold")
    panel.supxlabel("\n".join(textwrap.wrap(grounding.answer.think or "", width)), size=8)
    axes = panel.subplots(1, len(sample.images), squeeze=False)[0]
    for number, (axis, image) in enumerate(zip(axes, sample.images, strict=True)):
        axis.imshow(load(image))
        axis.set_axis_off()
        for target in sample.targets:
            if target.image == number:
                _outline(axis, target.box, TRUTH, "-")
        for box in grounding.answer.boxes if grounding.image == number else ():
            _outline(axis, box, ANSWER, "--")


def _outline(axis: Any, box: Box, colour: str, style: str) -> None:
    x1, y1, x2, y2 = box.xyxy
    axis.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, ls=style, lw=2)
    )


if __name__ == "__main__":
    main()
