"""The readers of benchmarks whose boxes are in pixels, on small files in their authors' forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from files import box, photo, write
from reground.data.convert import convert, hub
from reground.data.convert.instructed import evenly
from reground.data.convert.tally import Tally
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import Sample

# --- ReasonSeg ----------------------------------------------------------------------------------


def reason_seg(folder: Path, *shapes: tuple[str, list[list[float]]], **fields: Any) -> list[Sample]:
    photo(folder / "one.jpg")
    row = {
        "text": ["the food rich in vitamins"],
        "is_sentence": False,
        "shapes": [{"label": label, "points": points} for label, points in shapes],
    }
    write(folder / "one.json", row | fields)
    return list(convert("reason_seg", folder))


def test_reason_seg_takes_the_bounds_of_the_target(tmp_path: Path) -> None:
    (sample,) = reason_seg(
        tmp_path,
        ("target", [[10, 20], [50, 20.5], [30, 60]]),
        ("ignore", [[0, 0], [200, 0], [200, 100]]),
        ("flag", [[1, 1], [2, 2]]),
        ("target", [[190, 30], [230, 90]]),
    )
    assert sample.boxes == (box(10, 20, 200, 90),)  # cut at the photo's edge
    assert (sample.id, sample.task, sample.strata) == ("one", "reason_seg", {"query": "phrase"})


def test_reason_seg_without_a_target_says_that_nothing_matches(tmp_path: Path) -> None:
    (ignored,) = reason_seg(tmp_path, ("Ignore", [[0, 0], [9, 9]]))
    (empty,) = reason_seg(tmp_path)
    assert ignored.targets == empty.targets == ()


def test_reason_seg_has_a_sample_for_every_instruction(tmp_path: Path) -> None:
    square = ("target", [[0, 0], [9, 9]])
    first, second = reason_seg(tmp_path, square, text=["a", "b"], is_sentence=True)
    assert (first.id, second.id, second.question) == ("one-0", "one-1", "b")
    assert second.strata == {"query": "sentence"}


def test_reason_seg_reads_the_windows_code_page(tmp_path: Path) -> None:
    photo(tmp_path / "one.jpg")
    row = {"text": ["the café door"], "is_sentence": True, "shapes": []}
    (tmp_path / "one.json").write_bytes(json.dumps(row, ensure_ascii=False).encode("cp1252"))
    (sample,) = convert("reason_seg", tmp_path)
    assert sample.question == "the café door"


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"shapes": None}, "wrong form"),
        ({"text": []}, "at least one instruction"),
        ({"text": [""]}, "at least one instruction"),
        ({"shapes": [{"label": "target"}]}, "'points' is missing"),
        ({"shapes": [{"label": "target", "points": [[1]]}]}, "wrong form"),
    ],
)
def test_reason_seg_refuses(tmp_path: Path, fields: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=rf"one\.json.*{match}"):
        reason_seg(tmp_path, **fields)


def test_reason_seg_needs_its_photos_and_its_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no JSON files"):
        list(convert("reason_seg", tmp_path))
    reason_seg(tmp_path)
    (tmp_path / "one.jpg").unlink()
    with pytest.raises(DataError, match=r"one\.jpg: no such image"):
        list(convert("reason_seg", tmp_path))
    with pytest.raises(DataError, match="means nothing to reason_seg"):
        list(convert("reason_seg", tmp_path, allow_missing_images=True))


# --- boxes extracted by others ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"image_path": "a.jpg", "instruction": "i", "boxes": [[1, 2, 30, 40]]}, 1),  # LISA
        ({"image_path": "a.jpg", "question": "i", "bbox": [[1, 2, 30, 40]]}, 1),  # LLMSeg
        ({"image_path": "a.jpg", "question": "i", "bbox": [[1, 2], [30, 40]]}, 1),
        ({"image": "a.jpg", "problem": "i", "solution": [1, 2, 30, 40]}, 1),  # VLM-R1
        ({"image_path": "a.jpg", "instruction": "i", "boxes": [[1, 2, 30, 40]] * 3}, 3),
        ({"image_path": "a.jpg", "instruction": "i", "boxes": []}, 0),
    ],
)
def test_extracted_forms(tmp_path: Path, row: dict[str, Any], expected: int) -> None:
    photo(tmp_path / "a.jpg")
    (sample,) = convert("extracted", write(tmp_path / "lisa_val.json", [row]))
    assert sample.boxes == (box(1, 2, 30, 40),) * expected
    assert (sample.id, sample.task, sample.question) == ("lisa_val-00000", "lisa_val", "i")


@pytest.mark.parametrize("boxes", [None, "", 3, [1, 2, 3], [[1, 2, 3]], [[1, 2, 3, "x"]], [None]])
def test_extracted_rows_without_ground_truth_are_refused(tmp_path: Path, boxes: Any) -> None:
    photo(tmp_path / "a.jpg")
    row = {"image_path": "a.jpg", "instruction": "i", "boxes": boxes}
    with pytest.raises(DataError, match="lisa_val-00000: boxes"):
        list(convert("extracted", write(tmp_path / "lisa_val.json", [row])))


def test_extracted_rows_of_an_unknown_form_or_lacking_a_field(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    good = {"image_path": "a.jpg", "instruction": "i", "boxes": []}
    source = write(tmp_path / "x.json", [{"picture": "a.jpg"}])
    with pytest.raises(DataError, match="fields picture; expected image_path, instruction, boxes;"):
        list(convert("extracted", source))
    bad = {key: value for key, value in good.items() if key != "boxes"}
    with pytest.raises(DataError, match="x-00001: field 'boxes' is missing"):
        list(convert("extracted", write(source, [good, bad])))
    with pytest.raises(DataError, match="x-00000: instruction is ''"):
        list(convert("extracted", write(source, [good | {"instruction": ""}])))


def test_extracted_finds_photos_under_the_end_of_another_machines_path(tmp_path: Path) -> None:
    photo(tmp_path / "photos" / "val" / "a.jpg")
    photo(tmp_path / "photos" / "a.jpg", 50, 50)
    row = {"image_path": "/their/disk/val/a.jpg", "instruction": ["x", "y"], "boxes": []}
    source = write(tmp_path / "lisa_val.json", [row])
    first, second = convert("extracted", source, images=tmp_path / "photos")
    assert first.images[0].width == 200  # the longest end that is there
    assert (first.id, second.id, second.question) == ("lisa_val-00000-0", "lisa_val-00000-1", "y")
    with pytest.raises(DataError, match=r"their/disk/val/a\.jpg: no such image"):
        list(convert("extracted", source, images=tmp_path / "elsewhere"))


def test_extracted_drops_the_prompt_of_vlm_r1(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    problem = (
        "Please provide the bounding box coordinate of the region this sentence describes: "
        "where to wash hands?."
    )
    row = {"image": "a.jpg", "problem": problem, "solution": [1, 2, 3, 4]}
    (sample,) = convert("extracted", write(tmp_path / "lisa_test.json", [row]))
    assert sample.question == "where to wash hands?"


# --- videos -------------------------------------------------------------------------------------


def revos(folder: Path, num_files: int = 12, **fields: Any) -> Sample:
    for number in range(num_files):  # the third frame that is asked about is larger
        photo(folder / "clip" / f"{number}.jpg", 200 if number == 4 else 90, 100)
    row = {
        "video_id": "clip",
        "frames": [0, 2, 4, 6, 8, 10],
        "question": "who wins the race",
        "bbox_list": [[0, 0, 1, 1], [0, 0, 2, 2], [10, 20, 100, 60], None, [], [0, 0, 3, 3]],
    }
    (sample,) = convert("video", write(folder / "ReVOS_eval.json", [row | fields]))
    return sample


def test_the_third_of_six_frames_is_the_target(tmp_path: Path) -> None:
    sample = revos(tmp_path)
    names = [Path(image.path).name for image in sample.images]
    assert names == ["0.jpg", "2.jpg", "4.jpg", "6.jpg", "8.jpg", "10.jpg"]  # 10 behind 8, not 1
    assert (sample.target_image, sample.targets[0].image) == (2, 2)
    assert sample.boxes == (box(10, 20, 100, 60),)
    assert sample.question == "who wins the race. Find it in the third image."
    assert (sample.id, sample.task) == ("ReVOS_eval-00000", "ReVOS_eval")


def test_six_frames_are_taken_evenly_of_more(tmp_path: Path) -> None:
    boxes = [[0, 0, 1, number + 1] for number in range(11)]
    sample = revos(tmp_path, frames=list(range(11)), bbox_list=boxes)
    names = [Path(image.path).stem for image in sample.images]
    assert names == ["0", "2", "4", "6", "8", "10"]
    assert sample.boxes == (box(0, 0, 1, 5),)
    assert [len(evenly(count, 6)) for count in (3, 6, 7, 100)] == [3, 6, 6, 6]
    assert evenly(100, 6) == [0, 20, 40, 59, 79, 99]


@pytest.mark.parametrize("absent", [None, [], "None", "[]"])
def test_an_object_that_is_not_seen_in_the_third_frame_is_no_target(
    tmp_path: Path, absent: Any
) -> None:
    sample = revos(tmp_path, bbox_list=[[0, 0, 1, 1], [0, 0, 1, 1], absent, None, None, None])
    assert (sample.targets, sample.target_image) == ((), 2)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"bbox_list": [[0, 0, 1, 1]]}, "6 frames and 1 boxes"),
        ({"bbox_list": None}, "6 frames and no boxes"),
        ({"frames": [0, 1], "bbox_list": [[0, 0, 1, 1]] * 2}, "at least 3"),
        ({"frames": [0, 2, 4, 6, 8, 12]}, r"places from 0 to 11 in .*clip"),
        ({"frames": [0, 2, 4, 6, 8, "10"]}, "places from 0 to 11"),
        ({"video_id": "other"}, "no frames"),
        ({"bbox_list": [[0, 0, 1, 1], [], [1, 2, 3], [], [], []]}, "four finite numbers"),
    ],
)
def test_video_rows_that_are_refused(tmp_path: Path, fields: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        revos(tmp_path, **fields)


def test_reason_vos_rows_have_paths_and_boxes_as_text(tmp_path: Path) -> None:
    for number in range(6):
        photo(tmp_path / "frames" / "clip" / f"{number}.jpg")
    row = {
        "image_list": [f"/their/JPEGImages/clip/{number}.jpg" for number in range(6)],
        "question": "Which car stops?",
        "bbox_list": ["[0, 0, 1, 1]", "None", "[10, 20, 100, 60]", "", "", ""],
    }
    source = write(tmp_path / "ReasonVOS_eval.json", [row])
    (sample,) = convert("video", source, images=tmp_path / "frames")
    assert (sample.boxes, len(sample.images)) == ((box(10, 20, 100, 60),), 6)
    assert sample.question == "Which car stops? Find it in the third image."


# --- VG-Refiner ---------------------------------------------------------------------------------


def refined(folder: Path, **fields: Any) -> Sample:
    photo(folder / "photos" / "7.jpg")
    row = {
        "image": "7.jpg",
        "question": "The left Cup.",
        "ground_truth": json.dumps([{"bbox_2d": [10, 20, 30, 40]}]),
        "tool_results": json.dumps([{"bbox_2d": [11, 20, 30, 40], "label": "cup"}]),
        "image_id": 7,
        "ann_id": 99,
    }
    rows = [{key: value for key, value in (row | fields).items() if value is not ...}]
    source = write(folder / "refcoco_testA.json", rows)
    (sample,) = convert("vg_refiner", source, images=folder / "photos")
    return sample


def test_vg_refiner_rows_carry_the_detectors_boxes(tmp_path: Path) -> None:
    sample = refined(tmp_path)
    assert sample.boxes == (box(10, 20, 30, 40),)
    assert sample.tool_results and sample.tool_results[0].box == box(11, 20, 30, 40)
    assert (sample.id, sample.question) == ("refcoco_testA-00000-7-99", "the left cup")


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ("[[1, 2, 3, 4], [5, 6, 7, 8]]", (box(1, 2, 3, 4), box(5, 6, 7, 8))),
        ('{"bbox_2d": [1, 2, 3, 4]}', (box(1, 2, 3, 4),)),
        ("[]", ()),
        (None, ()),
        (..., None),
    ],
)
def test_vg_refiner_forms_of_the_detectors_answer(
    tmp_path: Path, tools: Any, expected: tuple[Box, ...] | None
) -> None:
    found = refined(tmp_path, tool_results=tools).tool_results
    assert (None if found is None else tuple(target.box for target in found)) == expected


def test_vg_refiner_several_true_boxes_and_none(tmp_path: Path) -> None:
    two = json.dumps([{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5, 6, 7, 8]}])
    assert len(refined(tmp_path, ground_truth=two).targets) == 2
    assert refined(tmp_path, ground_truth="[]").targets == ()


@pytest.mark.parametrize("truth", [None, "", "null", "none", "[{}]", '[{"bbox_2d": [1]}]', ...])
def test_vg_refiner_rows_without_ground_truth_are_refused(tmp_path: Path, truth: Any) -> None:
    with pytest.raises(DataError, match=r"ground_truth|bbox_2d"):
        refined(tmp_path, ground_truth=truth)


# --- the hub ------------------------------------------------------------------------------------


def as_field(content: bytes) -> dict[str, Any]:
    return {"bytes": content, "path": None}


@pytest.mark.parametrize("wrap", [as_field, lambda content: [content], lambda content: content])
def test_hub_rows_of_refcoco_write_each_photo_once(
    tmp_path: Path, wrap: Callable[[bytes], Any]
) -> None:
    content = photo(tmp_path / "there.jpg").read_bytes()
    row = {
        "question_id": "469",
        "image": wrap(content),
        "answer": ["the lady", "woman in blue"],
        "bbox": [10, 20, 30, 40],
        "file_name": "COCO_train2014_000000581857_16.jpg",
    }
    out = tmp_path / "photos"
    samples = list(
        hub.samples(
            [row, row | {"question_id": "470"}],
            Tally(strict=True),
            source=Path("lmms-lab/RefCOCOplus"),
            split="testA",
            images=out,
        )
    )
    assert [path.name for path in out.iterdir()] == ["COCO_train2014_000000581857.jpg"]
    assert [sample.question for sample in samples] == ["the lady", "woman in blue"] * 2
    assert samples[0].id == "refcoco+-testA-469-0"
    assert (samples[0].task, samples[0].boxes) == ("refcoco+", (box(10, 20, 40, 60),))


def test_a_photo_that_the_disk_does_not_hold_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a photo would be taken for it in the next run."""

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        hub.keep(tmp_path / "photos" / "a.png", b"a whole photo")
    assert not list((tmp_path / "photos").iterdir())


def test_hub_rows_of_vg_refiner(tmp_path: Path) -> None:
    row = {
        "image": as_field(photo(tmp_path / "there.jpg").read_bytes()),
        "question": "the cup",
        "ground_truth": '{"bbox_2d": [1, 2, 3, 4]}',
        "tool_results": "[]",
        "image_id": "../7",
        "ann_id": 9,
    }
    out = tmp_path / "photos"
    (sample,) = hub.samples(
        [row], Tally(strict=True), source=tmp_path / "refcoco_testA", split="", images=out
    )
    assert [path.name for path in out.iterdir()] == ["7.jpg"]
    assert (sample.boxes, sample.tool_results) == ((box(1, 2, 3, 4),), ())
    assert sample.task == "refcoco_testA"


@pytest.mark.parametrize("image", [None, "a.jpg", {"path": "a.jpg"}, [b"", b""], b"no photo"])
def test_hub_rows_without_an_image_are_refused(tmp_path: Path, image: Any) -> None:
    row = {"image": image, "ground_truth": "[]", "question": "x", "image_id": 1, "ann_id": 1}
    with pytest.raises(DataError, match="row 0"):
        list(
            hub.samples(
                [row], Tally(strict=True), source=tmp_path, split="", images=tmp_path / "photos"
            )
        )


def test_the_hub_needs_a_folder_for_photos_and_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="--images"):
        list(convert("hub", Path("lmms-lab/RefCOCO"), split="testA"))
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'reground\[hub\]'"):
        list(convert("hub", Path("lmms-lab/RefCOCO"), split="testA", images=tmp_path))
