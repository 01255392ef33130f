"""A detector is asked about all samples before the model is: its boxes are data from then on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rich.progress import track

from reground.evaluation.predicting.question import ToolUse
from reground.grounding.sample import Sample
from reground.rollout.tools.opening import open_tool
from reground.rollout.tools.precomputed import fill
from reground.rollout.tools.runner import ToolRunner

_LOG = logging.getLogger(__name__)

BATCH = 8


def asked_tool(samples: Sequence[Sample], use: ToolUse) -> list[Sample]:
    """The samples with what the tool says (``tool_results``); None where it gave no answer.

    Raises ``UserError`` where the spec names no tool, stored boxes are missing, or the tool keeps
    failing.
    """
    tool = open_tool(use.spec, samples=samples)
    runner = ToolRunner(tool, cache=use.cache, timeout_s=use.timeout_s, batch_size=BATCH)
    rows = fill(samples, runner, at_a_time=BATCH)
    filled = list(track(rows, "asking the tool", total=len(samples), transient=True))
    if failed := [row for row in filled if row.problem is not None]:
        _LOG.warning(
            "tool %s: %d of %d samples without an answer, the first because: %s",
            tool.name,
            len(failed),
            len(filled),
            failed[0].problem,
        )
    return [row.sample for row in filled]
