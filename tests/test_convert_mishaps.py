"""Data as people bring it: what is good is converted, the rest set aside with its reason."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from reground.cli import app
from reground.data.convert import convert
from reground.data.convert.tally import Tally
from reground.data.convert.writing import write
from reground.data.validate import validate
from reground.errors import DataError
from reground.grounding.sample import Sample

Tables = dict[str, Any]


def picture(path: Path, width: int = 320, height: int = 240, turned: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (width, height), "gray")
    exif = image.getexif()
    exif[0x0112] = turned
    image.save(path, exif=exif)


def coco(*boxes: list[float], **image: Any) -> Tables:
    """One photo a.png with cups at ``boxes`` (x, y, width, height)."""
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 320, "height": 240} | image],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": box}
            for number, box in enumerate(boxes, start=1)
        ],
    }


def converted(
    folder: Path, tables: Any, name: str = "coco", **options: Any
) -> tuple[list[Sample], Tally]:
    source = folder / "c.json"
    source.write_text(json.dumps(tables))
    tally = Tally()
    return list(convert(name, source, tally=tally, **options)), tally


def edges(samples: list[Sample]) -> list[tuple[float, ...]]:
    return [target.box.xyxy for sample in samples for target in sample.targets]


# --- boxes --------------------------------------------------------------------------------------

# What stands there as x, y, width, height; what becomes of it; what the tally says.
BOXES: list[tuple[list[list[float]], list[tuple[float, ...]], str]] = [
    ([[-5.5, 20, 60, 60]], [(0, 20, 54.5, 80)], "boxes cut at the image's edge"),
    ([[280, 200, 80, 80]], [(280, 200, 320, 240)], "boxes cut at the image's edge"),
    ([[310, 20, 100, 60]], [], "box outside the image"),
    ([[110, 20, -100, 60]], [(10, 20, 110, 80)], "boxes with reversed corners, put in order"),
    ([[10, 10, 50, 50]] * 2, [(10, 10, 60, 60)], "boxes that stand twice, counted once"),
    ([[10, 10, 0, 50]], [], "empty boxes of cup, left out"),
    ([[10, 10, 50, float("nan")], [90, 90, 9, 9]], [], "box without four numbers"),
    ([[10, 10, 50]], [], "box without four numbers"),
]


@pytest.mark.parametrize(("boxes", "expected", "said"), BOXES)
def test_boxes_that_tools_write(
    tmp_path: Path, boxes: list[list[float]], expected: list[tuple[float, ...]], said: str
) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    tables = coco(*boxes)
    tables["images"].append({"id": 2, "file_name": "b.png"})
    tables["annotations"].append(
        {"id": 99, "image_id": 2, "category_id": 1, "bbox": [1, 1, 30, 30]}
    )
    samples, tally = converted(tmp_path, tables)
    assert edges([each for each in samples if each.id.startswith("a")]) == expected
    assert said in " ".join(tally.table())
    assert samples[-1].id == "b-cup-unique"  # the good photo is converted all the same


def test_min_visible_and_strict(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert edges(converted(tmp_path, coco([310, 20, 100, 60]), min_visible=0.05)[0])
    with pytest.raises(DataError, match=r"a\.png: cup: box outside the image"):
        list(convert("coco", tmp_path / "c.json"))


@pytest.mark.parametrize("turned", [5, 6, 7, 8])
def test_photos_that_a_camera_turned(tmp_path: Path, turned: int) -> None:
    """Stored 320 x 240, upright 240 x 320; JSONs hold either, boxes drawn on either."""
    picture(tmp_path / "a.png", turned=turned)
    for recorded in ((320, 240), (240, 320), (None, None)):
        own = dict(zip(("width", "height"), recorded, strict=True))
        upright, _ = converted(tmp_path, coco([20, 200, 100, 100], **own))  # only fits upright
        assert edges(upright) == [(20, 200, 120, 300)]
        assert (upright[0].images[0].width, upright[0].images[0].height) == (240, 320)
    stored, tally = converted(tmp_path, coco([250, 20, 60, 100]))  # only fits as stored
    assert "turned upright" in " ".join(tally.table())
    pixels = Image.new("L", (320, 240))
    pixels.paste(255, (250, 20, 310, 120))
    turns = {
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_270],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_90],
    }
    assert edges(stored) == [tuple(map(float, pixels.transpose(turns[turned][0]).getbbox() or ()))]


def test_recorded_size_of_another_picture_is_set_aside(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    samples, tally = converted(tmp_path, coco([10, 10, 50, 50], width=640, height=480))
    assert not samples
    assert [each.kind for each in tally.aside] == ["recorded size differs from the file"]


# --- ids and names ------------------------------------------------------------------------------


def test_ids_that_are_not_unique(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    tables = coco([10, 10, 50, 50])
    tables["images"] += [{"id": 1, "file_name": "b.png"}, {"id": 2, "file_name": "c.png"}]
    tables["annotations"].append({"id": 7, "image_id": 2, "category_id": 1, "bbox": [1, 1, 40, 40]})
    samples, tally = converted(tmp_path, tables)
    assert [sample.id for sample in samples] == ["c-cup-unique"]
    named = {each.id for each in tally.aside if "not unique" in each.kind}
    assert named == {"a.png", "b.png"}


@pytest.mark.parametrize(
    ("first", "second", "ids"),
    [
        ("day/1.png", "night/1.png", ["day/1-cup-unique", "night/1-cup-unique"]),
        ("a.png", "a.jpg", ["a.png-cup-unique", "a.jpg-cup-unique"]),
        ("in/a.png", "in/b.png", ["a-cup-unique", "b-cup-unique"]),
    ],
)
def test_ids_of_samples_tell_photos_apart(
    tmp_path: Path, first: str, second: str, ids: list[str]
) -> None:
    picture(tmp_path / first)
    picture(tmp_path / second)
    tables = coco([10, 10, 50, 50], file_name=first)
    tables["images"].append({"id": 2, "file_name": second})
    tables["annotations"].append({"id": 7, "image_id": 2, "category_id": 1, "bbox": [9, 9, 40, 40]})
    assert [sample.id for sample in converted(tmp_path, tables)[0]] == ids


@pytest.mark.parametrize(
    ("stated", "lies"),
    [
        ("images\\abc.png", "images/abc.png"),
        ("..\\..\\media\\upload\\4\\abc.png", "abc.png"),
        ("/data/upload/4/abc.png", "abc.png"),
        ("C:\\photos\\abc.png", "deep/in/abc.png"),
        ("my%20cup.png", "my cup.png"),
        ("https://host/a/abc.png?x=1", "abc.png"),
        ("http://host:8080/data/local-files/?d=set/abc.png", "set/abc.png"),
        ("ABC.PNG", "abc.png"),
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("abc.png", "abc.jpg"),
        ("COCO_train2014_000000581857.jpg", "000000581857.jpg"),
    ],
)
def test_names_of_photos_as_they_are_written(tmp_path: Path, stated: str, lies: str) -> None:
    picture(tmp_path / "photos" / lies)
    samples, _ = converted(tmp_path, coco([10, 10, 50, 50], file_name=stated))
    assert [Path(sample.images[0].path) for sample in samples] == [tmp_path / "photos" / lies]


def test_two_photos_that_fit_a_name_are_no_guess(tmp_path: Path) -> None:
    picture(tmp_path / "x" / "a.png")
    picture(tmp_path / "y" / "a.png")
    samples, tally = converted(tmp_path, coco([10, 10, 50, 50], file_name="z/a.png"))
    assert not samples
    assert "x/a.png or y/a.png" in tally.aside[0].reason


def test_one_photo_is_not_given_to_two_names(tmp_path: Path) -> None:
    picture(tmp_path / "day" / "1.png")
    tables = coco([10, 10, 50, 50], file_name="day/1.png")
    tables["images"].append({"id": 2, "file_name": "night/1.png"})
    tables["annotations"].append({"id": 7, "image_id": 2, "category_id": 1, "bbox": [9, 9, 40, 40]})
    samples, tally = converted(tmp_path, tables)
    assert edges(samples) == [(10, 10, 60, 60)]
    assert [each.id for each in tally.aside] == ["night/1.png"]


# --- classes ------------------------------------------------------------------------------------

UNSURE: list[Callable[[Tables], Any]] = [
    lambda tables: tables["images"][0].update(not_exhaustive_category_ids=[1]),
    lambda tables: tables["annotations"][0].update(ignore=1),
    lambda tables: tables["annotations"][0].update(iscrowd=1),
    lambda tables: tables["annotations"][0].update(IsGroupOf=1),
]


@pytest.mark.parametrize("change", UNSURE)
def test_classes_that_are_not_boxed_throughout_are_not_asked(
    tmp_path: Path, change: Callable[[Tables], Any]
) -> None:
    picture(tmp_path / "a.png")
    tables = coco([10, 10, 50, 50])
    tables["categories"].append({"id": 2, "name": "hat"})
    tables["annotations"].append({"id": 7, "image_id": 1, "category_id": 2, "bbox": [9, 9, 40, 40]})
    change(tables)
    assert [sample.id for sample in converted(tmp_path, tables)[0]] == ["a-hat-unique"]


def test_absent_classes_are_asked_where_that_is_known(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    questions = tmp_path / "q.yaml"
    questions.write_text("cup: {unique: the cup, absent: the cup}\n")
    tables = coco([10, 10, 50, 50])
    tables["images"].append({"id": 2, "file_name": "b.png"})
    samples, _ = converted(tmp_path, tables, questions=questions)
    assert [(sample.id, len(sample.targets)) for sample in samples] == [
        ("a-cup-unique", 1),
        ("b-cup-absent", 0),
    ]
    tables["images"][1]["not_exhaustive_category_ids"] = [1]
    assert len(converted(tmp_path, tables, questions=questions)[0]) == 1


def test_unknown_categories_set_their_annotation_aside(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    tables = coco([10, 10, 50, 50], [90, 90, 30, 30])
    tables["annotations"][1]["category_id"] = 9
    samples, tally = converted(tmp_path, tables)
    assert [sample.id for sample in samples] == ["a-cup-unique"]
    assert [(each.id, each.kind) for each in tally.aside] == [
        ("annotation 2 of a.png", "unknown category")
    ]


@pytest.mark.parametrize(
    ("word", "flips"), [("turn left sign", "v"), ("cup upside down", "h"), ("red cup", "hv")]
)
def test_words_of_side_forbid_flips(tmp_path: Path, word: str, flips: str) -> None:
    picture(tmp_path / "a.png")
    tables = coco([10, 10, 250, 200])
    tables["categories"][0]["name"] = word
    samples, _ = converted(tmp_path, tables, views=40)
    views = [each.images[0].path for each in samples if "#view=" in each.images[0].path]
    assert {flip for view in views for flip in view.rpartition(",")[2]} == {*flips}
    none, _ = converted(tmp_path, tables, views=40, flips="")
    assert not any(each.images[0].path.endswith(("h", "v")) for each in none)


# --- tables with gaps, texts with marks ---------------------------------------------------------


def test_tables_with_gaps(tmp_path: Path) -> None:
    picture(tmp_path / "val" / "a.png")
    tables = coco([10, 10, 50, 50], width=None, height=None)
    del tables["images"][0]["file_name"]
    tables["images"][0]["coco_url"] = "http://images.cocodataset.org/val/a.png"
    del tables["annotations"][0]["bbox"]
    tables["annotations"][0]["segmentation"] = [[10, 10, 60, 10, 60, 60], [20, 20, 30, 70, 40, 20]]
    assert edges(converted(tmp_path, tables)[0]) == [(10, 10, 60, 70)]
    with pytest.raises(DataError, match="panoptic"):
        converted(tmp_path, {"images": [], "annotations": [{"segments_info": []}]})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_marks_before_the_text(tmp_path: Path, encoding: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "c.json").write_text(json.dumps(coco([10, 10, 50, 50])), encoding=encoding)
    assert len(list(convert("coco", tmp_path / "c.json"))) == 1


def test_items_that_are_no_objects_are_set_aside(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    tables = coco([10, 10, 50, 50])
    tables["images"] += [None, "b.png"]
    tables["annotations"] += [7, {"id": 9, "category_id": 1, "bbox": [1, 1, 9, 9]}]
    tables["categories"].append("hat")
    samples, tally = converted(tmp_path, tables)
    assert edges(samples) == [(10, 10, 60, 60)]
    assert sorted(each.what for each in tally.aside) == ["box", "box", "class", "photo", "photo"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
@pytest.mark.parametrize("name", ["yolo", "voc"])
def test_names_of_files_that_are_not_utf_8(tmp_path: Path, name: str) -> None:
    """As an archive of Windows leaves them: a row cannot hold such a name, a table can show it."""
    odd = os.fsdecode(b"caf\xe9")
    for stem in (odd, "good"):
        picture(tmp_path / f"{stem}.png")
        (tmp_path / f"{stem}.xml").write_text(xml("", bndbox(10, 10, 60, 60)))
        (tmp_path / f"{stem}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (tmp_path / "data.yaml").write_text("names: [cup]\n")
    counts, tally = write(name, tmp_path, out=tmp_path / "out" / "o.jsonl")
    assert [*counts.values()] == [1]
    assert [each.kind for each in tally.aside] == ["name of a file that is not in UTF-8"]
    rejected = json.loads((tmp_path / "out" / "o.rejected.jsonl").read_text())
    assert "caf\\udce9" in rejected["id"]
    assert all(line.encode() for line in tally.table())


def test_lines_of_json_are_found_whatever_the_file_is_called(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    rows = [{"image_path": "a.png", "instruction": ["x"], "boxes": [[1, 2, 30, 40]]}] * 2
    (tmp_path / "c.json").write_text("\n".join(map(json.dumps, rows)))
    assert len(list(convert("extracted", tmp_path / "c.json"))) == 2


# --- VOC ----------------------------------------------------------------------------------------


def xml(filename: str, *boxes: str, size: str = "<width>320</width><height>240</height>") -> str:
    objects = "".join(f"<object><name>cup</name>{box}</object>" for box in boxes)
    return f"<annotation><filename>{filename}</filename><size>{size}</size>{objects}</annotation>"


def bndbox(x1: float, y1: float, x2: float, y2: float) -> str:
    return f"<bndbox><xmax>{x2}</xmax><xmin>{x1}</xmin><ymin>{y1}</ymin><ymax>{y2}</ymax></bndbox>"


@pytest.mark.parametrize("layout", ["annotations", "Annotations", "", "deep/xml"])
def test_voc_in_any_layout(tmp_path: Path, layout: str) -> None:
    picture(tmp_path / "images" / "a.png")
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.xml").write_text(xml("a.png", bndbox(10, 10, 60, 60)))
    assert edges(list(convert("voc", tmp_path))) == [(10, 10, 60, 60)]


@pytest.mark.parametrize("stated", ["p", "p.jpg", "C:\\photos\\p.jpg", "other.jpg", ""])
def test_voc_file_names(tmp_path: Path, stated: str) -> None:
    picture(tmp_path / "p.PNG")
    (tmp_path / "p.xml").write_text(xml(stated, bndbox(10, 10, 60, 60)))
    (sample,) = convert("voc", tmp_path)
    assert Path(sample.images[0].path).name == "p.PNG"


def test_xmls_of_one_stated_name_keep_their_own_photos(tmp_path: Path) -> None:
    """Copies of an XML whose `filename` nobody changed: the photo is the one called as the XML."""
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.xml").write_text(xml("template.jpg", bndbox(10, 10, 60, 60)))
    samples = list(convert("voc", tmp_path))
    assert [Path(each.images[0].path).name for each in samples] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(0, 10, 60, 60), (70, 10, 320, 240)], (0, 10, 60, 60)),
        ([(1, 10, 60, 60), (70, 10, 320, 200)], (0, 9, 60, 60)),
        ([(1, 10, 60, 60), (70, 10, 90, 90)], (1, 10, 60, 60)),
        ([(1.5, 10, 60, 60), (70, 10, 320, 90)], (1.5, 10, 60, 60)),
    ],
)
def test_voc_counts_from_where_its_numbers_say(
    tmp_path: Path, boxes: list[tuple[float, ...]], expected: tuple[float, ...]
) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text(xml("a.png", *(bndbox(*box) for box in boxes)))
    assert edges(list(convert("voc", tmp_path)))[0] == expected
    by_hand = edges(list(convert("voc", tmp_path, origin=0)))[0]
    assert by_hand == tuple(map(float, boxes[0]))


def test_voc_with_mishaps_converts_the_rest(tmp_path: Path) -> None:
    for name in ("good", "turned", "cut"):
        picture(tmp_path / f"{name}.png")
    (tmp_path / "good.xml").write_text(xml("good.png", bndbox(10, 10, 60, 60)))
    (tmp_path / "gone.xml").write_text(xml("gone.png", bndbox(10, 10, 60, 60)))
    (tmp_path / "cut.xml").write_text(xml("cut.png", bndbox(10, 10, 60, 60))[:90])
    rotated = (
        "<robndbox><cx>100</cx><cy>100</cy><w>80</w><h>20</h><angle>1.5707963</angle></robndbox>"
    )
    (tmp_path / "turned.xml").write_text(xml("turned.png", rotated))
    tally = Tally()
    samples = {each.id: each for each in convert("voc", tmp_path, tally=tally)}
    assert samples.keys() == {"good-cup-unique", "turned-cup-unique"}
    assert samples["turned-cup-unique"].boxes[0].xyxy == pytest.approx((90, 60, 110, 140), abs=1e-3)
    assert {each.kind for each in tally.aside} == {"missing image", "broken XML"}


def test_split_lists_as_people_write_them(tmp_path: Path) -> None:
    for name in ("a", "b c"):
        picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.xml").write_text(xml(f"{name}.png", bndbox(10, 10, 60, 60)))
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    lists.joinpath("train.txt").write_bytes(b"\xef\xbb\xbfa.png\r\n   \r\nb c\na -1\n./x/a\nnone\n")
    tally = Tally()
    samples = list(convert("voc", tmp_path, split="train", tally=tally))
    assert [sample.id for sample in samples] == ["a-cup-unique", "b c-cup-unique"]
    assert [each.id for each in tally.aside] == ["none"]


# --- what is written ----------------------------------------------------------------------------

numbers = st.one_of(
    st.floats(-400, 700), st.integers(-50, 400), st.sampled_from([0, 320, 240, 1e9, None, "x", 27])
)
sizes = st.sampled_from([(320, 240), (240, 320), (None, None), (0, 0), (640, 480), ("a", 3)])


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    boxes=st.lists(st.lists(numbers, min_size=3, max_size=5), max_size=4),
    size=sizes,
    name=st.sampled_from(["a.png", "cut.png", "tiny.png", "none.png", "turned.png", "A.PNG"]),
    views=st.sampled_from([0, 3]),
)
def test_no_row_is_written_that_the_validator_sets_aside(
    tmp_path: Path, boxes: list[Any], size: tuple[Any, Any], name: str, views: int
) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "turned.png", turned=6)
    picture(tmp_path / "tiny.png", 20, 20)
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    tables = coco(*boxes, file_name=name, width=size[0], height=size[1])
    (tmp_path / "c.json").write_text(json.dumps(tables))
    out = tmp_path / "out.jsonl"
    out.unlink(missing_ok=True)
    try:
        write("coco", tmp_path / "c.json", out=out, views=views)
    except DataError:
        assert not out.exists()
    if out.exists():
        assert not validate(out).reasons


def test_the_command_writes_both_files_and_counts(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    tables = coco([10, 10, 50, 50], [400, 10, 50, 50])
    (tmp_path / "c.json").write_text(json.dumps(tables))
    out = tmp_path / "o.jsonl"
    command = ["data", "convert", "coco", str(tmp_path / "c.json"), "--out", str(out)]
    shown = CliRunner().invoke(app, command)
    assert (
        shown.exit_code == 1 and "set aside 1 x box outside the image: a.png: cup" in shown.output
    )
    assert not out.exists() or not out.read_text()
    tables["annotations"].pop()
    (tmp_path / "c.json").write_text(json.dumps(tables))
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0 and f"{out}: 1 samples" in shown.output
    assert not (tmp_path / "o.rejected.jsonl").exists()


def test_parts_are_of_photos(tmp_path: Path) -> None:
    tables = coco()
    tables["images"], tables["categories"] = (
        [],
        [{"id": 1, "name": "cup"}, {"id": 2, "name": "hat"}],
    )
    for number in range(60):
        picture(tmp_path / f"{number}.png", 40, 40)
        tables["images"].append({"id": number, "file_name": f"{number}.png"})
        tables["annotations"] += [
            {
                "id": 2 * number + kind,
                "image_id": number,
                "category_id": 1 + kind,
                "bbox": [1, 1, 20, 20],
            }
            for kind in (0, 1)
        ]
    (tmp_path / "c.json").write_text(json.dumps(tables))
    counts, _ = write("coco", tmp_path / "c.json", out=tmp_path / "o.jsonl", split_by="0.5,0.3,0.2")
    assert sum(counts.values()) == 120 and [path.name for path in counts] == [
        "o.train.jsonl",
        "o.val.jsonl",
        "o.test.jsonl",
    ]
    photos = [
        {json.loads(line)["images"][0]["path"] for line in path.read_text().splitlines()}
        for path in counts
    ]
    assert sum(map(len, photos)) == 60 == len(set().union(*photos))
    assert len(photos[0]) > len(photos[2]) > 0
