"""Load a checkpoint of a known family, say what is trained, save it so that anyone can load it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from reground.errors import DataError, ModelError, did_you_mean
from reground.io import parse_json, whole, write_json
from reground.model import attention, internvl, qwen
from reground.model.adapter import ModelAdapter, adapt
from reground.model.chat import Chat
from reground.model.linear import speed_up
from reground.model.norm import speed_up_norms
from reground.model.parts import full_state
from reground.model.runtime import Runtime
from reground.plugins import installed
from reground.protocols.choice import Answering

transformers_logging.disable_progress_bar()  # its bars would tear ours apart

_ADAPTERS: dict[str, Callable[[Any], ModelAdapter]] = {
    **dict.fromkeys(qwen.MODEL_TYPES, qwen.QwenVL.of),
    **dict.fromkeys(internvl.MODEL_TYPES, internvl.InternVL.of),
}
_WEIGHTS = ("*.safetensors", "*.bin")
SIDE_FILE = "reground.json"  # how this checkpoint answers


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model ready to be prompted: its weights, its chat, and how it answers.

    A checkpoint saved by ReGround remembers how, any other answers as its architecture does.
    """

    model: Any
    chat: Chat
    answering: Answering

    @property
    def context(self) -> int:
        """How many tokens the model attends to: those of a prompt and its answer."""
        return int(self.model.config.get_text_config().max_position_embeddings)


def load(path: str, *, runtime: Runtime | None = None) -> Checkpoint:
    """Load a folder, a run (its newest checkpoint), a hub id, or a name that a package registers.

    An entry point in the group ``reground.checkpoints`` names the folder behind it, as ``tiny``.

    Weights are read straight to the runtime's device, in its dtype. Raises ``ModelError`` where
    there is no checkpoint, an incomplete one, or one of an unknown architecture.
    """
    runtime = runtime or Runtime.resolve()
    source = _resolve(path)
    adapter, _ = _adapted(source, path)
    placed = {} if runtime.device.type == "cpu" else {"device_map": {"": runtime.device}}
    dtype = runtime.dtype or "auto"
    model = _read(AutoModelForImageTextToText, source, path, dtype=dtype, **placed)
    tokenizer = _read(AutoTokenizer, source, path)
    processor = _read_processor(adapter, source, path)
    ends = model.generation_config.eos_token_id or []
    chat = Chat(tokenizer, processor, adapter, end_ids=[ends] if isinstance(ends, int) else ends)
    return replace(prepare(model, chat, runtime=runtime), answering=answering_of(path))


def answering_of(path: str) -> Answering:
    """How the model at ``path`` answers, read without its weights; raises as :func:`load` does."""
    _, config = _adapted(_resolve(path), path)
    return remembered(path) or Answering(family=config.model_type)


def remembered(path: str) -> Answering | None:
    """What the checkpoint at ``path`` remembers of how it answers; None for one of others."""
    file = Path(_resolve(path)) / SIDE_FILE
    if not file.is_file():
        return None
    names = [each.name for each in fields(Answering)]
    try:
        known = parse_json(file.read_bytes())
        return Answering(**{name: known[name] for name in names})
    except (DataError, KeyError, TypeError) as error:
        raise ModelError(
            f"{file}: does not say how the checkpoint answers ({error!r}); expected the keys "
            f"{', '.join(names)}; save the run again, or delete the file"
        ) from None


@dataclass(frozen=True, slots=True)
class Resizer:
    """Resizes images as a checkpoint's processor does, without its model."""

    adapter: ModelAdapter
    processor: Any

    @classmethod
    def of(cls, path: str) -> Resizer:
        """Of what :func:`load` loads; raises ``ModelError`` as it does."""
        source = _resolve(path)
        adapter, _ = _adapted(source, path)
        return cls(adapter, _read_processor(adapter, source, path))

    @property
    def limits(self) -> tuple[int, int]:
        """The fewest and most pixels that an image is encoded at."""
        return self.adapter.limits(self.processor)

    def __call__(self, image: Image.Image) -> Image.Image:
        """The RGB image as it is encoded; resizing it again changes nothing."""
        return self.adapter.resized(self.processor, image)


def fingerprint(path: str) -> str | None:
    """What tells these weights from others: the SHA-256 of their files, or the hub's commit."""
    source = _resolve(path)
    files = sorted(each for end in _WEIGHTS for each in Path(source).glob(end))
    if not files:
        commit: str | None = _read(AutoConfig, source, path)._commit_hash
        return commit
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
    own with LoRA adapters merged into them.
    """
    state = full_state(checkpoint.model) if state is None else state
    if dtype is not None:
        state = {name: value.to(dtype) for name, value in state.items()}
    with whole(folder) as partial:
        checkpoint.model.save_pretrained(partial, state_dict=state)
        save_description(checkpoint, partial)
        if dtype is not None:
            _set_dtype(partial / "config.json", dtype)


def save_description(checkpoint: Checkpoint, folder: Path) -> None:
    """Write all but the weights: config, tokenizer, processor, and how the model answers."""
    checkpoint.model.config.architectures = [type(checkpoint.model).__name__]
    checkpoint.model.config.save_pretrained(folder)
    checkpoint.model.generation_config.save_pretrained(folder)
    checkpoint.chat.tokenizer.save_pretrained(folder)
    checkpoint.chat.image_processor.save_pretrained(folder)
    write_json(folder / SIDE_FILE, asdict(checkpoint.answering))


def _resolve(path: str) -> str:
    shipped = installed("checkpoints")
    if path in shipped and isinstance(folder := shipped[path].load(), Path):
        return str(folder)
    owner, *rest = path.split("/")
    is_hub_id = len(rest) == 1 and not Path(owner).exists()
    if not Path(path).exists() and not is_hub_id:
        expected = (
            "expected a run of `reground train` that has saved a checkpoint, a checkpoint's "
            "folder, a hub id (owner/name), or a shipped model: " + ", ".join(shipped)
        )
        hint = did_you_mean(path, shipped, otherwise=expected)
        raise ModelError(f"{path}: no such run or folder; {hint}")
    folders = Path(path).glob("checkpoints/step-*/model")
    steps = [folder for folder in folders if folder.parent.suffix != ".partial"]
    return str(max(steps, key=lambda folder: int(folder.parent.name[5:]))) if steps else path


def _adapted(source: str, path: str) -> tuple[ModelAdapter, Any]:
    """The checkpoint's config, and the adapter of its model type."""
    # Packages first: what they import may make their type known to transformers.
    known = {name: entry.load() for name, entry in installed("models").items()} | _ADAPTERS
    config = _read(AutoConfig, source, path)
    if config.model_type not in known:
        raise ModelError(
            f"{path}: model type {config.model_type!r} is not known; "
            f"expected one of {', '.join(known)}"
        )
    return known[config.model_type](config), config


def _read_processor(adapter: ModelAdapter, source: str, path: str) -> Any:
    return _reading(lambda: adapter.read_processor(source), path)


def _read(kind: Any, source: str, path: str, **options: Any) -> Any:
    return _reading(lambda: kind.from_pretrained(source, **options), path)


def _reading(read: Callable[[], Any], path: str) -> Any:
    try:
        return read()
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{path}: no checkpoint could be read ({first}); "
            "expected a folder with config.json, a run, a hub id, or 'tiny'"
        ) from None


def _set_dtype(path: Path, dtype: torch.dtype) -> None:
    write_json(path, parse_json(path.read_bytes()) | {"dtype": str(dtype).removeprefix("torch.")})
