"""Predictions to scores: the files between the steps, and what an answer is worth."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from made import run_of
from reground.errors import ConfigError, DataError
from reground.evaluation.records import (
    Prediction,
    SampleScore,
    read_predictions,
    read_run,
    read_scores,
    write_predictions,
    write_scores,
)
from reground.evaluation.scoring.score import score_folder, score_prediction
from reground.grounding.answers import Status
from reground.grounding.boxes import Box, FrameKind
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import ImageRef, Sample, Target
from reground.protocols.families import FAMILIES
from reground.protocols.protocol import get_protocol

SIZE = EncodedSize(640, 480, 644, 476)
BOX = Box(64, 120, 320, 360, SIZE.pixels)


def sample(name: str = "one", *, path: str = "cup.jpg", boxes: tuple[Box, ...] = (BOX,)) -> Sample:
    return Sample(
        name,
        (ImageRef(path, 640, 480),),
        "the cup",
        tuple(Target(0, box) for box in boxes),
        "find",
        strata={"kind": "attribute"},
        difficulty=0.25,
    )


RUN = run_of([sample()])


def predicted(text: str, *, of: Sample | None = None) -> Prediction:
    asked = of or sample()
    return Prediction(asked, text, (SIZE,) * len(asked.images), 12, "stop")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gold_answer_scores_the_maximum(name: str) -> None:
    family = get_protocol(name)
    text = family.render([BOX], size=SIZE, think="Left of the jug.", rethink="It is.")
    scored = score_prediction(predicted(text), family)
    assert scored.status is Status.OK
    patches = family.codec.frame is FrameKind.PATCHES  # of 20 x 15 pixels
    assert scored.iou == pytest.approx(1.0, abs=0.15 if patches else 0.02)
    assert scored.predicted[0] == pytest.approx(BOX.xyxy, abs=10 if patches else 1)
    assert (scored.well_formed, scored.num_tokens, scored.finish) == (True, 12, "stop")


@pytest.mark.parametrize(
    ("answer", "status", "iou"),
    [
        ("<answer>(100,250),(300,750)</answer>", Status.OK, 0.5),
        ("(100,250),(500,750)", Status.NO_ANSWER, 0.0),
        ("<think>(100,250),(500,750)</think><answer>there</answer>", Status.UNPARSABLE, 0.0),
        ("<answer>(100,250),(1500,750)</answer>", Status.OUT_OF_BOUNDS, 0.0),
        ("<answer>(500,250),(100,750)</answer>", Status.DEGENERATE, 0.0),
        ("<answer>none</answer>", Status.OK, 0.0),
        ("<answer>(100,250),(500,750)\n(0,0),(9,9)</answer>", Status.OK, 0.5),
    ],
)
def test_an_answer_is_worth_its_matched_iou(answer: str, status: Status, iou: float) -> None:
    scored = score_prediction(predicted(answer), get_protocol("univg_r1"))
    assert scored.status is status
    assert scored.iou == pytest.approx(iou)
    assert bool(scored.predicted) == (status is Status.OK and "none" not in answer)


def test_nothing_there_and_nothing_found_is_right() -> None:
    prediction = predicted("<answer>none</answer>", of=sample(boxes=()))
    assert score_prediction(prediction, get_protocol("univg_r1")).iou == 1.0


def test_reasoning_and_clipping_are_kept() -> None:
    text = "<think>At the edge.</think><answer>(100,250),(1005,750)</answer>"
    scored = score_prediction(predicted(text), get_protocol("univg_r1"))
    assert (scored.think, scored.num_clipped, scored.text) == ("At the edge.", 1, text)
    assert scored.predicted[0][2] == 640


@pytest.mark.parametrize(
    ("named", "iou"), [("", 1.0), (', "image": 1', 1.0), (', "image": 0', 0.0)]
)
def test_a_box_on_another_image_is_a_miss(named: str, iou: float) -> None:
    images = (ImageRef("first.jpg", 640, 480), ImageRef("second.jpg", 640, 480))
    asked = dataclasses.replace(sample(), images=images, targets=(Target(1, BOX),), target_image=1)
    text = f'[{{"bbox_2d": [100, 250, 500, 750]{named}}}]'
    scored = score_prediction(predicted(text, of=asked), get_protocol("qwen3_vl"))
    assert scored.status is Status.OK
    assert scored.iou == pytest.approx(iou)
    assert scored.cluster == "second.jpg"


def test_the_size_of_the_target_image_scales_the_answer() -> None:
    other = EncodedSize(100, 100, 112, 112)
    images = (ImageRef("small.jpg", 100, 100), ImageRef("large.jpg", 640, 480))
    asked = dataclasses.replace(sample(), images=images, targets=(Target(1, BOX),), target_image=1)
    text = get_protocol("qwen2_5_vl").render([BOX], size=SIZE)
    prediction = Prediction(asked, text, (other, SIZE), 12, "stop")
    scored = score_prediction(prediction, get_protocol("qwen2_5_vl"))
    assert scored.iou == pytest.approx(1.0, abs=0.02)


def test_an_error_is_unscored() -> None:
    failed = Prediction(sample(), error="cup.jpg: no such image")
    scored = score_prediction(failed, get_protocol("univg_r1"))
    assert (scored.status, scored.iou, scored.finish) == (None, None, None)
    assert scored.error == "cup.jpg: no such image"


def test_each_step_needs_only_the_file_before(tmp_path: Path) -> None:
    rows = [
        predicted("<answer>(100,250),(500,750)</answer>"),
        Prediction(sample("two"), "<answer>(1", (SIZE,), 64, "length"),
        Prediction(sample("three"), error="no such image"),
    ]
    assert write_predictions(tmp_path / "predicted", iter(rows), run=RUN) == 3
    assert score_folder(tmp_path / "predicted", out=tmp_path / "scored") == 3
    assert read_run(tmp_path / "scored") == RUN
    scores = list(read_scores(tmp_path / "scored"))
    assert [(row.sample.id, row.iou, row.finish) for row in scores] == [
        ("one", pytest.approx(1.0), "stop"),
        ("two", 0.0, "length"),
        ("three", None, None),
    ]
    assert scores[0].sample.strata == {"kind": "attribute"}
    assert scores[0].sample.boxes == (BOX,)


def test_files_keep_every_field(tmp_path: Path) -> None:
    asked = sample(path="synth:referring/0/1/0")
    prediction = predicted("<think>é ≠ 漢</think>\n\u2028", of=asked)
    write_predictions(tmp_path, [prediction], run=RUN)
    assert list(read_predictions(tmp_path)) == [prediction]
    score = SampleScore(
        asked,
        status=Status.OK,
        iou=1 / 3,
        predicted=((0.1, 1 / 3, 2.0, 3.0),),
        named_image=0,
        well_formed=True,
        num_clipped=1,
        num_tokens=7,
        finish="length",
        text="…",
        think="a",
        rethink="b",
    )
    write_scores(tmp_path, [score], run=RUN)
    assert list(read_scores(tmp_path)) == [score]


def test_relative_image_paths_follow_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = [sample("one", path="data/cup.jpg"), sample("two", path="/data/cup.jpg")]
    rows = [predicted("", of=one) for one in asked]
    write_predictions(Path("runs/first"), rows, run=RUN)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    paths = [row.sample.images[0].path for row in read_predictions(Path("../runs/first"))]
    assert paths == ["../data/cup.jpg", "/data/cup.jpg"]


def test_relative_image_paths_hold_in_a_linked_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``..`` behind a link leads up from where the link points."""
    (tmp_path / "far" / "off" / "runs").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "runs").symlink_to(tmp_path / "far" / "off" / "runs")
    monkeypatch.chdir(tmp_path / "here")
    row = predicted("", of=sample("one", path="photos/a.jpg"))
    write_predictions(Path("runs/first"), [row], run=RUN)
    monkeypatch.chdir(tmp_path)
    for folder in (Path("here/runs/first"), Path("far/off/runs/first")):
        (read,) = read_predictions(folder)
        assert read.sample.images[0].path == "here/photos/a.jpg"


def test_an_interrupted_write_leaves_no_file(tmp_path: Path) -> None:
    def broken() -> Any:
        yield predicted("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_predictions(tmp_path, broken(), run=RUN)
    assert not (tmp_path / "predictions.jsonl").exists()


Edit = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda row: row | {"txt": "x"}, r"predictions.jsonl:2: txt: unexpected keyword"),
        (
            lambda row: row | {"finish": "eos"},
            r":2: finish: input should be 'stop', 'length', 'no_call'",
        ),
        (lambda row: row | {"num_tokens": "12"}, r":2: num_tokens: .*valid integer"),
        (lambda row: row | {"sample": {"id": "x"}}, r":2: field 'images' is missing"),
        (lambda row: row | {"sample": [1]}, r":2: 'sample' is \[1\], expected an object"),
        (lambda row: row | {"sizes": []}, r":2: .*0 encoded sizes for 1 images"),
        (lambda row: {"sample": row["sample"]}, r":2: .*neither finish nor error"),
        (
            lambda row: row | {"sample": sample("one").to_json()},
            r":2: sample 'one' stands .* twice",
        ),
        (lambda row: [], r":2: the row: "),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, edit: Edit, message: str) -> None:
    write_predictions(tmp_path, [predicted(""), predicted("", of=sample("two"))], run=RUN)
    path = tmp_path / "predictions.jsonl"
    first, second = path.read_text(encoding="utf-8").splitlines()
    path.write_text(f"{first}\n{json.dumps(edit(json.loads(second)))}\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        list(read_predictions(tmp_path))


@pytest.mark.parametrize("line", ["", "{", '"text"', '{"sample": NaN}'])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    write_predictions(tmp_path, [predicted("")], run=RUN)
    with (tmp_path / "predictions.jsonl").open("a", encoding="utf-8") as out:
        out.write(f"{line}\n")
    with pytest.raises(DataError, match=r"predictions.jsonl:2: "):
        list(read_predictions(tmp_path))


def test_an_empty_or_absent_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run.json: no such file"):
        score_folder(tmp_path, out=tmp_path)
    write_predictions(tmp_path, [], run=RUN)
    with pytest.raises(DataError, match=r"predictions.jsonl: no rows"):
        score_folder(tmp_path, out=tmp_path)
    with pytest.raises(DataError, match=r"scores.jsonl: no such file"):
        list(read_scores(tmp_path))


def test_a_bad_run_file_is_named(tmp_path: Path) -> None:
    write_predictions(tmp_path, [predicted("")], run=RUN)
    path = tmp_path / "run.json"
    row = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(row | {"seed": "zero"}), encoding="utf-8")
    with pytest.raises(DataError, match=r"run.json: seed: .*valid integer"):
        read_run(tmp_path)
    path.write_text(json.dumps(row | {"family": "univg_r2"}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"did you mean 'univg_r1'"):
        score_folder(tmp_path, out=tmp_path)


@pytest.mark.parametrize(
    "fields", [{"status": Status.OK}, {"iou": 0.5}, {}, {"status": Status.OK, "error": "x"}]
)
def test_a_score_is_scored_or_unscored(fields: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="either status and iou, or an error"):
        SampleScore(sample(), **fields)


def test_a_frame_is_the_recorded_one() -> None:
    # The same numbers mean another box in another frame: nothing is guessed from magnitude.
    text = '[{"bbox_2d": [64, 119, 322, 357]}]'
    as_pixels = score_prediction(predicted(text), get_protocol("qwen2_5_vl"))
    as_thousandths = score_prediction(predicted(text), get_protocol("qwen3_vl"))
    assert as_pixels.iou == pytest.approx(1.0, abs=0.02)
    assert as_thousandths.iou is not None and as_thousandths.iou < 0.3


def test_a_peers_scores_do_not_replace_how_predictions_were_made(tmp_path: Path) -> None:
    write_predictions(tmp_path, [predicted("<answer>(100,250),(500,750)</answer>")], run=RUN)
    assert score_folder(tmp_path, out=tmp_path) == 1
    with pytest.raises(DataError, match="by another scorer; choose another --out"):
        score_folder(tmp_path, out=tmp_path, scorer="vlm_r1")
    assert read_run(tmp_path) == RUN
    score_folder(tmp_path, out=tmp_path / "vlm_r1", scorer="vlm_r1")
    assert read_run(tmp_path / "vlm_r1").scorer == "vlm_r1"
