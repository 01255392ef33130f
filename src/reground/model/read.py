"""Tokenizer, image processor and weights of a folder, each checked to be of one model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import AutoModelForImageTextToText, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from reground.errors import ModelError
from reground.grounding.codecs import PixelLimits
from reground.model.adapter import ModelAdapter, set_limits
from reground.model.chat import Chat
from reground.model.folder import GENERATION, Folder, reading
from reground.model.runtime import Runtime
from reground.model.template import image_template

transformers_logging.disable_progress_bar()  # its bars would tear ours apart
_LOG = logging.getLogger(__name__)


def read_chat(
    folder: Folder, adapter: ModelAdapter, config: Any, limits: PixelLimits | None
) -> Chat:
    """What renders prompts: all that can be read without weights.

    Raises ``ModelError`` for files of different models, ``ConfigError`` as :func:`set_limits`.
    """
    processor = read_processor(folder, adapter, config, limits)
    tokenizer = _tokenizer(folder, adapter, config)
    return Chat(tokenizer, processor, adapter, end_ids=_end_ids(folder, config))


def read_processor(
    folder: Folder, adapter: ModelAdapter, config: Any, limits: PixelLimits | None
) -> Any:
    """The image processor; raises as :func:`read_chat`."""
    processor = reading(lambda: adapter.read_processor(folder.source, config), folder.name)
    set_limits(adapter, processor, limits or PixelLimits())
    return processor


def read_model(folder: Folder, runtime: Runtime) -> Any:
    """The weights in their model; all of them, and none that it does not have room for."""
    folder.check_weights()
    placed = {} if runtime.device.type == "cpu" else {"device_map": {"": runtime.device}}
    with _quiet():
        model, found = folder.read(
            AutoModelForImageTextToText,
            dtype=runtime.dtype or "auto",
            attn_implementation="sdpa",  # another one may be code of the hub
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are reported below
            output_loading_info=True,
            **placed,
        )
    unfit = sorted([*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])])
    if unfit:
        raise ModelError(
            f"{folder.name}: {len(unfit)} weights are missing or of another shape than config.json "
            f"says, {unfit[0]} first; expected those of this very model, all of them; download it "
            "again",
            help="incomplete-checkpoint",
        )
    if unused := sorted(found["unexpected_keys"]):
        _LOG.warning(
            "%s: %d weights are left out, for which the model has no place; the first is %s",
            folder.name,
            len(unused),
            unused[0],
        )
    return model


def _tokenizer(folder: Folder, adapter: ModelAdapter, config: Any) -> Any:
    """The tokenizer, with the template that knows images, once it is known to be this model's."""
    tokenizer = folder.read(AutoTokenizer)
    room = config.get_text_config().vocab_size
    last = max(tokenizer.get_vocab().values(), default=-1)
    image_id = tokenizer.get_vocab().get(adapter.slot)
    problem = None
    if not last < room:
        problem = f"has ids up to {last}, and the model has room for {room}"
    elif image_id != adapter.image_token_id:
        problem = (
            f"has the id {image_id} for {adapter.slot}, and config.json says "
            f"{adapter.image_token_id} (image_token_id)"
        )
    elif tokenizer.eos_token_id is None:
        problem = "names no eos_token, which ends an answer"
    if problem:
        raise ModelError(
            f"{folder.name}: its tokenizer {problem}; expected the tokenizer of this very model; "
            "copy its files and config.json from the checkpoint that it was made from"
        )
    tokenizer.chat_template = image_template(folder, tokenizer, adapter.slot)
    return tokenizer


def _end_ids(folder: Folder, config: Any) -> list[int]:
    """All ids that end a text by generation_config.json, or else by config.json."""
    named = folder.settings(GENERATION).get("eos_token_id")
    if named is None:
        named = GenerationConfig.from_model_config(config).eos_token_id
    ends = named if isinstance(named, list) else [] if named is None else [named]
    if not all(isinstance(each, int) for each in ends):
        raise ModelError(
            f"{folder.name}: {GENERATION} says eos_token_id {named!r}, expected ids; copy the file "
            "from the checkpoint that it was made from"
        )
    return ends


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers says nothing of weights: we do."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
