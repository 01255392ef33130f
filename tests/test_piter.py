"""VG-Refiner's fair protocol: one turn with the detector's boxes, for every model alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import server
from reground.data.source import save_dataset
from reground.errors import ConfigError, DataError
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.predict import predict_folder
from reground.evaluation.predicting.question import Question
from reground.evaluation.records import read_predictions, read_run, read_scores
from reground.grounding.boxes import Box
from reground.grounding.codecs import EncodedSize, Form
from reground.grounding.grammars import Grammar
from reground.grounding.refinement_reward import reward
from reground.grounding.sample import Detection, ImageRef, Sample, Target
from reground.protocols.families import FAMILIES
from reground.protocols.protocol import get_protocol
from reground.rollout.endpoint import Endpoint
from server import Response, says, serving

SHARED = Path(__file__).parents[1] / "../shared/data"
SIZE = EncodedSize(500, 478, 504, 476)
IMAGE = ImageRef("pizza.jpg", 500, 478)
TOOL = Detection(0, Box(50, 47.8, 250, 239, SIZE.pixels))
SAMPLE = Sample("one", (IMAGE,), "the pizza", (Target(0, TOOL.box),), "rec", tool_results=(TOOL,))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gets_the_same_turn_in_its_own_frame(name: str) -> None:
    own = get_protocol(name, "piter")
    assert (own.codec.frame, own.codec.grammar) == (FAMILIES[name].codec.frame, Grammar.JSON)
    assert (own.form, own.profile.name) == (Form.DIRECT, "piter")
    text = own.user_text(SAMPLE, [SIZE])
    (line,) = (line for line in text.splitlines() if "detector" in line)
    boxes = json.loads(line[line.index("[") :])
    frame = SIZE.frame(own.codec.frame)
    assert boxes[0]["bbox_2d"] == pytest.approx(TOOL.box.to(frame).xyxy, abs=1)
    assert "the pizza" in text


def test_a_sample_without_a_detectors_boxes_cannot_be_asked_and_none_found_can() -> None:
    own = get_protocol("qwen3_vl", "piter")
    with pytest.raises(DataError, match="no detector's result"):
        own.user_text(replace(SAMPLE, tool_results=None), [SIZE])
    empty = replace(SAMPLE, tool_results=())
    assert ": []" in own.user_text(empty, [SIZE])


def test_a_family_that_is_none_under_the_protocol_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'qwen3_vl'"):
        get_protocol("qwen3vl", "piter")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the photo in ../shared/data")
def test_the_pizza_the_tool_is_wrong_the_model_right(tmp_path: Path) -> None:
    facts = json.loads((SHARED / "samples/annotations.json").read_text())["pizza.jpg"]
    image = ImageRef(str(SHARED / "samples/pizza.jpg"), *facts["size_wh"])
    true = Box(*facts["gt_xyxy"], image.frame)
    tools = tuple(Detection(0, Box(*box, image.frame)) for box in facts["tool_boxes_xyxy"])
    sample = Sample("pizza", (image,), facts["expression"], (Target(0, true),), "rec")
    save_dataset(tmp_path / "data.jsonl", [replace(sample, tool_results=tools)])
    answer = Box(*facts["qwen2_5_vl_7b_box_xyxy"], image.frame)

    def respond(body: dict[str, Any], _: int) -> Response:
        (sent,) = server.images(body)
        size = EncodedSize(image.width, image.height, *sent.size)
        assert "may be wrong" in server.question(body)
        return says(get_protocol("qwen2_5_vl").render([answer], size=size))

    with serving(respond) as (url, _):
        asked = Question(
            model="m",
            data=str(tmp_path / "data.jsonl"),
            family="qwen2_5_vl",
            protocol="piter",
            processor="tiny",
            endpoint=Endpoint(url=url, model="m"),
        )
        report = evaluate(tmp_path / "out", asked)
    (prediction,) = read_predictions(tmp_path / "out")
    assert prediction.error is None
    (score,) = read_scores(tmp_path / "out")
    assert score.iou == pytest.approx(0.729, abs=0.005)  # of a box in whole pixels
    for policy in ("refinement", "refinement_top1"):
        found = report[policy]
        assert (found["ccr"], found["tool_accuracy"], found["accuracy"]) == (1.0, 0.0, 1.0)
        assert round(score.iou - found["mean_iou_delta"], 3) == 0.476  # type: ignore[operator]
    form = "<think></think><rethink></rethink>"
    text = f'{form}<answer>{{"bbox_2d": {list(score.predicted[0])}}}</answer>'
    assert reward(text, truth=[true.xyxy], tool=[tools[0].box.xyxy]).overall == 1.0


def test_a_model_in_process_is_asked_in_the_same_turn(tmp_path: Path) -> None:
    """A checkpoint remembers its own prompt, which is another family's."""
    Image.new("RGB", (500, 478)).save(tmp_path / "pizza.jpg")
    here = replace(SAMPLE, images=(replace(IMAGE, path=str(tmp_path / "pizza.jpg")),))
    save_dataset(tmp_path / "data.jsonl", [here])
    data = str(tmp_path / "data.jsonl")
    asked = Question(model="tiny", data=data, protocol="piter", max_tokens=4)
    predict_folder(tmp_path / "out", asked)
    run = read_run(tmp_path / "out")
    assert (run.family, run.protocol, run.protocol_by) == ("univg_r1", "piter", "flag")
    assert (run.prompts["piter"].name, run.prompts["piter"].chosen_by) == ("piter", "family")


def test_data_without_a_detectors_boxes_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    save_dataset(tmp_path / "data.jsonl", [replace(SAMPLE, tool_results=None)])
    asked = Question(model="tiny", data=str(tmp_path / "data.jsonl"), protocol="piter")
    with pytest.raises(DataError, match=r"from 'one' on, has a detector's boxes"):
        predict_folder(tmp_path / "out", asked)
    assert not (tmp_path / "out").exists()
