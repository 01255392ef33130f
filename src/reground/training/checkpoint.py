"""Checkpoints: a folder that anyone can load, with what a bit-exact resume needs.

A checkpoint appears by one rename, so that a kill leaves the one before it in place.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

from reground.errors import RunError
from reground.io import parse_json, whole, write_json
from reground.model.load import Checkpoint, save
from reground.runs import RunDir

_MODEL, _STATE = "model", "trainer.pt"
# What a file of another make raises, once it is read as a trainer's.
_DAMAGES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass(frozen=True, slots=True)
class Saved:
    """One checkpoint on disk, made after ``step`` steps."""

    path: Path
    step: int

    @property
    def model(self) -> Path:
        """The folder that ``AutoModelForImageTextToText.from_pretrained`` loads."""
        return self.path / _MODEL


def checkpoints(run: RunDir) -> list[Saved]:
    """The run's checkpoints, oldest first; unfinished ones do not count."""
    found = [path for path in run.checkpoints.glob("step-*") if path.suffix != ".partial"]
    return sorted((Saved(path, int(path.name[5:])) for path in found), key=lambda saved: saved.step)


def save_step(
    run: RunDir,
    step: int,
    checkpoint: Checkpoint,
    weights: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    keep: int,
) -> None:
    """Write the checkpoint of ``step`` and delete all but the newest ``keep``.

    ``weights`` are for anyone to load; ``state`` holds ``module``, ``optimizer`` and ``extra``, to
    go on from.
    """
    with whole(run.checkpoints / f"step-{step:06d}") as partial:
        save(checkpoint, partial / _MODEL, state=weights)
        with (partial / _STATE).open("wb") as file:  # a path would hide why a write failed
            torch.save(state, file)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old.path)


def restore(
    run: RunDir, *, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, Any]]:
    """Load the newest checkpoint into ``module`` and ``optimizer``; returns (step, extra).

    Without a checkpoint nothing is loaded and the step is 0. Raises ``RunError`` where the
    checkpoint does not fit the module.
    """
    saved = checkpoints(run)
    if not saved:
        return 0, {}
    state = trainer_state(saved[-1])
    try:
        set_state_dict(
            module,
            optimizer,
            model_state_dict=state["module"],
            optim_state_dict=state["optimizer"],
            options=WHOLE,
        )
    except _DAMAGES as error:
        raise RunError(
            f"{saved[-1].path}: does not fit the model of this run ({_first_line(error)}); "
            "resume with the code and model that wrote it, or start again with --clean",
            help="resumed-otherwise",
        ) from None
    return saved[-1].step, dict(state["extra"])


def trainer_state(saved: Saved) -> dict[str, Any]:
    """``module``, ``optimizer`` and ``extra`` of a checkpoint, mapped from its file.

    Ranks of a machine share what is mapped, and each copies the parts that it needs. Raises
    ``RunError`` where the file is damaged, or would run code.
    """
    path = saved.path / _STATE
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        parts = {name: type(state[name]).__name__ for name in ("module", "optimizer", "extra")}
        if set(parts.values()) != {"dict"}:
            raise ValueError(f"module, optimizer and extra are {parts}")
    except (*_DAMAGES, OSError, EOFError, pickle.UnpicklingError) as error:
        raise RunError(
            f"{path}: found no state of a trainer ({_first_line(error)}); expected "
            f"what `reground train` wrote; delete {saved.path} to go on from the one before",
            help="resumed-otherwise",
        ) from None
    return state


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def save_best(
    run: RunDir, checkpoint: Checkpoint, state: Mapping[str, Tensor], *, step: int, score: float
) -> None:
    """Keep the weights with the best validation score as ``best``, with their step."""
    save(checkpoint, run.path / "best", state=state)
    write_json(run.path / "best.json", {"step": step, "validation/acc@0.5": score})


def read_best(run: RunDir) -> float:
    """The best validation score so far; minus infinity before the first."""
    path = run.path / "best.json"
    return float(parse_json(path.read_bytes())["validation/acc@0.5"]) if path.exists() else -1.0
