"""A vLLM server with our weight transfer, played by a model on the CPU, in a process of its own."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from PIL import Image
from safetensors.torch import save_file

from reground.model.chat import Prompt
from reground.model.load import load as load_checkpoint
from reground.model.load import save
from reground.rollout.engine import weights, worker
from reground.rollout.engine.worker import Announced, Invitation, Receiver
from reground.rollout.policy import Completion, Sampling
from reground.rollout.transformers_policy import TransformersPolicy
from server import Response
from worlds import Row


class FakeEngine:
    """Answers as a vLLM server with our weight transfer does, from a model on the CPU.

    It dies over request ``number`` of a kind: "generate", or "write", where weights have begun to
    come. All that it is asked with GET is in ``facts``.
    """

    def __init__(self, model: str, kind: str, number: int) -> None:
        self._dies, self._seen = (kind, number), {"generate": 0, "write": 0}
        self._policy = TransformersPolicy(load_checkpoint(model))
        self._receiver, self._lock = FakeReceiver(self._written), threading.Lock()
        self.facts = Response("")
        self._weights_are("default")

    def __call__(self, body: dict[str, Any] | None, _: int) -> Response:
        with self._lock:
            match body:
                case {"init_info": init_info}:
                    self._receiver.init_transfer_engine(Invitation(**init_info))
                case {"update_info": update_info}:
                    self._receiver.receive_weights(Announced(**update_info))
                case {"new_version": version} | {"weight_version": version}:
                    self._weights_are(version)
                case {"token_ids": _}:
                    self._one_more("generate")
                    return Response(json.dumps(self._generated(body)))
        return Response("")  # of an update that begins, or a cache that is reset

    def _weights_are(self, version: str) -> None:
        self.facts.body = json.dumps(
            {"version": "0.32.0", "world_size": 1, "weight_version": version}
        )

    def _one_more(self, kind: str) -> None:
        self._seen[kind] += 1
        if (kind, self._seen[kind]) == self._dies:
            os.kill(os.getpid(), signal.SIGKILL)

    def _written(self, named: Iterator[tuple[str, torch.Tensor]]) -> None:
        state = dict(islice(named, 10))
        self._one_more("write")
        state |= named
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save(self._policy.checkpoint, folder)
            save_file(state, folder / "model.safetensors", {"format": "pt"})
            self._policy = TransformersPolicy(load_checkpoint(str(folder)))

    def _generated(self, body: Row) -> Row:
        chat, asked = self._policy.checkpoint.chat, body["sampling_params"]
        urls = [part["url"].partition(",")[2] for part in body["content_parts"]]
        pictures = [Image.open(io.BytesIO(base64.b64decode(url))) for url in urls]
        images = tuple(chat.encode_images(pictures))
        counts = iter([chat.num_tokens(image) for image in images])
        ids = tuple(
            each
            for short in body["token_ids"]
            for each in [short] * (next(counts) if short == chat.image_token_id else 1)
        )
        sampling = Sampling(temperature=asked["temperature"], max_tokens=asked["max_tokens"])
        (group,) = self._policy.generate(
            [Prompt(ids, images)], n=asked["n"], sampling=sampling, keys=[asked["seed"]]
        )
        return {"prompt_token_ids": ids, "choices": [_choice(each) for each in group]}


class FakeReceiver(Receiver):
    """The worker's end as it is, but for the model, which is not vLLM's."""

    def __init__(self, write: Callable[[Iterator[tuple[str, torch.Tensor]]], None]) -> None:
        self.device = torch.device("cpu")
        self.parallel_config = SimpleNamespace(data_parallel_index=0, world_size=1, rank=0)
        self.model, self.model_config = write, None
        mock.patch.object(weights, "write", lambda model, named, config: model(named)).start()
        mock.patch.object(worker, "as_launched", nullcontext).start()


def _choice(completion: Completion) -> Row:
    return {
        "token_ids": completion.ids,
        "logprobs": {"content": [{"logprob": each} for each in completion.logprobs]},
        "finish_reason": completion.finish,
        "stop_reason": None,
    }
