"""An answer as a picture and in the forms of other tools: nothing moves, or is half-written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import supervision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops

from reground.api import Grounder
from reground.data.answered import Grounding
from reground.data.convert import convert
from reground.errors import ConfigError, DataError
from reground.grounding.answers import Answer, Status
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample
from reground.tinyworld import scenes

Edges = tuple[float, float, float, float]


def found(
    *boxes: Edges,
    size: tuple[int, int] = (640, 480),
    scores: tuple[float | None, ...] = (),
    status: Status = Status.OK,
) -> Grounding:
    sample = Sample("0", (ImageRef("photo.jpg", *size),), "the cup", (), "ground")
    own = tuple(Box(*each, sample.images[0].frame) for each in boxes)
    return Grounding(Answer(status, own), "...", sample, scores, (Image.new("RGB", size, "#444"),))


@st.composite
def answers(draw: st.DrawFn) -> Grounding:
    """Up to four boxes with an area in an image of any size, each with a score or all without."""
    width, height = draw(st.integers(2, 9000)), draw(st.integers(2, 9000))

    def side(most: int) -> tuple[float, float]:
        low = draw(st.floats(0, most - 1, allow_subnormal=False))
        return low, draw(st.floats(low + 0.5, most, allow_subnormal=False))

    boxes = []
    for _ in range(draw(st.integers(1, 4))):
        (x1, x2), (y1, y2) = side(width), side(height)
        boxes.append((x1, y1, x2, y2))
    scored = draw(st.booleans())
    scores = [draw(st.floats(0, 1)) for _ in boxes] if scored else []
    return found(*boxes, size=(width, height), scores=tuple(scores))


@given(answers())
def test_boxes_and_scores_come_back_from_every_form(answer: Grounding) -> None:
    boxes = np.array([box.xyxy for box in answer.answer.boxes])
    side = max(answer.sample.images[0].width, answer.sample.images[0].height)

    detections = answer.to_supervision()
    assert np.array_equal(detections.xyxy, boxes)

    coco = np.array([each["bbox"] for each in answer.to_coco(image_id=3)])
    assert np.allclose(np.hstack([coco[:, :2], coco[:, :2] + coco[:, 2:]]), boxes, atol=1e-9 * side)

    studio = answer.to_label_studio()
    values = [each["value"] for each in studio["result"]]
    percent = np.array([[v[name] for name in ("x", "y", "width", "height")] for v in values])
    wide, high = (studio["result"][0][f"original_{name}"] for name in ("width", "height"))
    x1, y1, w, h = (percent * [wide, high, wide, high] / 100).T
    assert np.allclose(np.stack([x1, y1, x1 + w, y1 + h], 1), boxes, atol=1e-9 * side)
    assert percent.min() >= 0 and (percent[:, :2] + percent[:, 2:]).max() <= 100 + 1e-9

    if not answer.scores:
        assert detections.confidence is None and "score" not in studio
        assert {each["score"] for each in answer.to_coco()} == {1.0}
        return
    scores = list(answer.scores)
    assert np.array_equal(detections.confidence, scores)  # type: ignore[arg-type]
    assert [each["score"] for each in answer.to_coco()] == scores
    assert [each["score"] for each in studio["result"]] == scores
    assert studio["score"] == min(scores)  # type: ignore[type-var]


def test_our_own_reader_of_label_studio_finds_the_boxes(tmp_path: Path) -> None:
    answer = found((10.5, 20.25, 300, 400), (0, 0, 640, 480))
    Image.new("RGB", (640, 480)).save(tmp_path / "photo.png")
    task = {"data": {"image": "photo.png"}, "annotations": [answer.to_label_studio()]}
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    samples = list(convert("label_studio", tmp_path / "tasks.json"))
    read = sorted(box.xyxy for sample in samples for box in sample.boxes)
    assert np.allclose(read, sorted(box.xyxy for box in answer.answer.boxes), atol=0.01)


def test_supervision_draws_them() -> None:
    answer = found((100, 100, 300, 300), scores=(0.9,))
    canvas = np.zeros((480, 640, 3), dtype=np.uint8)
    drawn = supervision.BoxAnnotator().annotate(canvas.copy(), answer.to_supervision())
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert abs(rows.min() - 100) < 4 and abs(columns.max() - 300) < 4


def test_an_answer_without_a_box_has_every_form() -> None:
    none = found()
    assert len(none.to_supervision()) == 0 and none.to_coco() == []
    assert none.to_label_studio() == {"model_version": "reground", "result": []}
    assert none.to_json()["boxes"] == []
    assert found(status=Status.UNPARSABLE).plot().height > 320  # which says why, below


def test_a_box_that_nobody_could_score_leaves_no_half_of_scores() -> None:
    answer = found((0, 0, 9, 9), (0, 0, 5, 5), scores=(0.5, None))
    assert answer.to_supervision().confidence is None
    studio = answer.to_label_studio()
    assert "score" not in studio and [each.get("score") for each in studio["result"]] == [0.5, None]


def test_a_picture_shows_the_box_where_it_is(tmp_path: Path) -> None:
    answer = found((160, 120, 480, 360), scores=(0.87,))
    answer.save(tmp_path / "deep" / "answer.png")
    pixels = np.asarray(Image.open(tmp_path / "deep" / "answer.png").convert("RGB"))[:320]
    rows, columns = np.nonzero((pixels == (0xFF, 0x8C, 0x00)).all(axis=2))
    scale = 320 / 480
    assert columns.min() == pytest.approx(160 * scale, abs=2)
    assert (columns.max(), rows.max()) == pytest.approx((480 * scale, 360 * scale), abs=2)
    without = np.asarray(found((160, 120, 480, 360)).plot())[:320]
    assert (pixels != without).any()  # the score


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".PNG"])
def test_it_is_saved_as_its_suffix_says(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"answer{suffix}"
    found((1, 2, 30, 40)).save(path)
    wanted = {".jpg": "JPEG", ".webp": "WEBP"}.get(suffix, "PNG")
    assert Image.open(path).format == wanted and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["answer", "answer.txt", "answer.py"])
def test_another_suffix_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"expected \.json or that of a picture"):
        found((1, 2, 30, 40)).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_drawn_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    found((1, 2, 30, 40)).save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        found((1, 2, 30, 40), scores=(float("nan"),)).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_without_supervision_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="pip install supervision"):
        found((1, 2, 30, 40)).to_supervision()


def test_an_unsure_answer_abstains_in_every_form() -> None:
    answer = found((0, 0, 9, 9), (0, 0, 5, 5), scores=(0.9, 0.5))
    assert answer.at_least(None) is answer and answer.at_least(0.5) is answer
    unsure = answer.at_least(0.6)
    assert unsure.to_json()["status"] == "abstained" and unsure.to_json()["boxes"] == []
    assert len(unsure.to_supervision()) == 0 and unsure.to_coco() == []
    assert found().at_least(0.9).answer.status is Status.OK  # nothing is there: no box is unsure


def test_an_answer_knows_what_it_was_asked(tiny: Grounder, tmp_path: Path) -> None:
    sample = scenes.sample("referring", seed=3, index=1)
    picture = scenes.render(sample.images[0].path)
    picture.save(tmp_path / "scene.png")
    from_file = tiny.ground([tmp_path / "scene.png"], sample.question)
    at_hand = tiny.ground([picture], sample.question)
    for answer in (from_file, at_hand):
        answer.save(tmp_path / "answer.json")
        record = json.loads((tmp_path / "answer.json").read_text())
        assert np.allclose(record["boxes"], [answer.answer.boxes[0].xyxy], atol=0.005)
        assert record["scores"] == list(answer.scores) and record["status"] == "ok"
        assert record.get("path") == (None if answer is at_hand else str(tmp_path / "scene.png"))
        assert answer.to_label_studio()["result"][0]["original_width"] == picture.width
    assert from_file.plot().tobytes() == at_hand.plot().tobytes()


def test_a_first_thought_is_told_and_drawn() -> None:
    """With its score; an early answer that spells no box tells of none."""
    answer, early = found((320, 240, 480, 400)), found((64, 48, 160, 144), scores=(0.4,))
    both = answer.with_first(early)
    assert both.answer == answer.answer and "first" not in answer.to_json()
    assert both.to_json()["first"] == [{"box": [64, 48, 160, 144], "label": None, "score": 0.4}]
    new = ImageChops.difference(both.plot(), answer.plot()).getbbox()
    scale = 427 / 640
    assert new == pytest.approx([each * scale for each in (64, 48, 160, 144)], abs=3)
    assert answer.with_first(found(status=Status.UNPARSABLE)).first is None
    assert answer.with_first(found()).first == ()
