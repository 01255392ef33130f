"""Whether rows are those of all the samples that a run asked."""

from __future__ import annotations

from collections.abc import Sequence

from reground.errors import DataError
from reground.evaluation.records import RunInfo
from reground.grounding.sample import digest_of


def check_cover(rows: Sequence[bytes], run: RunInfo) -> None:
    """Raise ``DataError`` unless samples are exactly those that the run asks.

    ``rows`` are the :func:`row_digest` of each.
    """
    found = digest_of(rows)
    if found == run.data_sha256:
        return
    if len(rows) >= run.num_samples:
        raise DataError(
            f"these are not the samples of {run.data} that were asked: sha256 {found[:12]}… here, "
            f"{run.data_sha256[:12]}… there; predict again with this version of the data",
            help="unfinished-evaluations",
        )
    part = f"shard {run.shard} holds " if run.shard else ""
    raise DataError(
        f"{part}{len(rows)} of the {run.num_samples} samples of {run.data}; go on with the same "
        "`reground eval`, `reground merge` the shards, or publish a part with --partial",
        help="unfinished-evaluations",
    )
