"""The files of a checkpoint beside its weights, for transformers of any age, vLLM and ReGround.

Newer releases of transformers name many settings otherwise than older ones, which pass over them.
So what was read is written again as it was, but for what training changes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from reground.io import parse_json, write_json
from reground.model.folder import (
    CONFIG,
    IMAGES,
    JINJA,
    PROCESSOR,
    SIDE_FILE,
    TEMPLATE,
    TOKENIZER,
    VIDEOS,
    Folder,
)

# What processor_config.json may hold of other files, and the files whose place it would take.
_NESTED = {"image_processor": IMAGES, "video_processor": VIDEOS}


def write_files(origin: Folder, folder: Path) -> None:
    """All files of ``origin`` but for templates, each in its own place."""
    for name, content in origin.files.items():
        if name not in (SIDE_FILE, JINJA, TEMPLATE, PROCESSOR):
            (folder / name).write_bytes(content)
    own = origin.settings(PROCESSOR)
    own.pop("chat_template", None)
    for key, name in _NESTED.items():
        if nested := own.pop(key, None):
            write_json(folder / name, nested)
    if own:
        write_json(folder / PROCESSOR, own)


def amend(
    folder: Path, *, images: dict[str, Any], template: str, architecture: str, dtype: torch.dtype
) -> None:
    """Set limits of images, template, architecture and dtype of the weights in files of settings.

    The template goes where older and newer readers of tokenizers and processors look for it.
    """
    (folder / JINJA).unlink(missing_ok=True)
    _update(folder / IMAGES, lambda own: own | images)
    _update(folder / TOKENIZER, lambda own: own | {"chat_template": template})
    write_json(folder / TEMPLATE, {"chat_template": template})
    name = str(dtype).removeprefix("torch.")
    known = {"architectures": [architecture], "torch_dtype": name}
    _update(folder / CONFIG, lambda own: _with_dtype(own, name) | known)


def _update(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    write_json(path, change(parse_json(path.read_bytes())))


def _with_dtype(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The config with this dtype, and those of its parts."""
    parts = {
        key: _with_dtype(value, name)
        for key, value in config.items()
        if key.endswith("_config") and isinstance(value, dict)
    }
    return config | parts | {"dtype": name}
