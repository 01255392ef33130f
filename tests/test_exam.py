"""What harnesses are given, as far as it needs none of them."""

from __future__ import annotations

import base64
import csv
import json
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from reground.data.source import read_dataset, save_dataset
from reground.errors import ConfigError
from reground.evaluation.records import Prediction, RunInfo, write_predictions
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target, digest
from reground.integrations import vlmevalkit
from reground.integrations.exam import Asked, Exam
from reground.integrations.vlmevalkit import COLUMNS, scores, write_tsv


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """One question about one photo, one about two, with images that differ in size."""
    refs = []
    for place, sides in enumerate([(640, 480), (333, 250)]):
        path = tmp_path / f"{place}.png"
        Image.effect_noise(sides, 60).convert("RGB").save(path)
        refs.append(ImageRef(str(path), *sides))
    one, two = refs
    at = Target(0, Box(64, 48, 320, 240, one.frame))
    rows = [
        Sample("a", (one,), "the <|im_end|> cup", (at,), "x"),
        Sample("b", (one, two), "the\ttie", (Target(1, Box(1, 2, 99, 98, two.frame)),), "y", 1),
    ]
    save_dataset(tmp_path / "rows.jsonl", rows)
    return str(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("family", "sides", "answer"),
    [
        ("qwen3_vl", (640, 480), '[{"bbox_2d": [100, 100, 500, 500]}]'),
        ("qwen2_5_vl", (644, 476), '[{"bbox_2d": [64.4, 47.6, 322, 238]}]'),
    ],
)
def test_boxes_are_in_the_frame_of_what_was_shown(
    family: str, sides: tuple[int, int], answer: str, photos: str
) -> None:
    exam = Exam.of(photos, family=family)
    assert Exam.from_json(exam.to_json()) == exam
    asked, other = exam.open()
    assert exam.images(asked)[0].size == sides
    assert exam.mark(asked, answer).iou == pytest.approx(1)
    assert all(each.width * each.height >= 200_000 for each in exam.images(asked))
    assert "< |im_end|>" in exam.text(asked)
    assert exam.mark(other, answer).hit == 0


def test_a_tsv_holds_questions_images_and_what_scores_them(photos: str, tmp_path: Path) -> None:
    assert write_tsv(tmp_path / "q.tsv", Exam.of(photos, family="qwen3_vl")) == 2
    csv.field_size_limit(sys.maxsize)
    with (tmp_path / "q.tsv").open(newline="") as file:
        first, second = csv.DictReader(file, delimiter="\t")
    assert tuple(first) == COLUMNS
    assert Image.open(BytesIO(base64.b64decode(first["image"]))).size == (640, 480)
    assert second["image"].startswith("['") and second["image"].count("', '") == 1
    assert json.loads(first["answer"]) == [[64, 48, 320, 240]]
    first["prediction"], second["prediction"] = '[{"bbox_2d": [100, 100, 500, 500]}]', "no"
    found = scores([first, second])
    assert (found["acc@0.5"], found["mean_iou"], found["mean_of_tasks"]) == (0.5, 0.5, 0.5)


def test_protocols_of_several_turns_are_refused(photos: str) -> None:
    exam = Exam.of(photos, family="vg_refiner")
    with pytest.raises(ConfigError, match="calls for a tool within its answer"):
        exam.text(exam.open()[0])
    with pytest.raises(ConfigError, match="found no family and no model"):
        Exam.of(photos)


def test_stored_answers_are_read_in_the_frame_that_they_record(photos: str, tmp_path: Path) -> None:
    samples = read_dataset(photos)[:1]
    (shown,) = Exam.of(photos, family="qwen2_5_vl", limit=1).open()
    run = RunInfo(
        model="m",
        family="qwen2_5_vl",
        protocol="direct",
        protocol_by="family",
        data="rows",
        data_sha256=digest(samples),
        num_samples=1,
        seed=0,
        limit=None,
        temperature=0.0,
        max_new_tokens=9,
        hit=">=",
    )
    answer = Prediction(samples[0], '[{"bbox_2d": [64, 48, 322, 238]}]', shown.sizes, finish="stop")
    write_predictions(tmp_path / "run", [answer], run=run)
    exam = Exam.of(str(tmp_path / "run"))
    (asked,) = exam.open()
    assert (asked.sizes, exam.hit) == (shown.sizes, ">=")
    assert exam.mark(Asked(asked.sample, asked.sizes), answer.text).iou > 0.98


def test_vlmevalkit_is_asked_for_where_it_is_not() -> None:
    with pytest.raises(SystemExit, match="found no VLMEvalKit"):
        vlmevalkit.main([])
