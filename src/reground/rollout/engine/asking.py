"""What an engine is asked and answers, whether it runs in this process or behind a server."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from logging import getLogger
from typing import Any, Protocol

from PIL import Image

from reground.errors import EngineError
from reground.model.chat import Chat, EncodedImage, Prompt
from reground.rollout.engine.weights import Source
from reground.rollout.policy import Completion, Finish, Prefix, Sampling

_LOG = getLogger(__name__)

TESTED = "0.32"  # of vLLM, whose inner parts change with every minor version


@dataclass(frozen=True, slots=True)
class Asked:
    """``n`` completions behind a prompt and what stands behind it; ``key`` seeds them."""

    prompt: Prompt
    prefix: Prefix | None
    key: int
    n: int

    @property
    def ids(self) -> tuple[int, ...]:
        """All ids to read, an image as all its tokens."""
        return (*self.prompt.ids, *(self.prefix.ids if self.prefix else ()))

    @property
    def images(self) -> tuple[EncodedImage, ...]:
        """The images among them, in order."""
        return (*self.prompt.images, *(self.prefix.images if self.prefix else ()))


class Engine(Protocol):
    """Something of vLLM's that completes prompts and can be given new weights."""

    def complete(self, asked: Sequence[Asked], sampling: Sampling) -> list[list[Completion]]:
        """Completions of each prompt; raises ``EngineError`` where other ids were read."""

    def write(self, source: Source, *, new_vision: bool) -> None:
        """Sample with these weights from now on, and forget what was read with others.

        Features of images stay unless there is ``new_vision``.
        """

    def rest(self) -> bool:
        """Give memory back until the next weights come; whether those of now are lost."""

    def close(self) -> None:
        """End it, or the connection to it."""


def parameters(asked: Asked, sampling: Sampling, chat: Chat) -> dict[str, Any]:
    """vLLM's sampling parameters. Log-probs are processed ones, so that bans and temperature count.

    A completion ends where it ends in our own decoding, and bans are texts of tokens.
    """
    return {
        "n": asked.n,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": random.Random(f"{asked.key}/{len(asked.ids)}").getrandbits(53),
        "stop": list(sampling.stop),
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "detokenize": bool(sampling.stop),
        "stop_token_ids": sorted(chat.end_ids),
        "bad_words": chat.tokenizer.convert_ids_to_tokens(list(chat.banned_ids)),
        "logprobs": 0,
    }


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


def check_ids(asked: Asked, read: Sequence[int]) -> None:
    """Raise ``EngineError`` where the engine, which expands images itself, read other ids."""
    ours = asked.ids
    if ours == tuple(read):
        return
    pairs = enumerate(zip(ours, read, strict=False))
    place = next((i for i, (one, two) in pairs if one != two), min(len(ours), len(read)))
    raise EngineError(
        f"the engine read {len(read)} ids of a prompt of {len(ours)}, the first other one at place "
        f"{place}; expected the trainer's; compare the processors of checkpoint and engine"
    )
