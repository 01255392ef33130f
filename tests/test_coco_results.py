"""An evaluation's answers, as pycocotools scores them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from files import photo
from made import run_of
from reground.cli import app
from reground.evaluation.records import SampleScore, write_scores
from reground.grounding.answers import Status
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target


def asked(folder: Path, name: str, label: str, rule: str, *boxes: tuple[float, ...]) -> Sample:
    image = ImageRef(str(photo(folder / f"{name}.png")), 200, 100)
    targets = tuple(Target(0, Box(*each, image.frame)) for each in boxes)
    strata = {"class": label, "rule": rule}
    return Sample(
        f"{name}-{label}-{rule}", (image,), f"{rule} {label}", targets, "t", strata=strata
    )


def answer(sample: Sample, *boxes: tuple[float, ...], **changes: Any) -> SampleScore:
    row = SampleScore(sample, status=Status.OK, iou=0.0, predicted=boxes, finish="stop")  # type: ignore[arg-type]
    return replace(row, **changes)


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    left, right, high = (0, 0, 40, 50), (100, 20, 160, 90), (10, 0, 60, 30)
    two = asked(tmp_path, "a", "cup", "all", left, right)
    rows = [
        answer(two, left, (100, 20, 160, 95)),
        answer(asked(tmp_path, "a", "cup", "leftmost", left), left),
        answer(asked(tmp_path, "b", "cup", "unique", high), (120, 50, 180, 90)),  # wrong
        answer(asked(tmp_path, "b", "plate", "absent"), (5, 5, 50, 50)),  # there is none
        answer(asked(tmp_path, "c", "plate", "unique", high), status=Status.UNPARSABLE),
        SampleScore(asked(tmp_path, "d", "cup", "unique", high), error="timeout"),
        answer(replace(two, id="pair", images=two.images * 2), left),
    ]
    write_scores(tmp_path / "run", rows, run=run_of([each.sample for each in rows]))
    return tmp_path / "run"


def export(scores: Path, out: Path) -> str:
    arguments = ["data", "export", "coco_results", str(scores), "--out", str(out)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_boxes_stand_under_the_ids_of_their_truth(scores: Path, tmp_path: Path) -> None:
    shown = export(scores, tmp_path / "out" / "coco.json")
    results = json.loads((tmp_path / "out" / "coco.json").read_text())
    truth = json.loads((tmp_path / "out" / "coco.truth.json").read_text())
    files = {each["id"]: Path(each["file_name"]).stem for each in truth["images"]}
    names = {each["id"]: each["name"] for each in truth["categories"]}
    found = {(files[e["image_id"]], names[e["category_id"]], *e["bbox"]) for e in results}
    assert found == {
        ("a", "cup", 0, 0, 40, 50),
        ("a", "cup", 100, 20, 60, 75),
        ("a", "leftmost cup", 0, 0, 40, 50),
        ("b", "cup", 120, 50, 60, 40),
        ("b", "plate", 5, 5, 45, 45),
    }
    assert all(each.keys() == {"image_id", "category_id", "bbox", "score"} for each in results)
    assert {each["score"] for each in results} == {1.0} and "5 boxes; " in shown
    assert [*files.values()] == ["a", "b", "c", "d"]
    for what in (
        "1 x questions that were never answered",
        "1 x answers without a box that counts (unparsable)",
        "1 x questions about several images",
    ):
        assert what in shown


def test_pycocotools_scores_them(scores: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="needs the package pycocotools")
    from pycocotools.cocoeval import COCOeval

    export(scores, tmp_path / "coco.json")
    truth = coco.COCO(str(tmp_path / "coco.truth.json"))
    rated = COCOeval(truth, truth.loadRes(str(tmp_path / "coco.json")), "bbox")
    rated.params.catIds = truth.getCatIds(catNms=["cup"])
    rated.params.iouThrs = rated.params.iouThrs[:1]
    rated.evaluate()
    rated.accumulate()
    recall = rated.eval["recall"][0, 0, 0, -1]
    assert recall == 0.5  # two cups of four: the others are missed or were never answered
    hits = sum(int((each["dtMatches"] > 0).sum()) for each in rated.evalImgs[:4] if each)
    assert hits == 2


def test_a_run_without_boxes_is_refused(tmp_path: Path) -> None:
    row = answer(asked(tmp_path, "a", "cup", "unique", (0, 0, 9, 9)), status=Status.NO_ANSWER)
    write_scores(tmp_path / "run", [row], run=run_of([row.sample]))
    arguments = ["data", "export", "coco_results", str(tmp_path / "run"), "--out"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "coco.json")])
    assert "no answer about a single photo holds a box" in str(done.exception)
    assert not list(tmp_path.glob("coco*"))
