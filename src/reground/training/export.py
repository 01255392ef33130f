"""A run's model as a folder of its own, compared with what the run trained."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reground.config import load as load_config
from reground.errors import ModelError, RunError
from reground.model.chat import Prompt
from reground.model.load import Checkpoint, load, save
from reground.runs import RunDir
from reground.training.agreement import logprobs_of
from reground.training.checkpoint import checkpoints, trainer_state
from reground.training.run import runtime_for, set_tuning, starting_checkpoint
from reground.training.settings import TrainConfig

# How far a reloaded model may be from the live one: sums in another order, and fewer bits.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how its log-probs of a probe compare, in the largest difference."""

    folder: Path
    step: int
    from_live: float
    from_start: float


def export(run: Path, out: Path, *, dtype: torch.dtype = torch.float32) -> Exported:
    """Write the newest checkpoint of ``run`` into the new folder ``out``, adapters merged.

    The folder is loaded again and must give the log-probs of the model as it was trained, base and
    adapters side by side, and others than the model it started from. Raises ``RunError`` where
    there is nothing to export and ``ModelError`` where the copy is not that model.
    """
    if out.exists():
        raise RunError(
            f"{out}: is there already; choose another folder", help="a-folder-that-is-taken"
        )
    found = checkpoints(RunDir(run))
    if not found:
        raise RunError(f"{run}: no run of `reground train` that has saved a checkpoint")
    config = load_config(TrainConfig, RunDir(run).config)
    runtime = runtime_for(config)
    live = starting_checkpoint(config, runtime)
    started = _probe(live)
    set_tuning(live, config.tuning)
    _restore(live.model, trainer_state(found[-1])["module"])
    trained = _probe(live)
    save(live, out, dtype=dtype)
    written = _probe(load(str(out), runtime=replace(runtime, dtype=dtype, autocast=None)))
    exported = Exported(out, found[-1].step, _gap(written, trained), _gap(written, started))
    problem = None
    if exported.from_live > TOLERANCE[dtype]:
        problem = (
            f"log-probs of the written model differ by {exported.from_live:.3g} from the trained "
            f"one's; expected at most {TOLERANCE[dtype]:g} in {dtype}"
        )
    elif _gap(trained, started) == 0:
        problem = (
            "it equals the model it started from; look at its losses and at tuning in its config"
        )
    if problem:
        shutil.rmtree(out)
        raise ModelError(f"{run}: not exported: {problem}")
    return exported


def _restore(model: Any, state: dict[str, Tensor]) -> None:
    own = {name.removeprefix("model."): value for name, value in state.items()}
    try:
        missing = model.load_state_dict(own, strict=False).missing_keys
    except (RuntimeError, TypeError, AttributeError) as error:
        raise RunError(
            f"the run's checkpoint does not fit its model ({str(error).splitlines()[-1].strip()}); "
            "export with the model that it started from in its place"
        ) from None
    if missing:
        raise RunError(f"the run's checkpoint lacks {len(missing)} weights, {missing[0]} first")


def _probe(checkpoint: Checkpoint) -> Tensor:
    """Log-probs of some hundred ids after a picture, flat [N]."""
    chat = checkpoint.chat
    colours = np.indices((112, 168)).transpose(1, 2, 0) % 256
    picture = Image.fromarray(np.dstack([colours, colours[..., :1]]).astype(np.uint8))
    images = chat.encode_images([picture])
    prompt = Prompt(tuple(chat.image_ids(images[0])), images)
    return logprobs_of(checkpoint, prompt, [[id for id in range(200) if id not in chat.banned_ids]])


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
