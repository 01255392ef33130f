"""Whether rows are those of all the samples that a run asked."""

from __future__ import annotations

from collections.abc import Sequence

from reground.errors import DataError
from reground.evaluation.records import RunInfo
from reground.grounding.sample import Sample, digest


def check_cover(samples: Sequence[Sample], run: RunInfo) -> None:
    """Raise ``DataError`` unless ``samples`` are exactly those that the run asks."""
    found = digest(samples)
    if found == run.data_sha256:
        return
    if len(samples) >= run.num_samples:
        raise DataError(
            f"these are not the samples of {run.data} that were asked: sha256 {found[:12]}… here, "
            f"{run.data_sha256[:12]}… there; predict again with this version of the data"
        )
    part = f"shard {run.shard} holds " if run.shard else ""
    raise DataError(
        f"{part}{len(samples)} of the {run.num_samples} samples of {run.data}; go on with the same "
        "`reground eval`, `reground merge` the shards, or publish a part with --partial"
    )
