"""Pre-training of the vision tower on dense targets of the scene world.

Every merged image token learns which object covers it: whether there is one, its colour and shape
as words of the language model's own embedding, and its box. The words are shared on purpose: a
token that already speaks the language's words is found by them sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reground.data import synth
from reground.data.images import SYNTH_PREFIX, load
from reground.errors import DataError
from reground.model.chat import EncodedImage
from reground.model.forward import encode_images
from reground.model.prompting import Prompter
from reground.training.draw import Draws
from reground.training.method import StepBatch
from reground.training.settings import TrainConfig
from reground.training.tally import Tally

BOX_WEIGHT = 4.0
MIN_SHARE = 0.02  # of a cell's area: less of an object than this cannot be seen


@dataclass(frozen=True, slots=True)
class DenseBatch:
    """Images and, for every merged token of theirs, [N]: colour and shape as word indices or -1.

    ``boxes`` [N, 4] are in 0-1 of the image.
    """

    images: tuple[EncodedImage, ...]
    colours: Tensor
    shapes: Tensor
    boxes: Tensor


class DenseHead(nn.Module):
    """Reads objects off image tokens: words through the tied embedding, boxes through a layer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.words = {
            kind: torch.tensor([_word_id(tokenizer, name) for name in names])
            for kind, names in (("colour", synth.COLOURS), ("shape", synth.SHAPES))
        }
        hidden = model.config.get_text_config().hidden_size
        self.present, self.box = nn.Linear(hidden, 1), nn.Linear(hidden, 4)

    def forward(self, images: Sequence[EncodedImage]) -> dict[str, Tensor]:
        """Logits ``present`` [N], ``colour`` [N, C] and ``shape`` [N, S]; ``box`` [N, 4]."""
        features = torch.cat(list(encode_images(self.model, images)["image"].pooler_output))
        embed = self.model.get_input_embeddings().weight
        words = {kind: features @ embed[ids].T for kind, ids in self.words.items()}
        return words | {"present": self.present(features)[:, 0], "box": self.box(features)}


class Dense:
    """Presence, colour, shape and box of the object under every image token."""

    ahead = True
    updates_per_batch = 1

    def __init__(self, prompter: Prompter, draws: Draws, config: TrainConfig) -> None:
        checkpoint = prompter.checkpoint
        self._chat, self._draws = checkpoint.chat, draws
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.module: nn.Module = DenseHead(checkpoint.model, self._chat.tokenizer)
        # What no dense target reaches: ranks wait for a gradient of everything that is trained.
        for name, parameter in checkpoint.model.named_parameters():
            if "deepstack_merger" in name or not ("visual." in name or "embed_tokens" in name):
                parameter.requires_grad_(False)

    def batch(self, step: int, items: Sequence[int]) -> StepBatch:
        """Images of the items with the targets of their tokens."""
        samples = [self._draws.sample(item) for item in items]
        refs = [image for sample in samples for image in sample.images]
        images = self._chat.encode_images([load(ref) for ref in refs])
        merge = self._chat.image_processor.merge_size
        rows = torch.cat(
            [
                token_targets(_scene(ref.path), image.grid[1] // merge, image.grid[2] // merge)
                for ref, image in zip(refs, images, strict=True)
            ]
        )
        batch = DenseBatch(images, rows[:, 0].long(), rows[:, 1].long(), rows[:, 2:])
        return StepBatch([batch], float(len(rows)))

    def loss(self, module: nn.Module, micro: DenseBatch, normaliser: float, tally: Tally) -> Tensor:
        """Cross-entropies and L1, summed over tokens, over the global number of tokens."""
        out, hit = module(micro.images), micro.colours >= 0
        parts = {
            "present": F.binary_cross_entropy_with_logits(
                out["present"], hit.float(), reduction="sum"
            ),
            "colour": F.cross_entropy(out["colour"][hit], micro.colours[hit], reduction="sum"),
            "shape": F.cross_entropy(out["shape"][hit], micro.shapes[hit], reduction="sum"),
            "box": F.l1_loss(out["box"][hit], micro.boxes[hit], reduction="sum"),
        }
        for kind, truth in (("colour", micro.colours), ("shape", micro.shapes)):
            right = (out[kind][hit].argmax(-1) == truth[hit]).sum()
            tally.add(f"dense/{kind}_accuracy", float(right), float(hit.sum()))
        tally.add("dense/box_l1", float(parts["box"].detach()) / 4, float(hit.sum()))
        return (sum(parts.values()) + (BOX_WEIGHT - 1) * parts["box"]) / normaliser


def token_targets(scene: synth.Scene, rows: int, columns: int) -> Tensor:
    """For each of rows x columns cells: colour, shape (or -1) and box of the object covering most.

    Returns [rows * columns, 6].
    """
    targets = torch.full((rows, columns, 6), -1.0)
    covered = torch.zeros(rows, columns)
    edges_y = torch.linspace(0, scene.height, rows + 1)
    edges_x = torch.linspace(0, scene.width, columns + 1)
    colours, shapes = list(synth.COLOURS), list(synth.SHAPES)
    for item in scene.objects:
        x1, y1, x2, y2 = item.box.xyxy
        wide = (edges_x[1:].clamp(max=x2) - edges_x[:-1].clamp(min=x1)).clamp(min=0)
        high = (edges_y[1:].clamp(max=y2) - edges_y[:-1].clamp(min=y1)).clamp(min=0)
        area = high[:, None] * wide[None, :]
        cell = scene.width * scene.height / (rows * columns)
        wins = (area > covered) & (area > MIN_SHARE * cell)
        covered = torch.where(wins, area, covered)
        unit = [x1 / scene.width, y1 / scene.height, x2 / scene.width, y2 / scene.height]
        row = [colours.index(item.colour), shapes.index(item.shape), *unit]
        targets[wins] = torch.tensor(row, dtype=torch.float32)
    return targets.view(-1, 6)


def _scene(path: str) -> synth.Scene:
    if not path.startswith(SYNTH_PREFIX):
        raise DataError(f"{path}: dense targets need scenes; draw from synth:TASK, not from photos")
    task, seed, index, image = path.removeprefix(SYNTH_PREFIX).rsplit("/", 3)
    return synth.scenes(task, seed=int(seed), index=int(index))[int(image)]


def _word_id(tokenizer: Any, word: str) -> int:
    ids: list[int] = tokenizer(f" {word}", add_special_tokens=False).input_ids
    return ids[0]
