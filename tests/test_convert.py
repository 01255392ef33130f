"""Every converter on tiny inputs of its format, and on real annotations where they are at hand."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from files import box, photo, write
from reground.data.convert import FORMATS, convert
from reground.data.convert.appearance import colour_word, describe, place, size_word
from reground.data.convert.common import marked, plain
from reground.data.convert.mentions import asked_image, mentions, names_beyond
from reground.data.convert.questions import QuestionRule, select
from reground.data.convert.tally import Tally
from reground.data.source import open_dataset, save_dataset
from reground.errors import DataError
from reground.grounding.boxes import THOUSAND, Box, Frame
from reground.grounding.sample import Sample, Span

SHARED = Path(__file__).parents[1] / "../shared/data"
QUESTIONS = Path(__file__).parents[1] / "configs/bccd/questions.yaml"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs the real data in ../shared/data"
)


# --- the common door ----------------------------------------------------------------------------


def test_unknown_format_and_unread_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'coco'"):
        convert("cocoo", tmp_path)
    with pytest.raises(
        DataError, match="--questions means nothing to mig_bench; it reads --images"
    ):
        convert("mig_bench", tmp_path, questions=tmp_path)
    with pytest.raises(DataError, match="--split means nothing"):
        convert("coco", tmp_path, split="val")


def test_converting_to_nothing_is_an_error(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    nothing = coco_tables() | {"annotations": []}
    with pytest.raises(DataError, match="gave no sample"):
        list(convert("coco", write(tmp_path / "instances.json", nothing)))


@pytest.mark.parametrize("name", FORMATS)
def test_missing_and_malformed_sources_are_data_errors(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        list(convert(name, tmp_path / "absent.json"))
    for text in ("{", "[]", "3", '["a"]', "{}", '[{"images": 3}]'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError):
            list(convert(name, tmp_path / "bad.json"))


# --- which image is meant -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "hint", "num_images", "image", "named"),
    [
        ("Recognize and locate this object in the 2th image. ", "", 4, 1, True),
        (
            "the object in the first image marked, please locate it in the 6th image.",
            "",
            6,
            5,
            True,
        ),
        ("where does the object in image-1 locate in the image-2.", "", 2, 1, True),
        ("See Image-1? Find it in Image-2.", "", 2, 1, True),
        ("on Image-2's table", "", 2, 1, True),
        ("marked in the second image, find it in the First Image", "", 2, 0, True),
        ("Please locate the 3th region picture in the source image.", "", 4, 0, True),
        ("find the cat", "It is in the third image. ", 4, 2, True),
        ("in the last image", "", 3, 2, True),
        ("the third frame", "", 6, 2, True),
        ("in the 2nd photo, not in picture 1 but in Image #3", "", 3, 2, True),
        ("their difference", "", 2, 1, False),
        ("the cat", "", 1, 0, True),
        ("one image 2d", "", 2, 1, False),
    ],
)
def test_asked_image(question: str, hint: str, num_images: int, image: int, named: bool) -> None:
    asked = asked_image(question, hint, num_images)
    assert (asked.image, asked.named) == (image, named)


def test_a_number_past_the_images_is_no_mention() -> None:
    (found,) = mentions("Find the frame 7 poster in image-2.", 2)
    assert found.image == 1
    assert not mentions("find it in image-3, image-0", 2)
    assert names_beyond("find it in image-0", 2) and not names_beyond("in image-1", 2)


# --- questions from labelled boxes --------------------------------------------------------------


LEFT, MIDDLE, RIGHT = box(10, 10, 30, 30), box(80, 10, 140, 60), box(150, 10, 180, 40)


@pytest.mark.parametrize(
    ("boxes", "rule", "expected"),
    [
        ([LEFT], QuestionRule.UNIQUE, [LEFT]),
        ([LEFT, RIGHT], QuestionRule.UNIQUE, None),
        ([RIGHT, LEFT, MIDDLE], QuestionRule.LEFTMOST, [LEFT]),
        ([RIGHT, LEFT, MIDDLE], QuestionRule.RIGHTMOST, [RIGHT]),
        ([RIGHT, LEFT, MIDDLE], QuestionRule.HIGHEST, [LEFT]),
        ([RIGHT, LEFT, MIDDLE], QuestionRule.LOWEST, [MIDDLE]),
        ([RIGHT, LEFT, MIDDLE], QuestionRule.LARGEST, [MIDDLE]),
        ([RIGHT, LEFT], QuestionRule.ALL, [LEFT, RIGHT]),
        ([LEFT], QuestionRule.LEFTMOST, None),
        ([LEFT], QuestionRule.ALL, None),
        ([LEFT, box(12, 60, 32, 80)], QuestionRule.LEFTMOST, None),  # nobody could say which
        ([LEFT, box(80, 11, 100, 31)], QuestionRule.HIGHEST, None),
        ([LEFT, box(50, 10, 70, 31)], QuestionRule.LARGEST, None),
        ([], QuestionRule.ABSENT, []),
        ([LEFT], QuestionRule.ABSENT, None),
    ],
)
def test_rules(boxes: list[Box], rule: QuestionRule, expected: list[Box] | None) -> None:
    assert select(boxes, rule) == expected


def test_chain_names_size_colour_and_place() -> None:
    image = Image.new("RGB", (200, 100), "white")
    image.paste((120, 60, 160), (100, 50, 200, 100))
    corner = box(100, 50, 200, 100)
    expected = "the cell is large and purple, at the bottom right."
    assert describe("the cell", corner, image) == expected
    assert describe("the cell", corner, None) == "the cell is large, at the bottom right."
    assert size_word(box(0, 0, 10, 10)) == "small"
    assert size_word(box(0, 0, 40, 10)) == "medium"
    assert place(box(90, 40, 110, 60)) == "centre"
    assert place(box(-30, -30, -10, -10)) == "top left"


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((0, 0, 0), "black"),
        ((255, 255, 255), "white"),
        ((128, 128, 128), "grey"),
        ((220, 30, 30), "red"),
        ((250, 160, 30), "orange"),
        ((120, 75, 35), "brown"),
        ((240, 230, 40), "yellow"),
        ((30, 180, 60), "green"),
        ((30, 60, 220), "blue"),
        ((120, 60, 160), "purple"),
        ((240, 170, 160), "pink"),
        ((255, 105, 180), "pink"),
    ],
)
def test_colour_words(rgb: tuple[int, int, int], word: str) -> None:
    assert colour_word(Image.new("RGB", (9, 9), rgb), Box(0, 0, 9, 9, Frame.pixels(9, 9))) == word


# --- Pascal VOC ---------------------------------------------------------------------------------


def voc_xml(*objects: tuple[str, int, int, int, int], size: bool = True) -> str:
    items = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2 in objects
    )
    sides = "<size><width>200</width><height>100</height></size>" if size else ""
    return f"<annotation><filename>a.png</filename>{sides}{items}</annotation>"


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "voc"
    photo(root / "JPEGImages" / "a.png")
    (root / "Annotations").mkdir()
    (root / "Annotations" / "a.xml").write_text(
        voc_xml(("WBC", 1, 1, 36, 36), ("RBC", 51, 11, 80, 30), ("RBC", 101, 11, 130, 30))
    )
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    (root / "ImageSets" / "Main" / "test.txt").write_text("b\n")
    return root


def test_voc_asks_unique_and_all_by_default(voc: Path) -> None:
    all_of_them, unique = sorted(
        convert("voc", voc, split="train", origin=1), key=lambda each: each.id
    )
    assert (unique.id, unique.question) == ("a-WBC-unique", "the WBC")
    assert unique.boxes == (box(0, 0, 36, 36),)  # VOC counts from 1 and includes the last pixel
    assert unique.think == "the WBC is medium and purple, at the top left."
    assert unique.strata == {"class": "WBC", "rule": "unique", "rivals": "0"}
    assert (all_of_them.id, all_of_them.question) == ("a-RBC-all", "every RBC")
    assert all_of_them.boxes == (box(50, 10, 80, 30), box(100, 10, 130, 30))
    assert all_of_them.think is None


def test_voc_takes_questions_and_refuses_unknown_names(voc: Path, tmp_path: Path) -> None:
    path = tmp_path / "questions.yaml"
    path.write_text(yaml.safe_dump({"RBC": {"leftmost": "the leftmost red blood cell"}}))
    (sample,) = convert("voc", voc, questions=path, origin=1)
    assert sample.question == "the leftmost red blood cell"
    assert sample.boxes == (box(50, 10, 80, 30),)
    for content, match in (
        ({"RBCs": {"unique": "x"}}, "did you mean 'RBC'"),
        ({"RBC": {"leftmos": "x"}}, "did you mean 'leftmost'"),
        ({"RBC": "x"}, "expected 'class"),
        ({"RBC": {"unique": None}}, "expected 'class"),
        (["RBC"], "expected 'class"),
    ):
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(DataError, match=match):
            list(convert("voc", voc, questions=path))
    path.write_text("a: [")
    with pytest.raises(DataError, match="YAML"):
        list(convert("voc", voc, questions=path))


def test_voc_splits_and_missing_files(voc: Path) -> None:
    with pytest.raises(DataError, match=r"no such split; .* has test, train"):
        list(convert("voc", voc, split="val"))
    with pytest.raises(DataError, match=r"b\.xml: no such file"):
        list(convert("voc", voc, split="test"))
    (voc / "JPEGImages" / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: no such image"):
        list(convert("voc", voc))
    kept = list(convert("voc", voc, allow_missing_images=True))
    assert kept[0].images[0].frame == Frame.pixels(200, 100)  # as annotated, not nominal
    assert {sample.think for sample in kept} == {"the WBC is medium, at the top left.", None}


def test_voc_leaves_out_empty_boxes_aloud(voc: Path) -> None:
    (voc / "Annotations" / "a.xml").write_text(
        voc_xml(("RBC", 51, 11, 80, 30), ("RBC", 60, 60, 60, 60), size=False)
    )
    tally = Tally()
    (sample,) = convert("voc", voc, tally=tally)
    assert sample.id == "a-RBC-unique"
    assert tally.notes["empty boxes of RBC, left out"] == ["a.png"]
    (voc / "Annotations" / "a.xml").write_text(voc_xml(("RBC", 5, 5, 9, 9)).replace("200", "wide"))
    assert [sample.images[0].width for sample in convert("voc", voc)] == [200]  # the file's
    (voc / "Annotations" / "a.xml").write_text("<annotation>")
    with pytest.raises(DataError, match="broken XML"):
        list(convert("voc", voc))


# --- COCO instances -----------------------------------------------------------------------------


def coco_tables() -> dict[str, Any]:
    dog, cat = 18, 17
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 200, "height": 100}],
        "categories": [{"id": dog, "name": "dog"}, {"id": cat, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": dog, "bbox": [10, 20, 30, 40], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": cat, "bbox": [90, 20, 30.5, 40], "iscrowd": 0},
            {"id": 3, "image_id": 7, "category_id": cat, "bbox": [0, 0, 200, 90], "iscrowd": 1},
        ],
    }


def test_coco_instances(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    source = write(tmp_path / "instances.json", coco_tables())
    (sample,) = convert("coco", source)  # the cats are partly a crowd: not asked about
    assert (sample.id, sample.question) == ("a-dog-unique", "the dog")
    assert sample.boxes == (box(10, 20, 40, 60),)
    assert sample.think == "the dog is medium and purple, at the middle left."


def test_coco_refuses_unknown_categories(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    tables = coco_tables()
    tables["annotations"][0]["category_id"] = 99
    with pytest.raises(
        DataError, match=r"annotation 1 of a\.png: unknown category: category_id 99"
    ):
        list(convert("coco", write(tmp_path / "instances.json", tables)))


# --- RefCOCO, three forms -----------------------------------------------------------------------


def refs_folder(root: Path) -> Path:
    folder = root / "refcoco+"
    write(folder / "instances.json", coco_tables())
    refs = [
        {
            "ref_id": 5,
            "ann_id": 2,
            "image_id": 7,
            "split": split,
            "sentences": [{"sent_id": n, "sent": f"cat {n}"} for n in numbers],
        }
        for split, numbers in (("testA", (0, 1)), ("val", (2,)))
    ]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return folder


def test_refcoco_refs_pickle(tmp_path: Path) -> None:
    photo(tmp_path / "train2014" / "a.png")
    folder = refs_folder(tmp_path)
    for source in (folder, folder / "refs(unc).p"):
        samples = list(convert("refcoco", source, images=tmp_path / "train2014", split="testA"))
        assert [sample.question for sample in samples] == ["cat 0", "cat 1"]
        assert samples[0].id == "refcoco+-testA-0"
        assert samples[0].boxes == (box(90, 20, 120.5, 60),)
        assert samples[0].strata == {"split": "testA"}
    assert len(list(convert("refcoco", folder, images=tmp_path / "train2014"))) == 3
    with pytest.raises(DataError, match="no split 'testB'; it has testA, val"):
        list(convert("refcoco", folder, images=tmp_path / "train2014", split="testB"))


def test_refcoco_never_runs_code_from_a_pickle(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return (os.mkdir, (str(tmp_path / "made by the pickle"),))

    path = tmp_path / "refs(unc).p"
    for protocol in (0, 2, 5):
        for content in ([Harmful()], [{"sentences": eval}]):
            path.write_bytes(pickle.dumps(content, protocol=protocol))
            with pytest.raises(DataError, match="not a plain refs file"):
                list(convert("refcoco", path))
    assert not (tmp_path / "made by the pickle").exists()
    path.write_bytes(b"\x80\x02]")
    with pytest.raises(DataError, match="not a plain refs file"):
        list(convert("refcoco", path))


def test_refcoco_mdetr(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    caption = {"file_name": "a.png", "width": 200, "height": 100}
    tables = {
        "images": [
            caption | {"id": 0, "caption": "left dog"},
            caption | {"id": 1, "caption": "it"},
        ],
        "annotations": [
            {"image_id": 1, "bbox": [90, 20, 30, 40], "id": 1},
            {"image_id": 0, "bbox": [10, 20, 30, 40], "id": 0},
        ],
    }
    source = write(tmp_path / "finetune_refcocog_test.json", tables)
    first, second = convert("refcoco", source)
    assert (first.id, first.question) == ("refcocog-test-0", "left dog")
    assert (first.boxes, second.boxes) == ((box(10, 20, 40, 60),), (box(90, 20, 120, 60),))
    with pytest.raises(DataError, match="one split"):
        list(convert("refcoco", source, split="test"))
    del tables["annotations"][0]
    with pytest.raises(DataError, match="image 1: not one caption and one box"):
        list(convert("refcoco", write(source, tables)))


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_refcoco_rows(tmp_path: Path, suffix: str) -> None:
    photo(tmp_path / "photos" / "COCO_train2014_000000581857.png")
    row = {
        "question_id": "469",
        "question": "Please caption the area.",
        "answer": ["the lady", "woman in blue"],
        "bbox": [10, 20, 30, 40],
        "file_name": "COCO_train2014_000000581857_16.png",
    }
    source = tmp_path / f"refcoco_testB.{suffix}"
    source.write_text(json.dumps([row] if suffix == "json" else row))
    samples = list(convert("refcoco", source, images=tmp_path / "photos"))
    assert [sample.question for sample in samples] == ["the lady", "woman in blue"]
    assert [sample.id for sample in samples] == ["refcoco-testB-469-0", "refcoco-testB-469-1"]
    assert samples[0].boxes == (box(10, 20, 40, 60),)
    with pytest.raises(DataError, match="records no sizes"):
        list(convert("refcoco", source, images=tmp_path / "none", allow_missing_images=True))


# --- MIG-Bench ----------------------------------------------------------------------------------


def mig_row(answer: list[float], **changes: Any) -> dict[str, Any]:
    row = {
        "task": "object_tracking",
        "images": ["./MIG-Bench/images/0.png", "./MIG-Bench/images/1.png"],
        "question": "For the object in the first image marked with red bounding box"
        "(<|box_start|>(139,305),(495,743)<|box_end|>), please locate it in the 2th image. ",
        "answer": answer,
        "additional_info": "",
        "need_format": False,
    }
    return row | changes


def test_mig_bench_reads_its_frame_from_the_version(tmp_path: Path) -> None:
    for number in range(2):
        photo(tmp_path / f"MIG-Bench/images/{number}.png")
    first = write(tmp_path / "first.json", [mig_row([0.1, 0.2, 0.5, 0.75])])
    revised = write(
        tmp_path / "revised.json", [mig_row([0, 0, 1, 1]), mig_row([100, 200, 500, 750])]
    )
    (sample,) = convert("mig_bench", first)
    tiny, same = convert("mig_bench", revised)
    assert sample.boxes == same.boxes == (box(20, 20, 100, 75),)
    assert tiny.boxes == (box(0, 0, 0.2, 0.1),)  # small integers are still 0-1000
    assert (tiny.id, same.id) == ("object_tracking-0000", "object_tracking-0001")
    assert sample.target_image == 1
    (span,) = sample.spans
    assert (sample.question[span.start : span.end], span.kind) == ("(139,305),(495,743)", "box")
    assert "<|" not in sample.question
    mixed = write(tmp_path / "mixed.json", [mig_row([0.1, 0.2, 0.5, 0.75]), mig_row([1, 2, 3, 4])])
    with pytest.raises(DataError, match="float, int"):
        list(convert("mig_bench", mixed))


def test_mig_bench_images_as_text_and_missing(tmp_path: Path) -> None:
    source = write(
        tmp_path / "rows.json", [mig_row([100, 200, 500, 750], images="['a/0.png', 'a/1.png']")]
    )
    with pytest.raises(DataError, match=r"a/0\.png: no such image; .* --allow-missing-images"):
        list(convert("mig_bench", source))
    (sample,) = convert("mig_bench", source, allow_missing_images=True)
    assert [Path(image.path).name for image in sample.images] == ["0.png", "1.png"]
    assert sample.boxes[0].xyxy == (100, 200, 500, 750)
    assert sample.boxes[0].to(THOUSAND).xyxy == (100, 200, 500, 750)
    for bad in ("__import__('os')", "'a.png'", []):
        write(source, [mig_row([1, 2, 3, 4], images=bad)])
        with pytest.raises(DataError, match="expected a list of at least one path"):
            list(convert("mig_bench", source, allow_missing_images=True))
    write(source, [mig_row([1, 2, 3])])
    with pytest.raises(DataError, match="four finite numbers"):
        list(convert("mig_bench", source, allow_missing_images=True))


MIG_FILES = [("MIG_data.json", 4295, 1000), ("revised_MIG_bench.json", 4276, 1)]


@needs_shared
@pytest.mark.parametrize(("name", "num_rows", "scale"), MIG_FILES)
def test_real_mig_bench(name: str, num_rows: int, scale: int) -> None:
    source = SHARED / "mig_bench" / name
    rows = json.loads(source.read_text())
    samples = list(convert("mig_bench", source, allow_missing_images=True))
    assert len(samples) == len(rows) == num_rows
    assert len({sample.id for sample in samples}) == num_rows
    for sample, row in zip(samples, rows, strict=True):
        assert sample.boxes[0].xyxy == pytest.approx([value * scale for value in row["answer"]])
        assert _asked_by_hand(row, revised=scale == 1) == sample.target_image
        assert len(sample.images) == len(row["images"])
        assert "<|" not in sample.question
    assumed = Counter(sample.task for sample in samples if sample.strata["target"] == "assumed")
    assert assumed == ({} if scale == 1 else {"diff": 528})
    assert Counter(sample.task for sample in samples) == Counter(row["task"] for row in rows)


def _asked_by_hand(row: dict[str, Any], *, revised: bool) -> int:
    """The target image by each task's own wording, as a reader of the file would say it."""
    match row["task"]:
        case "region":
            return 0
        case "correspondence" | "view_diff" | "refer_grounding" | "reasoning":
            return 1
        case "diff":
            return 0 if revised and "in the 1th image" in row["question"] else 1
        case "group_grounding":
            words = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4}
            return words[row["additional_info"].split()[4]]
        case _:  # common_object, multi_view, object_tracking
            found = re.search(r"in the (\d)th image\. $", row["question"])
            assert found
            return int(found[1]) - 1


@needs_shared
def test_real_pair_in_its_true_frame(tmp_path: Path) -> None:
    """Sample 860 of the revised file, whose two photos are at hand: 900 x 616 and 474 x 739."""
    row = json.loads((SHARED / "mig_bench/revised_MIG_bench.json").read_text())[860]
    row["images"] = [Path(path).name for path in row["images"]]
    source = write(tmp_path / "one.json", [row])
    (sample,) = convert("mig_bench", source, images=SHARED / "samples")
    assert [(image.width, image.height) for image in sample.images] == [(900, 616), (474, 739)]
    assert (sample.target_image, sample.targets[0].image) == (1, 1)
    assert sample.boxes[0].to(THOUSAND).xyxy == pytest.approx((502, 8, 839, 392))
    assert sample.boxes[0].x2 == pytest.approx(0.839 * 474)


# --- MGrounding-630k ----------------------------------------------------------------------------


def conversation(*turns: str) -> dict[str, Any]:
    return {
        "id": "5229016_8929009",
        "images": ["./M/a.png", "./M/b.png", "./M/c.png"],
        "conversations": [
            {"from": ("human", "gpt")[number % 2], "value": value}
            for number, value in enumerate(turns)
        ],
        "type": "gg_train",
    }


def test_mgrounding_gives_one_sample_per_exchange(tmp_path: Path) -> None:
    for name in "abc":
        photo(tmp_path / "M" / f"{name}.png")
    row = conversation(
        "<image>\n<image>\n<image>\nGive <|object_ref_start|>a statue<|object_ref_end|>.",
        "It's in the second image. <|box_start|>(100,200),(500,1000)<|box_end|>",
        "Locate the dog in the 1th image and in image-3.",
        "In image-1 <|box_start|>(0,0),(500,500)<|box_end|>, in the third image "
        "<|box_start|>(500,500),(1000,1000)<|box_end|>.",
        "Recognize it in the first image.",
        "<|box_start|>(0,0),(100,100)<|box_end|>",
        "What is in <|box_start|>(1,2),(3,4)<|box_end|> of the first image?",
        "A cat.",
    )
    tally = Tally()
    statue, dog, third = convert("mgrounding", write(tmp_path / "m.json", [row]), tally=tally)
    assert statue.question == "Give a statue."
    assert statue.spans == (Span(5, 13, "phrase"),) and not dog.spans
    assert (statue.task, statue.id, statue.target_image) == ("gg_train", "gg_train-000000-0", 1)
    assert statue.boxes == (box(20, 20, 100, 100),)
    assert [target.image for target in dog.targets] == [0, 2]
    assert dog.boxes == (box(0, 0, 100, 50),) and dog.target_image == 0
    assert dog.boxes_in(2) == (box(100, 50, 200, 100),)
    assert (third.target_image, third.id) == (0, "gg_train-000000-2")
    assert tally.notes["answers of gg_train without a box, left out"] == ["gg_train-000000"]


def test_mgrounding_refuses_turns_out_of_order(tmp_path: Path) -> None:
    source = write(tmp_path / "m.json", [conversation("a", "b", "c")])
    with pytest.raises(DataError, match="expected 'human' and 'gpt' by turns"):
        list(convert("mgrounding", source, allow_missing_images=True))


MARKS = [f"<|{kind}_{end}|>" for kind in ("object_ref", "box", "quad") for end in ("start", "end")]


@given(st.lists(st.sampled_from([*MARKS, "<image>", " ", "a", "b\n", "c  "]), max_size=12))
def test_marks_leave_the_text_as_it_was_and_hold_words(pieces: list[str]) -> None:
    bare = "".join(piece for piece in pieces if piece not in [*MARKS, "<image>"])
    text, spans = marked("".join(pieces))
    assert text == " ".join(bare.split()) == plain("".join(pieces))
    edges = [edge for span in spans for edge in (span.start, span.end)]
    assert edges == sorted(edges)
    for span in spans:
        inside = text[span.start : span.end]
        assert inside and inside == inside.strip()


# --- UniVG-R1 -----------------------------------------------------------------------------------


FORM = (
    " First output the thinking process in <think> </think> tags and then output the bounding box "
    "in <answer> </answer> tags."
)


def univg(tmp_path: Path, **row: Any) -> Sample:
    for name in ("a.png", "b.png", "COCO_train2014_000000000001.png"):
        photo(tmp_path / name)
    (sample,) = convert("univg_r1", write(tmp_path / "stage1_cotsft.json", [row]))
    return sample


def test_univg_chain_and_box(tmp_path: Path) -> None:
    sample = univg(
        tmp_path,
        images=["a.png", "b.png"],
        question=f"<image>\n<image>\nFind the object of image-1 in the second image.{FORM}",
        answer="<think>The first image shows (1,2),(3,4).</think>\n"
        "<answer>(100,200), (500,750)</answer>",
    )
    assert sample.question == "Find the object of image-1 in the second image."
    assert sample.think == "The first image shows (1,2),(3,4)."
    assert (sample.target_image, sample.boxes) == (1, (box(20, 20, 100, 75),))
    assert (sample.task, sample.strata["target"]) == ("univg_r1", "named")
    assert sample.protocol is None


def test_univg_numbers_and_single_images(tmp_path: Path) -> None:
    two = univg(tmp_path, images=["a.png", "b.png"], question="the cat", answer=[0, 0, 1000, 500])
    assert (two.boxes, two.think) == ((box(0, 0, 200, 50),), None)
    assert (two.target_image, two.strata["target"]) == (1, "assumed")
    name = "COCO_train2014_000000000001.png"
    one = univg(tmp_path, images=[name], question="left man", answer="(100,200),(500,750)")
    assert (one.task, one.boxes) == ("refcoco", (box(20, 20, 100, 75),))
    lead = "This is a single image grounding task with simple reference. left man"
    rewarded = univg(tmp_path, images=[name], question=lead, answer=[100, 200, 500, 750])
    assert [rewarded.question, rewarded.protocol] == ["left man", "direct"]
    ref = lead.replace("left man", "<|object_ref_start|>left man<|object_ref_end|>")
    told = univg(tmp_path, images=[name], question=f"<image>\n{ref}", answer=[1, 2, 500, 750])
    assert (told.question, told.spans) == ("left man", (Span(0, 8, "phrase"),))
    assert [two.protocol, one.protocol] == [None, "direct"]
    with pytest.raises(DataError, match="no box"):
        univg(tmp_path, images=[name], question="left man", answer="none")


# --- the blood-cell photos ----------------------------------------------------------------------


@pytest.mark.slow
@needs_shared
def test_real_bccd_converts_in_full(tmp_path: Path) -> None:
    samples = list(convert("voc", SHARED / "bccd"))
    assert len({sample.images[0].path for sample in samples}) == 364
    assert all(sample.boxes[0].overhang() == 0 for sample in samples)


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize(
    ("split", "num_photos", "unique"), [("train", 205, 194), ("val", 87, 85), ("test", 72, 65)]
)
def test_real_bccd_splits(tmp_path: Path, split: str, num_photos: int, unique: int) -> None:
    samples = list(convert("voc", SHARED / "bccd", split=split, questions=QUESTIONS))
    counts = Counter((sample.strata["class"], sample.strata["rule"]) for sample in samples)
    assert counts["WBC", "unique"] == unique
    assert num_photos - 1 <= len({sample.images[0].path for sample in samples}) <= num_photos
    for sample in samples:
        assert len(sample.targets) == 1
        assert sample.think and sample.think.startswith(f"{sample.question} is ")
        assert not re.search(r"\d", sample.think)
    path = tmp_path / f"{split}.jsonl"
    assert save_dataset(path, samples) == len(samples)
    assert [sample.boxes for sample in open_dataset(str(path))] == [s.boxes for s in samples]


# --- rows with anything wrong in them -----------------------------------------------------------


def _mdetr_tables() -> dict[str, Any]:
    tables = coco_tables()
    tables["images"][0]["caption"] = "a dog"
    return tables | {"annotations": tables["annotations"][:1]}


VALID: dict[str, tuple[str, str, Any]] = {
    "coco": ("coco", "instances.json", coco_tables()),
    "mdetr": ("refcoco", "finetune_refcoco_val.json", _mdetr_tables()),
    "rows": (
        "refcoco",
        "val.json",
        [{"question_id": "1", "answer": ["dog"], "bbox": [1, 2, 3, 4], "file_name": "a.png"}],
    ),
    "mig_bench": ("mig_bench", "mig.json", [mig_row([1, 2, 3, 4], images=["a.png", "a.png"])]),
    "mgrounding": (
        "mgrounding",
        "m.json",
        [conversation("the cat", "(1,2),(30,40)") | {"images": ["a.png"]}],
    ),
    "univg": (
        "univg_r1",
        "u.json",
        [{"images": ["a.png"], "question": "the cat", "answer": [1, 2, 30, 40]}],
    ),
    "extracted": (
        "extracted",
        "lisa_val.json",
        [{"image_path": "a.png", "instruction": ["the cat"], "boxes": [[1, 2, 3, 4]]}],
    ),
    "video": (
        "video",
        "ReVOS_eval.json",
        [
            {
                "video_id": "clip",
                "frames": [0, 0, 0, 0, 0, 0],
                "question": "the cat",
                "bbox_list": [[1, 2, 3, 4]] * 6,
            }
        ],
    ),
    "vg_refiner": (
        "vg_refiner",
        "refcoco_testA.json",
        [
            {
                "image": "a.png",
                "question": "the cat",
                "ground_truth": '{"bbox_2d": [1, 2, 3, 4]}',
                "tool_results": "[[1, 2, 3, 4]]",
            }
        ],
    ),
}


def damaged(value: Any) -> list[Any]:
    """Copies of a JSON value with one part, at any depth, replaced by something else or gone."""
    copies: list[Any] = [None, -1, "x", [], {}, 1e400]
    if isinstance(value, dict):
        for key in value:
            copies.append({other: value[other] for other in value if other != key})
            copies += [value | {key: copy} for copy in damaged(value[key])]
    if isinstance(value, list):
        for index, item in enumerate(value):
            copies.append(value[:index] + value[index + 1 :])
            copies += [[*value[:index], copy, *value[index + 1 :]] for copy in damaged(item)]
    return copies


@pytest.mark.parametrize("form", VALID)
def test_damaged_rows_convert_or_say_what_is_wrong(tmp_path: Path, form: str) -> None:
    name, filename, content = VALID[form]
    photo(tmp_path / "a.png")
    photo(tmp_path / "clip" / "0.png")
    assert list(convert(name, write(tmp_path / filename, content)))
    lenient = "allow_missing_images" in inspect.signature(FORMATS[name]).parameters
    outcomes = Counter[str]()
    for copy in damaged(content):
        try:
            source = write(tmp_path / filename, copy)
            list(convert(name, source, allow_missing_images=lenient))
            outcomes["converted"] += 1
        except DataError as error:
            assert str(error)
            outcomes["refused"] += 1
    assert outcomes["refused"] > 10
