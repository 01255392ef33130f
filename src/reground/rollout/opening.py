"""A checkpoint and what samples from it, for those who do not train it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from reground.model.load import Checkpoint, load
from reground.model.runtime import Runtime
from reground.rollout.engine.in_process import InProcess
from reground.rollout.engine.policy import EnginePolicy
from reground.rollout.policy import Policy
from reground.rollout.transformers_policy import TransformersPolicy

LONGEST, MOST_IMAGES, SHARE = 16_384, 16, 0.85  # of vLLM: tokens, images of a prompt, GPU memory


def opened(
    path: str, runtime: Runtime, *, engine: Literal["transformers", "vllm"]
) -> tuple[Checkpoint, Policy]:
    """The model at ``path``, sampled by itself or by vLLM in this process; raises as ``load``.

    vLLM takes its weights from the CPU and computes in their dtype, or in bfloat16 on a GPU.
    """
    if engine == "transformers":
        checkpoint = load(path, runtime=runtime)
        return checkpoint, TransformersPolicy(checkpoint)
    checkpoint = load(path, runtime=replace(runtime, device=torch.device("cpu")))
    vllm = InProcess(checkpoint, max_length=LONGEST, max_images=MOST_IMAGES, memory=SHARE)
    return checkpoint, EnginePolicy(checkpoint, vllm)
