"""Our models in lmms-eval: ``--model reground --model_args pretrained=tiny``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

from lmms_eval.api.model import lmms
from PIL import Image

from reground.errors import ConfigError, DataError
from reground.integrations.chatting import ChatModel, Said, Turn, picture
from reground.integrations.exam import answer_of
from reground.rollout.policy import Sampling

MAX_TOKENS = 256


class ReGround(lmms):
    """A checkpoint of ours on any task of text and images; or stored answers, on our tasks.

    ``pretrained`` is as of ``reground eval --model``. With ``answers``, the folder of an
    evaluation, no model is loaded and its answers are given again. Messages are taken as one turn:
    images in order, then all texts.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "tiny",
        answers: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        engine: str = "transformers",
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if left := {key: value for key, value in unknown.items() if key != "max_batch_size"}:
            raise ConfigError(f"unknown model_args {', '.join(left)}; see `reground eval --help`")
        if engine not in ("transformers", "vllm"):
            raise ConfigError(f"engine {engine!r}; expected transformers or vllm")
        self._answers, self._batch = answers, int(batch_size)
        self._model = (
            None
            if answers
            else ChatModel.load(
                pretrained,
                device=device,
                dtype=dtype,
                engine=engine,
                min_pixels=min_pixels,
                max_pixels=max_pixels,
            )
        )

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers, in the order of the requests."""
        if self._answers:
            return [answer_of(self._answers, self._doc(each)["id"]) for each in requests]
        said = []
        for first in range(0, len(requests), self._batch):
            said += self._answered(requests[first : first + self._batch])
        return [each.text for each in said]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not there: our models write answers."""
        raise ConfigError("reground models answer generate_until tasks; this one asks likelihoods")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not there: one turn is what they know."""
        raise ConfigError("reground models answer one turn; this task asks several")

    def _answered(self, requests: Sequence[Any]) -> list[Said]:
        turns = [Turn.of(_parts(each.args[1](self._doc(each)))) for each in requests]
        asked = [_sampling(each.args[2]) for each in requests]
        keys = [_key(each.args[4], each.args[3]) for each in requests]
        said: dict[int, Said] = {}
        for sampling in dict.fromkeys(asked):
            places = [place for place, own in enumerate(asked) if own == sampling]
            own = self._model.answer(
                [turns[place] for place in places], sampling, keys=[keys[place] for place in places]
            )
            said |= dict(zip(places, own, strict=True))
        return [said[place] for place in range(len(requests))]

    def _doc(self, request: Any) -> Any:
        _, _, _, doc_id, task, split = request.args
        return self.task_dict[task][split][doc_id]


def _sampling(asked: dict[str, Any]) -> Sampling:
    until = asked.get("until") or ()
    greedy = not asked.get("do_sample", True)
    return Sampling(
        temperature=0.0 if greedy else float(asked.get("temperature") or 0.0),
        top_p=1.0 if asked.get("top_p") is None else float(asked["top_p"]),
        max_tokens=int(asked.get("max_new_tokens", MAX_TOKENS)),
        stop=(until,) if isinstance(until, str) else tuple(until),
    )


def _key(task: str, doc_id: int) -> int:
    return int.from_bytes(sha256(f"{task} {doc_id}".encode()).digest()[:7])


def _parts(messages: Sequence[dict[str, Any]]) -> Iterator[str | Image.Image]:
    for message in messages:
        if message["role"] not in ("system", "user"):
            raise DataError(f"a message of the {message['role']}; expected one turn of the user")
        for part in message["content"]:
            if part["type"] == "text":
                yield part["text"]
            elif part["type"] == "image":
                url = part["url"]
                yield url if isinstance(url, Image.Image) else picture(url)
            else:
                raise DataError(f"a part of type {part['type']}; expected text or image")
