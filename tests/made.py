"""What several tests make: how a run was made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from reground.evaluation.records import RunInfo
from reground.grounding.sample import Sample, digest


def run_of(samples: Iterable[Sample], **changes: Any) -> RunInfo:
    """A run that asked exactly ``samples``, with ``changes``."""
    rows = list(samples)
    fields: dict[str, Any] = {
        "model": "tiny",
        "family": "univg_r1",
        "prompt": "univg_r1",
        "prompt_sha256": "0" * 64,
        "data": "val.jsonl",
        "data_sha256": digest(rows),
        "num_samples": len(rows),
        "seed": 0,
        "limit": None,
        "temperature": 0.0,
        "max_new_tokens": 64,
        "reground_version": "0.1.0",
    }
    return RunInfo(**fields | changes)
