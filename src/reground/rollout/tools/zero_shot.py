"""Zero-shot object detectors of transformers: an image and words in, boxes in pixels out.

What they need that their own post-processing does not tell (transformers 5.19):

- Grounding DINO is asked in lower case, with one full stop at the end and no other: it reads what
  lies between two marks (``.`` or ``?``) as a phrase of its own, and without a mark at the end
  each word by itself.
- Its images are padded to the largest of a batch, which changes the features: so only images of
  one size are asked together, and an answer does not depend on its neighbours.
- Its boxes are shares of the unpadded image. OWLv2's are shares of the square that the image is
  padded to at the right and below; its processor multiplies with the longer side, so they are
  pixels, and may lie beyond the image. OWL-ViT's image is squashed: shares of each side.
- A text that is too long stops the batch with an error of tensors, so it is refused before.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForZeroShotObjectDetection, AutoProcessor
from transformers.utils import logging as transformers_logging

from reground.errors import DataError, ModelError
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection
from reground.model.load import fingerprint
from reground.rollout.tools.tool import Request, ToolError

transformers_logging.disable_progress_bar()  # its bars would tear ours apart

_DINO = ("grounding-dino", "mm-grounding-dino")
ARCHITECTURES = (*_DINO, "owlv2", "owlvit")
_NO_MARKS = str.maketrans(".?", "  ")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShotDetector:
    """A detector and its processor.

    Boxes below the score ``threshold`` are left out (None: Grounding DINO's usual 0.25, OWL's
    0.1), then all but the surest ``max_boxes``. ``text_threshold`` picks the words of Grounding
    DINO's labels. ``weights`` tells them from others.
    """

    name: str
    weights: str | None
    model: Any
    processor: Any
    threshold: float | None = None
    text_threshold: float = 0.25
    max_boxes: int = 8
    by_image = True

    @classmethod
    def load(cls, path: str) -> ZeroShotDetector:
        """From a folder or hub id, onto the GPU where there is one; raises ``ModelError``."""
        config = _read(AutoConfig, path)
        if config.model_type not in ARCHITECTURES:
            raise ModelError(
                f"{path}: architecture {config.model_type!r} is no zero-shot detector that is "
                f"known; expected one of {', '.join(ARCHITECTURES)}"
            )
        # Pillow's processors, also where torchvision has others: the same boxes on every machine.
        processor = _read(AutoProcessor, path, backend="pil")
        model = _read(AutoModelForZeroShotObjectDetection, path, dtype=torch.float32).eval()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(
            name=path, weights=fingerprint(path), model=model.to(device), processor=processor
        )

    @property
    def settings(self) -> str:
        """Weights, thresholds and limit."""
        own = (self.weights, self._threshold, self.text_threshold, self.max_boxes)
        return "weights {}, threshold {:g}, text threshold {:g}, at most {} boxes".format(*own)

    def detect(
        self, requests: Sequence[Request]
    ) -> Sequence[tuple[Detection | None, ...] | ToolError]:
        """Boxes for each request; images of one size are run together."""
        found: dict[int, tuple[Detection | None, ...] | ToolError] = {}
        groups: dict[tuple[int, int], dict[int, Image.Image]] = defaultdict(dict)
        for number, request in enumerate(requests):
            try:
                self._check(request.expression)
                image = request.image()
                groups[image.size][number] = image
            except (DataError, ToolError) as error:
                found[number] = error if isinstance(error, ToolError) else ToolError(str(error))
        for images in groups.values():
            asked = [requests[number] for number in images]
            answers = self._run(asked, list(images.values()))
            found |= zip(images, answers, strict=True)
        return [found[number] for number in range(len(requests))]

    @property
    def _is_dino(self) -> bool:
        return self.model.config.model_type in _DINO

    @property
    def _threshold(self) -> float:
        usual = 0.25 if self._is_dino else 0.1
        return usual if self.threshold is None else self.threshold

    @property
    def _most_tokens(self) -> int:
        config = self.model.config
        longest = config.text_config.max_position_embeddings
        return int(min(config.max_text_len, longest) if self._is_dino else longest)

    def _text(self, expression: str) -> str:
        if not self._is_dino:
            return expression
        return " ".join(expression.lower().translate(_NO_MARKS).split()) + "."

    def _check(self, expression: str) -> None:
        if not expression.translate(_NO_MARKS).strip():
            raise ToolError("the expression is empty")
        ids = self.processor.tokenizer(self._text(expression), verbose=False).input_ids
        if len(ids) > self._most_tokens:
            raise ToolError(f"the expression is longer than {self._most_tokens} tokens")

    @torch.inference_mode()
    def _run(
        self, requests: Sequence[Request], images: list[Image.Image]
    ) -> list[tuple[Detection | None, ...]]:
        texts = [self._text(request.expression) for request in requests]
        inputs = self._inputs(texts, images).to(self.model.device)
        outputs = self.model(**inputs)
        options: dict[str, Any] = {"text_threshold": self.text_threshold}
        if not self._is_dino:
            options = {"text_labels": [[text] for text in texts]}
        results = self.processor.post_process_grounded_object_detection(
            outputs,
            threshold=self._threshold,
            target_sizes=[(image.height, image.width) for image in images],
            **options,
        )
        return [self._best(*pair) for pair in zip(results, requests, strict=True)]

    def _inputs(self, texts: list[str], images: list[Image.Image]) -> Any:
        if self._is_dino:
            return self.processor(images=images, text=texts, padding=True, return_tensors="pt")
        return self.processor(
            images=images,
            text=[[text] for text in texts],
            padding="max_length",
            max_length=self._most_tokens,
            return_tensors="pt",
        )

    def _best(self, result: Any, request: Request) -> tuple[Detection | None, ...]:
        """The surest boxes of one image, first the surest."""
        sample = request.sample
        frame = sample.images[sample.target_image].frame
        best = result["scores"].sort(descending=True, stable=True).indices[: self.max_boxes]
        found: list[Detection | None] = []
        for index in best.tolist():
            x1, y1, x2, y2 = edges = result["boxes"][index].tolist()
            if not all(map(math.isfinite, edges)):
                found.append(None)
                continue
            box, score = Box(x1, y1, x2, y2, frame), float(result["scores"][index])
            label = self._label(result["text_labels"][index])
            found.append(Detection(sample.target_image, box, label, score))
        return tuple(found)

    def _label(self, text: str) -> str | None:
        """The words that a box answers to, without the marks between them."""
        for mark in self.processor.tokenizer.all_special_tokens:
            text = text.replace(mark, " ")
        return " ".join(text.split()).rstrip(" .") or None


def _read(kind: Any, path: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(path, trust_remote_code=False, **options)
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{path}: no zero-shot detector could be read ({first}); "
            "expected a folder with config.json, or a hub id"
        ) from None
