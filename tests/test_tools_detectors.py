"""Zero-shot detectors of transformers, with the real classes at tiny sizes and random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertTokenizer,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
    Owlv2Processor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessorPil,
    OwlViTProcessor,
    SwinConfig,
)

from reground.data.images import load
from reground.errors import ModelError
from reground.grounding.sample import Detection, ImageRef, Sample
from reground.model.load import fingerprint
from reground.rollout.tools.opening import open_tool
from reground.rollout.tools.runner import ToolRunner
from reground.rollout.tools.tool import Request, ToolError
from reground.rollout.tools.zero_shot import ZeroShotDetector
from reground.tinyworld import TINY

# The marks at the places that Grounding DINO's code expects: those of bert-base-uncased.
MARKS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
WORDS = ("the", "red", "cup", "left", "of", "a", "dog")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SMALL_TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def make_dino(folder: Path, config: Any, model: Any) -> None:
    tokenizer = BertTokenizer(vocab=MARKS | {word: 2000 + n for n, word in enumerate(WORDS)})
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    settings = config(
        backbone_config=SwinConfig(
            image_size=64,
            window_size=4,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(
            vocab_size=2048, intermediate_size=16, max_position_embeddings=64, **SMALL_TEXT
        ),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=12,
        max_text_len=16,
    )
    model(settings).save_pretrained(folder)


def make_owl(folder: Path, config: Any, model: Any, processor: Any, images: Any) -> None:
    tokens = [
        "!",
        "<|startoftext|>",
        "<|endoftext|>",
        *LETTERS,
        *(f"{each}</w>" for each in LETTERS),
    ]
    tokenizer = CLIPTokenizer(
        vocab={token: n for n, token in enumerate(tokens)}, merges=[], pad_token="!"
    )
    processor(images(size={"height": 64, "width": 64}), tokenizer).save_pretrained(folder)
    small = SMALL_TEXT | {"intermediate_size": 16}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    settings = config(
        text_config=small | ids | {"vocab_size": len(tokens), "max_position_embeddings": 16},
        vision_config=small | {"image_size": 64, "patch_size": 16},
        projection_dim=16,
    )
    model(settings).save_pretrained(folder)


MAKERS: dict[str, Callable[[Path], None]] = {
    "grounding-dino": lambda folder: make_dino(
        folder, GroundingDinoConfig, GroundingDinoForObjectDetection
    ),
    "mm-grounding-dino": lambda folder: make_dino(
        folder, MMGroundingDinoConfig, MMGroundingDinoForObjectDetection
    ),
    "owlv2": lambda folder: make_owl(
        folder, Owlv2Config, Owlv2ForObjectDetection, Owlv2Processor, Owlv2ImageProcessorPil
    ),
    "owlvit": lambda folder: make_owl(
        folder, OwlViTConfig, OwlViTForObjectDetection, OwlViTProcessor, OwlViTImageProcessorPil
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, make in MAKERS.items():
        made[name] = tmp_path_factory.mktemp(name)
        torch.manual_seed(1)
        make(made[name])
    return made


@pytest.fixture(params=MAKERS)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Photos of three sizes, the first two of one."""
    rows = []
    for number, (width, height) in enumerate([(160, 80), (160, 80), (60, 150), (97, 31)]):
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        image = ImageRef(str(path), width, height)
        rows.append(Sample(str(number), (image,), "the red cup", (), "referring"))
    return rows


def everything(folder: Path, **changes: Any) -> ZeroShotDetector:
    """A detector that keeps every box."""
    loaded = ZeroShotDetector.load(str(folder))
    fields = {name: getattr(loaded, name) for name in ("name", "weights", "model", "processor")}
    return ZeroShotDetector(**fields | {"threshold": 0.0, "max_boxes": 1000} | changes)


def one(tool: ZeroShotDetector, sample: Sample, text: str = "the red cup") -> list[Detection]:
    (found,) = tool.detect([Request(sample, text)])
    assert not isinstance(found, ToolError)
    assert None not in found
    return [each for each in found if each]


def by_hand(tool: ZeroShotDetector, sample: Sample) -> tuple[Any, Any]:
    """Scores [N] and boxes [N, 4] in pixels, from the model's numbers alone."""
    image = load(sample.images[0])
    width, height = image.size
    is_dino = "dino" in tool.model.config.model_type
    tokenizer = tool.processor.tokenizer
    text = tokenizer(["the red cup." if is_dino else "the red cup"], return_tensors="pt")
    images = tool.processor.image_processor([image], return_tensors="pt")
    with torch.no_grad():
        outputs = tool.model(**text, **images)
    centre_x, centre_y, wide, high = outputs.pred_boxes[0].numpy().astype(float).T
    scale = {"owlv2": (max(width, height),) * 2}.get(tool.model.config.model_type, (width, height))
    boxes = np.stack(
        [
            (centre_x - wide / 2) * scale[0],
            (centre_y - high / 2) * scale[1],
            (centre_x + wide / 2) * scale[0],
            (centre_y + high / 2) * scale[1],
        ],
        axis=1,
    )
    scores = 1 / (1 + np.exp(-outputs.logits[0].numpy().astype(float).max(axis=-1)))
    order = np.argsort(-scores, kind="stable")
    return scores[order], boxes[order]


def test_boxes_are_pixels_of_the_original_image_the_surest_first(
    folder: Path, samples: list[Sample]
) -> None:
    tool = everything(folder)
    for sample in samples:
        scores, boxes = by_hand(tool, sample)
        found = one(tool, sample)
        assert len(found) == len(scores) > 5
        assert [each.score for each in found] == pytest.approx(list(scores), abs=1e-5)
        ours = np.array([each.box.xyxy for each in found])
        # The order of equal scores is nobody's: boxes are compared as sets.
        np.testing.assert_allclose(np.sort(ours, axis=0), np.sort(boxes, axis=0), atol=2e-3)
        assert {each.box.frame for each in found} == {sample.images[0].frame}


def test_an_object_at_the_lower_right_of_a_padded_square_is_where_it_is(
    folders: dict[str, Path], samples: list[Sample]
) -> None:
    """OWLv2 pads at the right and below: (1, 0.5) of its square is the corner of a 2:1 photo."""
    tool = everything(folders["owlv2"])
    image = load(samples[0].images[0])
    outputs = type("Outputs", (), {})()
    outputs.logits = torch.tensor([[[3.0]]])
    outputs.pred_boxes = torch.tensor([[[0.75, 0.375, 0.5, 0.25]]])
    (result,) = tool.processor.post_process_grounded_object_detection(
        outputs, threshold=0.1, target_sizes=[(image.height, image.width)]
    )
    assert result["boxes"].tolist() == [[80, 40, 160, 80]]
    pixels = tool.processor.image_processor([image], return_tensors="pt").pixel_values[0]
    flat = pixels[:, 40:].reshape(3, -1).std(dim=1)
    assert float(flat.max()) < 1e-3 < float(pixels[:, :28].std())  # grey below, noise above


def test_an_answer_does_not_depend_on_its_neighbours(folder: Path, samples: list[Sample]) -> None:
    tool = everything(folder)
    texts = ["the red cup", "a red dog left", "dog", "the cup"]
    requests = [Request(row, text) for row, text in zip(samples, texts, strict=True)]
    together = tool.detect(requests)
    for request, found in zip(requests, together, strict=True):
        assert not isinstance(found, ToolError)
        alone = one(tool, request.sample, request.expression)
        both = [[row.box.xyxy for row in rows if row] for rows in (found, alone)]
        scores = [[row.score for row in rows if row] for rows in (found, alone)]
        np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)
        np.testing.assert_allclose(np.sort(both[0], axis=0), np.sort(both[1], axis=0), atol=0.05)


def test_only_the_surest_boxes_above_the_threshold_are_kept(
    folder: Path, samples: list[Sample]
) -> None:
    every = one(everything(folder), samples[0])
    middle = float(np.mean([each.score for each in every if each.score]))
    above = one(everything(folder, threshold=middle), samples[0])
    assert above == [each for each in every if each.score and each.score > middle]
    assert one(everything(folder, max_boxes=3), samples[0]) == every[:3]
    assert one(everything(folder, threshold=1.0), samples[0]) == []


def test_labels_are_words_of_the_expression(folder: Path, samples: list[Sample]) -> None:
    labels = {each.label for each in one(everything(folder, text_threshold=0.0), samples[0])}
    assert labels == {"the red cup"}


@pytest.mark.parametrize("text", ["The RED cup", "the red cup.", " the  red cup? ", "the. red cup"])
def test_grounding_dino_is_asked_as_it_was_trained(
    text: str, folders: dict[str, Path], samples: list[Sample]
) -> None:
    tool = everything(folders["grounding-dino"])
    assert one(tool, samples[0], text) == one(tool, samples[0], "the red cup")


def test_an_expression_that_is_too_long_or_empty_fails_alone(
    folder: Path, samples: list[Sample]
) -> None:
    tool = everything(folder)
    texts = ["the cup", "the red cup " * 20, "", " . "]
    requests = [Request(samples[0], text) for text in texts]
    good, *bad = tool.detect(requests)
    assert not isinstance(good, ToolError)
    assert [str(each) for each in bad] == [
        "the expression is longer than 16 tokens",
        "the expression is empty",
        "the expression is empty",
    ]


def test_the_longest_expression_that_fits_is_read(folder: Path, samples: list[Sample]) -> None:
    is_dino = "dino" in everything(folder).model.config.model_type
    text = "the red cup left of a dog the red cup left of a"[: 99 if is_dino else 17]
    assert len(one(everything(folder), samples[0], text)) > 5


def test_a_photo_that_is_gone_fails_alone(
    folders: dict[str, Path], samples: list[Sample], tmp_path: Path
) -> None:
    (tmp_path / "1.png").unlink()
    found = everything(folders["owlv2"]).detect([Request(row, "cup") for row in samples[:3]])
    assert [isinstance(each, ToolError) for each in found] == [False, True, False]


def test_a_detector_is_opened_by_its_folder(folder: Path, samples: list[Sample]) -> None:
    tool = open_tool(str(folder), samples=[])
    assert (tool.name, tool.by_image) == (str(folder), True)
    usual = "0.25" if "dino" in str(folder) else "0.1"
    assert tool.settings == (
        f"weights {fingerprint(str(folder))}, threshold {usual}, text threshold 0.25, "
        "at most 8 boxes"
    )
    runner = ToolRunner(tool, timeout_s=60, batch_size=2)
    replies = runner.ask([Request(row, row.question) for row in samples])
    assert [reply.problem for reply in replies] == [None] * 4
    assert all(each.box.overhang() == 0 for reply in replies for each in reply.detections)


def test_what_is_no_detector_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"qwen3_vl.*expected one of grounding-dino, .*owlv2"):
        ZeroShotDetector.load(str(TINY))
    with pytest.raises(ModelError, match="no zero-shot detector could be read"):
        open_tool(str(tmp_path), samples=[])
