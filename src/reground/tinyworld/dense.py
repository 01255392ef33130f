"""Pre-training of the vision tower on dense targets: scenes of the scene world, or boxed photos.

Every merged image token learns which object it shows: whether there is one, its name in words of
the language model's own embedding, and its box. The words are shared on purpose: a token that
already speaks the language's words is found by them sooner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from reground.config import config, of
from reground.data.images import load
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample
from reground.model.chat import EncodedImage
from reground.model.prompting import Prompter
from reground.model.vision import encode_images
from reground.tinyworld.scenes import PREFIX, scene
from reground.tinyworld.scenes.world import COLOURS, SHAPES
from reground.training.draw import Draws
from reground.training.method import StepBatch
from reground.training.settings import TrainConfig
from reground.training.tally import Tally

BOX_WEIGHT = 4.0
MIN_SHARE = 0.02  # of a cell's area: less of an object than this cannot be seen
MIN_SIDE = 0.03  # of the image's: a box error counts relative to no shorter side than this


@config
class DensePretraining:
    """Dense targets of image tokens. Tokens weigh alike, or objects do.

    With ``weigh: objects`` an object's weight is divided among its tokens, box errors count
    relative to the box, and a token goes to the object of which it shows most: for photos in which
    some objects are no larger than a token.
    """

    weigh: Literal["tokens", "objects"] = "tokens"


@dataclass(frozen=True, slots=True)
class DenseBatch:
    """Images, and for each of their N merged tokens what it shows.

    ``names`` [N, kinds] are places in the vocabularies (-1: no object), ``boxes`` [N, 4] are in 0-1
    of the image, ``weights`` [N] are those of the token's name and box.
    """

    images: tuple[EncodedImage, ...]
    names: Tensor
    boxes: Tensor
    weights: Tensor

    @property
    def num_tokens(self) -> int:
        """N, over all images."""
        return len(self.names)

    def halves(self) -> None:
        """Images of a batch stay together."""


class DenseHead(nn.Module):
    """Reads objects off image tokens: names through the tied embedding, boxes through a layer."""

    def __init__(self, model: Any, tokenizer: Any, names: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.model = model
        self.words = {
            kind: [
                torch.tensor(tokenizer(f" {name}", add_special_tokens=False).input_ids)
                for name in own
            ]
            for kind, own in names.items()
        }
        hidden = model.config.get_text_config().hidden_size
        self.present, self.box = nn.Linear(hidden, 1), nn.Linear(hidden, 4)

    def forward(self, images: Sequence[EncodedImage]) -> dict[str, Tensor]:
        """Logits ``present`` [N] and, for every kind, [N, names]; ``box`` [N, 4].

        A name of several words is the sum of their embeddings.
        """
        features = torch.cat(list(encode_images(self.model, images)["image"].pooler_output))
        embed = self.model.get_input_embeddings().weight
        logits = {
            kind: features @ torch.stack([embed[ids].sum(0) for ids in own]).T
            for kind, own in self.words.items()
        }
        return logits | {"present": self.present(features)[:, 0], "box": self.box(features)}


class Dense:
    """Presence, name and box of the object under every image token."""

    ahead = True
    updates_per_batch = 1
    reference: nn.Module | None = None

    def __init__(self, prompter: Prompter, draws: Draws, config: TrainConfig) -> None:
        checkpoint = prompter.checkpoint
        self._chat, self._draws = checkpoint.chat, draws
        settings = of(DensePretraining, config.method_settings or {}, place="method_settings")
        self._by_object = settings.weigh == "objects"
        self._vocabulary = _vocabulary(draws, config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.module: nn.Module = DenseHead(
                checkpoint.model, self._chat.tokenizer, self._vocabulary.names
            )
        # What no dense target reaches: ranks wait for a gradient of everything that is trained.
        for name, parameter in checkpoint.model.named_parameters():
            if "deepstack_merger" in name or not ("visual." in name or "embed_tokens" in name):
                parameter.requires_grad_(False)

    def batch(self, step: int, items: Sequence[int]) -> StepBatch:
        """Images of the items with the targets of their tokens."""
        drawn = [self._draws.usable(item, self._loaded) for item in items]
        views = [(rows, place) for rows, images in drawn for place in range(len(images))]
        images = self._chat.encode_images([image for _, images in drawn for image in images])
        parts = [self._targets(*view, image) for view, image in zip(views, images, strict=True)]
        names, boxes, weights = (torch.cat(part) for part in zip(*parts, strict=True))
        return StepBatch([DenseBatch(images, names, boxes, weights)], float(len(names)))

    @staticmethod
    def _loaded(rows: list[Sample]) -> tuple[list[Sample], list[Image.Image]]:
        return rows, [load(image) for image in rows[0].images]

    def loss(self, module: nn.Module, micro: DenseBatch, normaliser: float, tally: Tally) -> Tensor:
        """Cross-entropies and L1, summed over tokens, over the global number of tokens."""
        out, hit = module(micro.images), micro.weights > 0
        weights, boxes = micro.weights[hit], micro.boxes[hit]
        loss = F.binary_cross_entropy_with_logits(out["present"], hit.float(), reduction="sum")
        for kind, truth in zip(self._vocabulary.names, micro.names[hit].T, strict=True):
            logits = out[kind][hit]
            loss = loss + (F.cross_entropy(logits, truth, reduction="none") * weights).sum()
            right = (logits.argmax(-1) == truth).sum()
            tally.add(f"dense/{kind}_accuracy", float(right), float(hit.sum()))
        error = (out["box"][hit] - boxes).abs()
        tally.add("dense/box_l1", float(error.detach().sum()) / 4, float(hit.sum()))
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=MIN_SIDE).repeat(1, 2)
        error = error / sides if self._by_object else BOX_WEIGHT * error
        total: Tensor = (loss + (error.sum(1) * weights).sum()) / normaliser
        return total

    def _targets(
        self, samples: Sequence[Sample], image: int, encoded: EncodedImage
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Names, boxes and weights of the tokens of one image."""
        merge = self._chat.image_processor.merge_size
        objects = self._vocabulary.objects(image, samples)
        places, boxes = token_targets(
            objects,
            samples[0].images[image],
            encoded.grid[1] // merge,
            encoded.grid[2] // merge,
            own_share=self._by_object,
        )
        # The last row is what a token without an object (-1) gets.
        none = [-1] * len(self._vocabulary.names)
        names = torch.tensor([*(item.names for item in objects), none])[places]
        weights = (places >= 0).float()
        if self._by_object and objects:
            tokens = torch.bincount(places[places >= 0], minlength=len(objects)).clamp(min=1)
            weights = weights * (tokens.float().mean() / tokens)[places]
        return names, boxes, weights


def _vocabulary(draws: Draws, config: TrainConfig) -> Vocabulary:
    specs = [spec for phase in config.data for spec in phase.mix]
    if len({spec.startswith(PREFIX) for spec in specs}) == 2:
        raise DataError(
            f"{', '.join(specs)}: dense targets name objects by colour and shape in scenes and by "
            "question in files; draw from scenes or from files"
        )
    return Vocabulary(draws.rows())


@dataclass(frozen=True, slots=True)
class VisibleObject:
    """An object of one image: its box, and the place of its name in each vocabulary."""

    box: Box
    names: tuple[int, ...]


class Vocabulary:
    """The names that objects have, by kind: colours and shapes of scenes, questions of a file.

    In a file, every row asks for one kind of object and its targets are all of that kind.
    """

    def __init__(self, rows: Iterable[Sample]) -> None:
        questions = list(dict.fromkeys(row.question for row in rows))
        self._scenes = not questions
        scenes_own = {"colour": list(COLOURS), "shape": list(SHAPES)}
        self.names = scenes_own if self._scenes else {"object": questions}

    def objects(self, image: int, samples: Sequence[Sample]) -> list[VisibleObject]:
        """The objects of an image, from the scene itself or from all samples about it."""
        if self._scenes:
            return [
                VisibleObject(item.box, self._places(item.kind.colour, item.kind.shape))
                for item in scene(samples[0].images[image].path).objects
            ]
        return [
            VisibleObject(target.box, self._places(sample.question))
            for sample in samples
            for target in sample.targets
            if target.image == image
        ]

    def _places(self, *names: str) -> tuple[int, ...]:
        return tuple(own.index(name) for own, name in zip(self.names.values(), names, strict=True))


def token_targets(
    objects: Sequence[VisibleObject], image: ImageRef, rows: int, columns: int, *, own_share: bool
) -> tuple[Tensor, Tensor]:
    """For each of rows x columns cells: the object that it shows, and that object's box.

    Of several objects it is the one that covers most of the cell or, with ``own_share``, the one
    of which the cell shows most, so that small ones are not lost. Returns the objects' places in
    ``objects`` (-1: none) [rows * columns] and boxes in 0-1 of the image [rows * columns, 4].
    """
    places = torch.full((rows, columns), -1)
    best = torch.zeros(rows, columns)
    edges_y = torch.linspace(0, image.height, rows + 1)
    edges_x = torch.linspace(0, image.width, columns + 1)
    cell = image.width * image.height / (rows * columns)
    for place, item in enumerate(objects):
        x1, y1, x2, y2 = item.box.xyxy
        wide = (edges_x[1:].clamp(max=x2) - edges_x[:-1].clamp(min=x1)).clamp(min=0)
        high = (edges_y[1:].clamp(max=y2) - edges_y[:-1].clamp(min=y1)).clamp(min=0)
        area = high[:, None] * wide[None, :]
        score = area / item.box.area if own_share else area
        wins = (score > best) & (area > MIN_SHARE * cell)
        best = torch.where(wins, score, best)
        places[wins] = place
    sides = 2 * (image.width, image.height)
    units = [
        [edge / side for edge, side in zip(item.box.xyxy, sides, strict=True)] for item in objects
    ]
    return places.view(-1), torch.tensor([*units, [-1.0] * 4])[places.view(-1)]
