"""The tiny world: drawn scenes, tiny models, an oracle that errs, dense pre-training, the demo.

It plugs in as a user's package would, by the entry points of pyproject.toml, and nothing else knows
of it: scenes are the source ``synth`` and a photo of cells ``photo``, the oracle is a tool,
``tiny``, ``tiny_refiner`` and ``tiny_cells`` are shipped checkpoints, ``random`` makes a fresh one,
and ``dense`` is a method of training.
"""

from pathlib import Path

_ASSETS = Path(__file__).with_name("assets")

TINY = _ASSETS / "tiny"
"""Four million parameters, trained on scenes by the recipe in configs/tiny."""

TINY_REFINER = _ASSETS / "tiny_refiner"
"""The same after training to check a detector's boxes."""

TINY_CELLS = _ASSETS / "tiny_cells"
"""As large, trained on 205 photos of blood cells by the recipe in configs/bccd."""

PHOTO = _ASSETS / "photo" / "cells.jpg"
"""A photo of blood cells of BCCD's test split; its licence lies beside it."""
