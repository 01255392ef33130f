"""A vLLM engine in this process, on the device of the trainer."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reground.errors import ConfigError
from reground.model.load import Checkpoint, save_description
from reground.rollout.engine.policy import EngineRequest, check_pictures, check_version, finish
from reground.rollout.engine.weights import Weights, load_format, write
from reground.rollout.policy import Completion, Sampling


class InProcess:
    """Starts with the checkpoint's weights.

    ``max_length`` limits prompt and completion together, as the model's context does;
    ``max_images`` limits the images of a prompt; ``memory`` is the share of a GPU's memory that the
    engine takes, and gives back in ``rest``. It computes in ``dtype``: the model's own, or bfloat16
    on a GPU, where None. Raises ``ModelError`` for a model type that vLLM cannot sample here.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        max_length: int,
        max_images: int,
        memory: float,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_pictures(checkpoint.chat)
        self._chat = checkpoint.chat
        usual = torch.bfloat16 if torch.cuda.is_available() else checkpoint.model.dtype
        self.dtype = dtype or usual
        self._sleeps = torch.cuda.is_available()
        self._asleep = False
        self._llm = self._started(
            checkpoint,
            gpu_memory_utilization=memory,
            max_model_len=min(max_length, checkpoint.context),
            limit_mm_per_prompt={"image": max_images, "video": 0},
        )

    def complete(
        self, requests: Sequence[EngineRequest], sampling: Sampling
    ) -> list[list[Completion]]:
        """Completions of each prompt; raises ``EngineError`` where other ids were read."""
        from vllm import SamplingParams

        outputs = self._llm.generate(
            [self._sent(each) for each in requests],
            [SamplingParams(**each.parameters(sampling, self._chat)) for each in requests],
            use_tqdm=False,
        )
        for each, output in zip(requests, outputs, strict=True):
            each.check_read(output.prompt_token_ids)
        return [[_completion(one) for one in output.outputs] for output in outputs]

    def write(self, weights: Weights, *, new_vision: bool) -> None:
        """Give the weights, each parameter once, and forget what was read with others."""
        if self._asleep:
            self._llm.wake_up(tags=["weights"])
        engine = self._llm.llm_engine
        self._llm.apply_model(lambda model: write(model, weights, engine.model_config))
        if self._asleep:
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        self._llm.reset_prefix_cache()
        if new_vision:
            engine.reset_encoder_cache()

    def rest(self) -> bool:
        """Drop weights and cache on a GPU; on a CPU there is nothing to give back."""
        if self._sleeps:
            self._llm.sleep(level=2)
            self._asleep = True
        return self._sleeps

    def close(self) -> None:
        """End the engine while the ranks of a run can still talk, as its end needs."""
        self._llm.llm_engine.engine_core.shutdown()

    def _sent(self, request: EngineRequest) -> dict[str, Any]:
        sent: dict[str, Any] = {"prompt_token_ids": request.ids_to_send(self._chat)}
        if request.images:
            pictures = [self._chat.picture(image) for image in request.images]
            sent["multi_modal_data"] = {"image": pictures}
        return sent

    def _started(self, checkpoint: Checkpoint, **limits: Any) -> Any:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the model is in reach
        try:
            from vllm import LLM, __version__
        except ImportError:
            raise ConfigError(
                "engine.vllm is set and vLLM is not installed; pip install 'reground[vllm]'",
                help="not-installed",
            ) from None
        check_version(__version__)
        with tempfile.TemporaryDirectory() as folder:
            save_description(checkpoint, Path(folder))  # every rank of a run has its own engine
            return LLM(
                model=folder,
                load_format=load_format(Weights(checkpoint.model)),
                dtype=str(self.dtype).removeprefix("torch."),
                enforce_eager=not torch.cuda.is_available(),
                # A seeded prompt in two chunks ends vLLM 0.32 on a CPU.
                enable_chunked_prefill=torch.cuda.is_available(),
                enable_sleep_mode=self._sleeps,
                logprobs_mode="processed_logprobs",
                generation_config="vllm",  # no defaults of the checkpoint's
                mm_processor_cache_gb=0,
                **limits,
            )


def _completion(output: Any) -> Completion:
    ids = tuple(output.token_ids)
    logprobs = (step[token].logprob for step, token in zip(output.logprobs, ids, strict=True))
    return Completion(ids, tuple(logprobs), finish(output.finish_reason, output.stop_reason))
