"""Rows that mean what they say, and figures that count what they are of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reground.data.convert import convert
from reground.data.convert.questions import read_questions
from reground.data.source import open_dataset, save_dataset
from reground.errors import DataError
from reground.evaluation.records import SampleScore
from reground.evaluation.scoring.peers import get_peer
from reground.evaluation.scoring.refinement import figures, refined, refinement_of
from reground.evaluation.scoring.score import peer_score
from reground.grounding.answers import Answer, Status, score
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Detection, ImageRef, Sample
from reground.io import append_jsonl, read_jsonl
from reground.protocols.protocol import get_protocol
from reground.tinyworld import scenes


def boxes_in_two_images(folder: Path, second: tuple[int, int]) -> Sample:
    """A row of MGrounding whose answer has a box in each of two images."""
    Image.new("RGB", (640, 480)).save(folder / "a.jpg")
    Image.new("RGB", second).save(folder / "b.jpg")
    answer = (
        "image-1: <|box_start|>(10,20),(300,400)<|box_end|> "
        "image-2: <|box_start|>(100,200),(500,600)<|box_end|>"
    )
    question = "<image><image> find the object shared by all images"
    row = {
        "images": ["a.jpg", "b.jpg"],
        "type": "common_object",
        "conversations": [
            {"from": "human", "value": question},
            {"from": "gpt", "value": answer},
        ],
    }
    (folder / "rows.json").write_text(json.dumps([row]))
    (sample,) = convert("mgrounding", folder / "rows.json")
    save_dataset(folder / "rows.jsonl", [sample])
    return open_dataset(str(folder / "rows.jsonl"))[0]


@pytest.mark.parametrize("second", [(320, 640), (640, 480)], ids=["other size", "same size"])
def test_boxes_are_those_of_the_target_image(tmp_path: Path, second: tuple[int, int]) -> None:
    """With boxes in two images the gold died, or the one right box scored a half."""
    sample = boxes_in_two_images(tmp_path, second)
    assert [target.image for target in sample.targets] == [0, 1]
    (true,) = sample.boxes
    assert (sample.target_image, true.frame) == (0, sample.images[0].frame)
    (other,) = sample.boxes_in(1)
    assert other.frame == sample.images[1].frame
    assert score(Answer(Status.OK, (true,)), sample) == 1.0
    sizes = [EncodedSize(i.width, i.height, i.width, i.height) for i in sample.images]
    protocol = get_protocol("univg_r1", "direct")
    (gold,) = protocol.gold(sample, sizes)
    assert score(protocol.read(gold.text, sizes[0]), sample) > 0.98
    shown = tuple(Detection(target.image, target.box) for target in sample.targets)
    rethinks = get_protocol("vg_refiner", "think_rethink")
    own, told, _ = rethinks.gold(replace(sample, tool_results=shown), sizes)
    assert own.is_own and not told.is_own and told.text.count("bbox_2d") == 1


@pytest.mark.parametrize("image", [0, 1])
def test_others_rules_score_the_box_of_the_target_image(tmp_path: Path, image: int) -> None:
    """One box in the image that is asked about, and one elsewhere or none here."""
    sample = boxes_in_two_images(tmp_path, (640, 480))
    other = replace(sample, targets=tuple(each for each in sample.targets if each.image != image))
    answer = SampleScore(sample, status=Status.OK, iou=0.0, text="(10,20),(300,400)")
    peer = get_peer("mig_bench")
    assert (peer_score(answer, peer).iou or 0) > 0.99
    if image == 1:
        assert (peer_score(replace(answer, sample=other), peer).iou or 0) > 0.99
        return
    with pytest.raises(DataError, match="has 0 true boxes in the image that is asked about"):
        peer_score(replace(answer, sample=other), peer)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"think": 5}, "think is 5"),
        ({"rethink": ["x"]}, "rethink is .*; expected a text"),
        ({"difficulty": "hard"}, "difficulty is 'hard'; expected a number"),
    ],
)
def test_fields_of_a_wrong_type_are_refused(fields: dict[str, Any], problem: str) -> None:
    row = scenes.sample("referring", seed=1, index=0).to_json() | fields
    with pytest.raises(DataError, match=problem):
        Sample.from_json(row)


def test_lines_end_at_line_breaks_alone(tmp_path: Path) -> None:
    append_jsonl(tmp_path / "rows.jsonl", {"text": "a\u2028b\x85c"}, {"text": "d"})
    rows = read_jsonl(tmp_path / "rows.jsonl", dict)
    assert list(rows) == [{"text": "a\u2028b\x85c"}, {"text": "d"}]


def test_a_class_called_off_stays_a_text(tmp_path: Path) -> None:
    (tmp_path / "questions.yaml").write_text("off:\n  unique: the switch that is off\n")
    found = read_questions(tmp_path / "questions.yaml", ["off", "on"])
    assert list(found) == ["off"]


def test_views_of_one_photo_are_one_cluster() -> None:
    def cluster(path: str) -> str:
        sample = Sample("a", (ImageRef(path, 64, 48),), "?", (), "t")
        return SampleScore(sample, error="none").cluster

    assert cluster("a.jpg") == cluster("a.jpg#view=0,0,64,48,h") != cluster("b.jpg")


def test_what_was_never_answered_is_in_no_figure_of_the_tool() -> None:
    """Two of four right and two without a reply: accuracy 1.0 of 2, not 0.5 of 4."""
    scores = []
    for index in range(4):
        sample = scenes.sample("referring", seed=1, index=index)
        sample = replace(sample, tool_results=(Detection(0, sample.boxes[0]),))
        right = SampleScore(
            sample,
            status=Status.OK,
            iou=1.0,
            finish="stop",
            num_tokens=3,
            well_formed=True,
            num_clipped=0,
        )
        scores.append(right if index < 2 else SampleScore(sample, error="no reply"))
    found = figures(refined(scores))
    assert (found["accuracy"].value, found["accuracy"].n) == (1.0, 2)
    assert (found["tool_accuracy"].value, found["tool_accuracy"].n) == (1.0, 2)
    whole = refinement_of(scores)
    assert whole is not None
    assert (whole.n, whole.unscored, whole.accuracy) == (4, 2, 1.0)
