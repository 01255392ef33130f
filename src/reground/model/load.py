"""Load a checkpoint of a known family, say what is trained, save it so that anyone can load it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from transformers import AutoConfig, GenerationConfig

from reground.errors import DataError, ModelError, shown
from reground.grounding.codecs import PixelLimits
from reground.io import parse_json, whole, write_json
from reground.model import attention, internvl, qwen
from reground.model.adapter import ModelAdapter, adapt
from reground.model.chat import Chat
from reground.model.folder import CONFIG, Folder, commit_of, first_line, reading, resolve
from reground.model.folder import SIDE_FILE as SIDE_FILE
from reground.model.linear import speed_up
from reground.model.norm import speed_up_norms
from reground.model.parts import full_state
from reground.model.read import read_chat, read_model, read_processor
from reground.model.runtime import Runtime
from reground.model.write import amend, write_files
from reground.plugins import installed
from reground.protocols.choice import Answering
from reground.protocols.prompts import profile_names

_ADAPTERS: dict[str, Callable[[Any], ModelAdapter]] = {
    **dict.fromkeys(qwen.MODEL_TYPES, qwen.QwenVL.of),
    **dict.fromkeys(internvl.MODEL_TYPES, internvl.InternVL.of),
}
_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model ready to be prompted: its weights, its chat, and how it answers.

    A checkpoint saved by ReGround remembers how, any other answers as its architecture does.
    ``folder`` is what it was loaded from, None where it was made.
    """

    model: Any
    chat: Chat
    answering: Answering
    folder: Folder | None = None

    @property
    def context(self) -> int:
        """How many tokens the model attends to: those of a prompt and its answer."""
        return int(self.model.config.get_text_config().max_position_embeddings)


def load(
    path: str, *, runtime: Runtime | None = None, limits: PixelLimits | None = None
) -> Checkpoint:
    """Load a folder, a run (its newest checkpoint), a hub id, or a name that a package registers.

    An entry point in the group ``reground.checkpoints`` names the folder behind it, as ``tiny``.

    Weights are read straight to the runtime's device, in its dtype, once all else has been checked.
    Raises ``ModelError`` where there is no checkpoint, an incomplete one, one whose files belong to
    different models, or one of an unknown architecture; ``ConfigError`` as :func:`set_limits`.
    """
    runtime = runtime or Runtime.resolve()
    folder = Folder.open(path)
    adapter, config = _adapted(folder)
    answering = _remembered(folder) or Answering(family=config.model_type)
    chat = read_chat(folder, adapter, config, limits)
    model = read_model(folder, runtime)
    # Its defaults of sampling are not ours, and some are such that transformers writes none.
    model.generation_config = GenerationConfig(
        eos_token_id=sorted(chat.end_ids), pad_token_id=chat.pad_id
    )
    return replace(prepare(model, chat, runtime=runtime), answering=answering, folder=folder)


def answering_of(path: str) -> Answering:
    """How the model at ``path`` answers, read without its weights; raises as :func:`load` does."""
    folder = Folder.open(path)
    _, config = _adapted(folder)
    return _remembered(folder) or Answering(family=config.model_type)


def remembered(path: str) -> Answering | None:
    """What the checkpoint at ``path`` remembers of how it answers; None for one of others."""
    return _remembered(Folder.open(path))


def takes_any_size(path: str) -> bool:
    """Whether the model at ``path`` takes limits in pixels; raises as :func:`load` does."""
    return _adapted(Folder.open(path))[0].any_size


@dataclass(frozen=True, slots=True)
class Resizer:
    """Resizes images as a checkpoint's processor does, without its model."""

    adapter: ModelAdapter
    processor: Any

    @classmethod
    def of(cls, path: str, *, limits: PixelLimits | None = None) -> Resizer:
        """Of what :func:`load` loads; raises as it does."""
        folder = Folder.open(path)
        adapter, config = _adapted(folder)
        return cls(adapter, read_processor(folder, adapter, config, limits))

    @property
    def limits(self) -> tuple[int, int]:
        """The fewest and most pixels that an image is encoded at."""
        return self.adapter.limits(self.processor)

    def __call__(self, image: Image.Image) -> Image.Image:
        """The RGB image as it is encoded; resizing it again changes nothing."""
        return self.adapter.resized(self.processor, image)


def fingerprint(path: str) -> str | None:
    """What tells these weights from others: the SHA-256 of their files, or the hub's commit."""
    source = resolve(path)
    files = sorted(each for end in _WEIGHTS for each in Path(source).glob(end))
    if not files:
        return commit_of(source, path)
    total = hashlib.sha256()
    for each in files:
        with each.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()


def prepare(model: Any, chat: Chat, *, runtime: Runtime = Runtime()) -> Checkpoint:  # noqa: B008
    """Set the group-shared attention on the language part; the vision tower keeps SDPA."""
    model.model.language_model.config._attn_implementation = attention.NAME
    model.config.get_text_config()._attn_implementation = attention.NAME
    adapt(model, chat.adapter)
    speed_up(model)
    speed_up_norms(model)
    return Checkpoint(runtime.of(model.eval()), chat, Answering(family=model.config.model_type))


def save(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    state: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write what ``AutoModelForImageTextToText.from_pretrained`` loads (whole or not at all).

    Processor files and how the model answers go along. The weights are ``state``, or the model's
    own with LoRA adapters merged into them; one that two layers share is written once.
    """
    state = full_state(checkpoint.model) if state is None else state
    own = {
        name: value if dtype is None else value.to(dtype)
        for name, value in state.items()
        if name not in checkpoint.model.all_tied_weights_keys
    }
    with whole(folder) as partial:
        checkpoint.model.save_pretrained(partial, state_dict=own)
        save_description(checkpoint, partial, dtype=dtype)


def save_description(
    checkpoint: Checkpoint, folder: Path, *, dtype: torch.dtype | None = None
) -> None:
    """Write all but the weights: config, tokenizer, processor, and how the model answers.

    What was loaded is written as it was read, but for what training changes.
    """
    model, chat = checkpoint.model, checkpoint.chat
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    if checkpoint.folder:
        write_files(checkpoint.folder, folder)
    else:
        chat.tokenizer.save_pretrained(folder)
        chat.image_processor.save_pretrained(folder)
    amend(
        folder,
        images=chat.adapter.saved_limits(chat.image_processor),
        template=chat.tokenizer.chat_template,
        architecture=type(model).__name__,
        dtype=dtype or model.dtype,
    )
    write_json(folder / SIDE_FILE, asdict(checkpoint.answering))


def _adapted(folder: Folder) -> tuple[ModelAdapter, Any]:
    """The checkpoint's config, and the adapter of its model type."""
    # Packages first: what they import may make their type known to transformers.
    known = {name: entry.load() for name, entry in installed("models").items()} | _ADAPTERS
    named = folder.settings(CONFIG).get("model_type")
    if not isinstance(named, str) or named not in known:
        raise ModelError(
            f"{folder.name}: model type {named!r} is not known; expected one of {', '.join(known)}",
            help="unknown-model-type",
        )
    folder.check_files()
    config = folder.read(AutoConfig)
    return reading(lambda: known[named](config), folder.name), config


def _remembered(folder: Folder) -> Answering | None:
    if SIDE_FILE not in folder.files:
        return None
    names = [each.name for each in fields(Answering)]
    try:
        known = parse_json(folder.files[SIDE_FILE])
        kept = json.dumps({name: known[name] for name in names})
        answering = TypeAdapter(Answering).validate_json(kept, strict=True)
    except (DataError, KeyError, TypeError, ValidationError) as error:
        raise ModelError(
            f"{Path(folder.source) / SIDE_FILE}: does not say how the checkpoint answers "
            f"({first_line(error)}); expected the keys {', '.join(names)}; save the run again, or "
            "delete the file"
        ) from None
    for prompt in answering.prompts.values():
        if isinstance(prompt, str) and prompt not in profile_names():  # no file of this machine
            raise ModelError(
                f"{Path(folder.source) / SIDE_FILE}: names the prompt {shown(repr(prompt))}, which "
                "this version does not have; expected a packaged one, or its name and text"
            )
    return answering
