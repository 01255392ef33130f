"""A checkpoint and what samples from it, for those who do not train it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from reground.errors import ConfigError
from reground.grounding.codecs import PixelLimits
from reground.model.load import Checkpoint, load
from reground.model.runtime import Runtime
from reground.rollout.engine.in_process import InProcess
from reground.rollout.engine.policy import EnginePolicy
from reground.rollout.policy import Policy
from reground.rollout.transformers_policy import TransformersPolicy

LONGEST, MOST_IMAGES = 16_384, 16  # of vLLM: tokens, images of a prompt
SHARE = {"cuda": 0.85, "cpu": 0.4}  # of memory: a CPU's is not the engine's alone


def opened(
    path: str,
    runtime: Runtime,
    *,
    engine: Literal["transformers", "vllm"],
    limits: PixelLimits | None = None,
) -> tuple[Checkpoint, Policy]:
    """The model at ``path``, sampled by itself or by vLLM in this process; raises as ``load``.

    vLLM reads its weights from the CPU and computes in the dtype asked for, or else in theirs.
    Raises ``ConfigError`` for another device than the one that vLLM takes.
    """
    if engine == "transformers":
        checkpoint = load(path, runtime=runtime, limits=limits)
        return checkpoint, TransformersPolicy(checkpoint)
    if runtime.device != (taken := Runtime.resolve().device):
        raise ConfigError(
            f"device {runtime.device} with engine vllm, which takes {taken} by itself; leave the "
            "device out, or choose a GPU with CUDA_VISIBLE_DEVICES"
        )
    on_cpu = replace(runtime, device=torch.device("cpu"))
    checkpoint = load(path, runtime=on_cpu, limits=limits)
    vllm = InProcess(
        checkpoint,
        max_length=LONGEST,
        max_images=MOST_IMAGES,
        memory=SHARE[runtime.device.type],
        dtype=checkpoint.model.dtype,
    )
    return checkpoint, EnginePolicy(checkpoint, vllm)
