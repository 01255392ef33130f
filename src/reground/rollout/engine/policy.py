"""The policy of a model in training whose completions an engine samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from reground.model.adapter import adapter_of
from reground.model.chat import Prompt
from reground.model.load import Checkpoint
from reground.rollout.engine.asking import Asked, Engine
from reground.rollout.engine.weights import Weights
from reground.rollout.policy import DONE, Completion, Prefixes, Sampling

UNKNOWN = -1  # the version of an engine of whose weights nothing is known


@dataclass(slots=True)
class EnginePolicy:
    """An engine beside the checkpoint's model, whose weights it has since ``version`` updates."""

    checkpoint: Checkpoint
    engine: Engine
    version: int = 0

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        keys: Sequence[int] | None = None,
        prefixes: Sequence[Prefixes] | None = None,
    ) -> list[tuple[Completion, ...]]:
        """``n`` completions of each prompt, which the engine reads once for all of them."""
        keys = list(keys) if keys is not None else list(range(len(prompts)))
        if prefixes is None:
            asked = [Asked(prompt, None, key, n) for prompt, key in zip(prompts, keys, strict=True)]
            return [tuple(group) for group in self._completed(asked, sampling)]
        done = [[DONE] * n for _ in prompts]
        places = [
            (i, j) for i, own in enumerate(prefixes) for j, prefix in enumerate(own) if prefix
        ]
        asked = [Asked(prompts[i], prefixes[i][j], keys[i] + (j << 64), 1) for i, j in places]
        for (i, j), (completion,) in zip(places, self._completed(asked, sampling), strict=True):
            done[i][j] = completion
        return [tuple(group) for group in done]

    def sync(self, version: int) -> None:
        """Give the engine the model's weights, after so many updates."""
        if version != self.version:
            model = self.checkpoint.model
            tower = adapter_of(model).tower(model)
            trained = any(each.requires_grad for part in tower for each in part.parameters())
            self.engine.write(Weights(model), new_vision=trained or self.version == UNKNOWN)
            self.version = version

    def rest(self) -> None:
        """The engine gives memory back until the next ``sync``."""
        if self.engine.rest():
            self.version = UNKNOWN

    def close(self) -> None:
        """End the engine, or the connection to it."""
        self.engine.close()

    def _completed(self, asked: Sequence[Asked], sampling: Sampling) -> list[list[Completion]]:
        return [
            [replace(each, policy_version=self.version) for each in group]
            for group in self.engine.complete(asked, sampling)
        ]
