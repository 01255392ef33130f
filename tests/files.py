"""Small files that several tests write or read, and boxes in their photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from reground.grounding.boxes import Box, Frame


def write(path: Path, content: Any) -> Path:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def photo(path: Path, width: int = 200, height: int = 100) -> Path:
    """A photo of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (120, 60, 160)).save(path)
    return path


def box(x1: float, y1: float, x2: float, y2: float) -> Box:
    """A box in pixels of such a photo."""
    return Box(x1, y1, x2, y2, Frame.pixels(200, 100))
