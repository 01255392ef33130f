"""The policy whose completions an engine of vLLM samples, and what an engine is asked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from logging import getLogger
from typing import Any, Protocol

from PIL import Image

from reground.errors import EngineError
from reground.model.adapter import adapter_of
from reground.model.chat import Chat, EncodedImage, Prompt
from reground.model.load import Checkpoint
from reground.rollout.engine.weights import Weights
from reground.rollout.policy import DONE, Completion, Finish, Heard, Prefix, Prefixes, Sampling

_LOG = getLogger(__name__)

UNKNOWN = -1  # the version of an engine of whose weights nothing is known
TESTED = "0.32"  # of vLLM, whose inner parts change with every minor version


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """For ``n`` completions of a prompt and the prefix after it; ``key`` seeds them."""

    prompt: Prompt
    prefix: Prefix
    key: int
    n: int

    @property
    def ids(self) -> tuple[int, ...]:
        """All ids to read, an image as all its tokens."""
        return (*self.prompt.ids, *self.prefix.ids)

    @property
    def images(self) -> tuple[EncodedImage, ...]:
        """The images among them, in order."""
        return (*self.prompt.images, *self.prefix.images)

    def ids_to_send(self, chat: Chat) -> list[int]:
        """The ids with one image token for each image, which the engine expands itself."""
        counts = iter([chat.num_tokens(image) for image in self.images])
        ids, short, place = self.ids, [], 0
        while place < len(ids):
            short.append(ids[place])
            place += next(counts) if ids[place] == chat.image_token_id else 1
        return short

    def parameters(self, sampling: Sampling, chat: Chat) -> dict[str, Any]:
        """vLLM's sampling parameters.

        Log-probs are processed ones, so that bans and temperature count. A completion ends where it
        ends in our own decoding, and bans are texts of tokens.
        """
        return {
            "n": self.n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": random.Random(f"{self.key}/{len(self.ids)}").getrandbits(53),
            "stop": list(sampling.stop),
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "detokenize": bool(sampling.stop),
            "stop_token_ids": sorted(chat.end_ids),
            "bad_words": chat.tokenizer.convert_ids_to_tokens(list(chat.banned_ids)),
            "logprobs": 0,
        }

    def check_read(self, read: Sequence[int]) -> None:
        """Raise ``EngineError`` where the engine read other ids than these."""
        ours = self.ids
        if ours == tuple(read):
            return
        pairs = enumerate(zip(ours, read, strict=False))
        place = next((i for i, (one, two) in pairs if one != two), min(len(ours), len(read)))
        raise EngineError(
            f"the engine read {len(read)} ids of a prompt of {len(ours)}, the first other one at "
            f"place {place}; expected the trainer's; compare the processors of checkpoint and "
            "engine"
        )


class Engine(Protocol):
    """Something of vLLM's that completes prompts and takes new weights."""

    def complete(
        self, requests: Sequence[EngineRequest], sampling: Sampling
    ) -> list[list[Completion]]:
        """Completions of each prompt; raises ``EngineError`` where other ids were read."""

    def write(self, weights: Weights, *, new_vision: bool) -> None:
        """Sample with these weights from now on, and forget what was read with others.

        Features of images stay unless there is ``new_vision``.
        """

    def rest(self) -> bool:
        """Give memory back until the next weights come; whether those of now are lost."""

    def close(self) -> None:
        """End it, or the connection to it."""


@dataclass(slots=True)
class EnginePolicy:
    """An engine and the checkpoint's model, whose weights it has since ``version`` updates."""

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
        heard: Heard | None = None,
    ) -> list[tuple[Completion, ...]]:
        """``n`` completions of each prompt, which the engine reads once for all of them."""
        done = self._generate(prompts, n, sampling, keys, prefixes)
        for place, (first, *_) in enumerate(done):
            if heard and first is not DONE:
                heard(place, first.ids)
        return done

    def _generate(
        self,
        prompts: Sequence[Prompt],
        n: int,
        sampling: Sampling,
        keys: Sequence[int] | None,
        prefixes: Sequence[Prefixes] | None,
    ) -> list[tuple[Completion, ...]]:
        keys = list(keys) if keys is not None else list(range(len(prompts)))
        if prefixes is None:
            pairs = zip(prompts, keys, strict=True)
            whole = [EngineRequest(prompt, Prefix(), key, n) for prompt, key in pairs]
            return self._completed(whole, sampling)
        requests = [
            EngineRequest(prompt, prefix, key + (number << 64), 1)
            for prompt, key, own in zip(prompts, keys, prefixes, strict=True)
            for number, prefix in enumerate(own)
            if prefix
        ]
        completed = iter(self._completed(requests, sampling))
        return [tuple(next(completed)[0] if prefix else DONE for prefix in own) for own in prefixes]

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

    def _completed(
        self, requests: Sequence[EngineRequest], sampling: Sampling
    ) -> list[tuple[Completion, ...]]:
        groups = self.engine.complete(requests, sampling)
        room = self.checkpoint.model.config.get_text_config().vocab_size
        last = max((id for group in groups for each in group for id in each.ids), default=0)
        if last >= room:
            raise EngineError(
                f"the engine sampled the token {last} of a model that knows {room}; compare the "
                "architectures of trainer and engine"
            )
        return [
            tuple(replace(each, policy_version=self.version) for each in group) for group in groups
        ]


def finish(finish_reason: str | None, stop_reason: int | str | None) -> Finish:
    """How a completion ended, in our words."""
    if finish_reason == "length":
        return "length"
    return "stop_string" if isinstance(stop_reason, str) else "stop"


def check_version(found: str) -> None:
    """Warn where vLLM is not of the tested version."""
    if not found.startswith(f"{TESTED}."):
        _LOG.warning(
            "vLLM is %s, and rollouts were tested with %s; look at rollout/logprob_gap, and "
            "take the tested one where it is large or the engine fails",
            found,
            TESTED,
        )


def check_pictures(chat: Chat) -> None:
    """Raise ``ModelError`` for a model whose images cannot be sent as they were encoded."""
    (encoded,) = chat.encode_images([Image.new("RGB", (64, 64))])
    chat.picture(encoded)
