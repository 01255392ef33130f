"""A detector is asked about all samples before the model is: its boxes are data from then on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from reground.grounding.sample import Sample
from reground.rollout.tools.results import fill
from reground.rollout.tools.runner import ToolRunner
from reground.rollout.tools.tool import Tool

_LOG = logging.getLogger(__name__)

BATCH = 8


def with_results(
    samples: Sequence[Sample], tool: Tool, *, timeout_s: float, path: Path
) -> list[Sample]:
    """The samples with what the tool says (``tool_results``); None where it gave no answer.

    ``path`` keeps its answers for the next run. Raises ``UserError`` as ``fill`` does.
    """
    runner = ToolRunner(tool, timeout_s=timeout_s, batch_size=BATCH)
    filled = list(fill(samples, runner, path=path))
    if failed := [row for row in filled if row.problem is not None]:
        _LOG.warning(
            "tool %s: %d of %d samples without an answer, the first because: %s",
            tool.name,
            len(failed),
            len(filled),
            failed[0].problem,
        )
    return [row.sample for row in filled]
