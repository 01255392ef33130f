"""Cold-start chains of think-rethink: a model's own first reasoning, then a verdict by the truth.

The first reasoning is the model's own, right or wrong. Were it the gold chain, the model would
learn that it is always right and overrule every detector; so it learns to weigh the two. It says
where the detector points before it judges, in the words of its reasoning.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reground.evaluation.records import read_predictions, read_run
from reground.grounding.answers import Answer
from reground.grounding.sample import Sample
from reground.protocols.rethink import with_rethink
from reground.rollout.tools.opening import open_tool
from reground.rollout.tools.results import fill
from reground.rollout.tools.runner import ToolRunner

BATCH = 16


def chains(answers: Path, tool: str, *, timeout_s: float, results: Path) -> Iterator[Sample]:
    """The samples of a folder of ``reground eval``, each with a chain about ``tool``'s result.

    A sample that the model or the tool gave no answer to is left out. The tool's are kept in the
    file ``results``. Raises ``UserError`` where the folder holds no answers or the spec names no
    tool.
    """
    firsts = list(first_answers(answers))
    samples = [sample for sample, _ in firsts]
    own = {sample.id: answer for sample, answer in firsts}
    opened = open_tool(tool, samples=samples)
    runner = ToolRunner(opened, timeout_s=timeout_s, batch_size=BATCH)
    for filled in fill(samples, runner, path=results):
        if filled.problem is None:
            first = own[filled.sample.id]
            yield with_rethink(
                filled.sample, first_thought=first.think, first_box=next(iter(first.boxes), None)
            )


def first_answers(answers: Path) -> Iterator[tuple[Sample, Answer]]:
    """What a folder of ``reground eval`` answers, as its parser reads it."""
    run = read_run(answers)
    for row in read_predictions(answers):
        if row.error is None:
            size = row.sizes[row.sample.target_image]
            yield row.sample, run.protocol_for(row.sample).read(row.text, size)
