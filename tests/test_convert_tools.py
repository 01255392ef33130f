"""One photo with the same boxes, as each labelling tool and trainer writes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from reground.data.convert import FORMATS, convert
from reground.data.convert.auto import recognised
from reground.data.convert.tally import Tally
from reground.errors import ConfigError, DataError
from reground.grounding.boxes import Box, FrameKind
from reground.grounding.codecs import Codec, EncodedSize, PixelLimits
from reground.grounding.grammars import Grammar
from reground.grounding.sample import Sample

WIDTH, HEIGHT = 400, 200
CUP, HAT = (40, 20, 120, 100), (200, 50, 300, 150)


def picture(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "gray").save(path)


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def coco(folder: Path) -> Path:
    boxes = [
        {"id": n, "image_id": 1, "category_id": n, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for n, (x1, y1, x2, y2) in enumerate((CUP, HAT))
    ]
    names = [{"id": 0, "name": "cup"}, {"id": 1, "name": "hat"}]
    image = {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
    tables = {"images": [image], "annotations": boxes, "categories": names}
    return put(folder / "c.json", tables)


def voc(folder: Path) -> Path:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in (("cup", CUP), ("hat", HAT))
    )
    put(folder / "a.xml", f"<annotation><filename>a.png</filename>{objects}</annotation>")
    return folder


def yolo(folder: Path) -> Path:
    lines = [
        f"{n} {(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} "
        f"{(x2 - x1) / WIDTH} {(y2 - y1) / HEIGHT}"
        for n, (x1, y1, x2, y2) in enumerate((CUP, HAT))
    ]
    put(folder / "labels" / "a.txt", "\n".join(lines) + "\n\n")
    put(folder / "data.yaml", "path: /somewhere/else\ntrain: images\nnames:\n  0: cup\n  1: hat\n")
    return folder


def labelme(folder: Path) -> Path:
    x1, y1, x2, y2 = HAT
    shapes = [
        {"label": "cup", "shape_type": "rectangle", "points": [CUP[2:], CUP[:2]]},
        {"label": "hat", "shape_type": "polygon", "points": [[x1, 90], [x2, y2], [250, y1]]},
        {"label": "crack", "shape_type": "line", "points": [[0, 0], [9, 9]]},
    ]
    row = {"imagePath": "..\\photos\\a.png", "imageWidth": WIDTH, "imageHeight": HEIGHT}
    put(folder / "a.json", row | {"shapes": shapes, "imageData": None})
    return folder


def percent(label: str, edges: tuple[int, int, int, int]) -> dict[str, Any]:
    x1, y1, x2, y2 = edges
    return {
        "x": 100 * x1 / WIDTH,
        "y": 100 * y1 / HEIGHT,
        "width": 100 * (x2 - x1) / WIDTH,
        "height": 100 * (y2 - y1) / HEIGHT,
        "rotation": 0,
        "rectanglelabels": [label],
    }


SIZE = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}


def label_studio(folder: Path) -> Path:
    result = [
        {"type": "rectanglelabels", "value": percent(*each), **SIZE}
        for each in (("cup", CUP), ("hat", HAT))
    ]
    cancelled = {"was_cancelled": True, "result": [{"value": percent("cup", HAT), **SIZE}]}
    task = {"id": 3, "data": {"image": "/data/upload/1/1234-a.png"}}
    task["data"]["image"] = "/data/local-files/?d=x/a.png"
    return put(folder / "ls.json", [task | {"annotations": [cancelled, {"result": result}]}])


def label_studio_min(folder: Path) -> Path:
    regions = [percent(*each) | SIZE for each in (("cup", CUP), ("hat", HAT))]
    return put(folder / "min.json", [{"id": 3, "image": "/data/upload/1/a.png", "label": regions}])


def cvat(folder: Path) -> Path:
    boxes = "".join(
        f'<box label="{name}" occluded="0" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}"/>'
        for name, (x1, y1, x2, y2) in (("cup", CUP), ("hat", HAT))
    )
    image = f'<image id="0" name="a.png" width="{WIDTH}" height="{HEIGHT}">{boxes}</image>'
    put(folder / "annotations.xml", f"<annotations><version>1.1</version>{image}</annotations>")
    return folder / "annotations.xml"


def regions() -> list[dict[str, Any]]:
    x1, y1, x2, y2 = CUP
    rect = {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
    xs, ys = [HAT[0], HAT[2], 250], [HAT[1], 90, HAT[3]]
    polygon = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
    return [
        {"shape_attributes": rect, "region_attributes": {"class": "cup", "note": "x"}},
        {"shape_attributes": polygon, "region_attributes": {"kind": {"hat": True, "cup": False}}},
    ]


def via(folder: Path) -> Path:
    rows = {"a.png12": {"filename": "a.png", "size": 12, "regions": regions()}}
    return put(folder / "via.json", {"_via_settings": {}, "_via_img_metadata": rows})


def via_one(folder: Path) -> Path:
    """As version 1 exports it: no project around, regions by number."""
    numbered = {str(number): each for number, each in enumerate(regions())}
    return put(folder / "via.json", {"a.png12": {"filename": "a.png", "regions": numbered}})


def via_csv(folder: Path) -> Path:
    lines = [
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    ]
    for number, each in enumerate(regions()):
        shape, own = (
            json.dumps(each[key]).replace('"', '""')
            for key in ("shape_attributes", "region_attributes")
        )
        lines.append(f'a.png,12,"{{}}",2,{number},"{shape}","{own}"')
    return put(folder / "via.csv", "\n".join(lines))


def csv_of_tensorflow(folder: Path) -> Path:
    rows = [
        f"a.png,{WIDTH},{HEIGHT},{name},{','.join(map(str, box))}"
        for name, box in (("cup", CUP), ("hat", HAT))
    ]
    return put(
        folder / "t.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n" + "\n".join(rows)
    )


def csv_without_head(folder: Path) -> Path:
    rows = [f"a.png;{';'.join(map(str, box))};{name}" for name, box in (("cup", CUP), ("hat", HAT))]
    return put(folder / "t.csv", "\ufeff" + "\r\n".join(rows))


def csv_of_open_images(folder: Path) -> Path:
    rows = []
    for name, (x1, y1, x2, y2) in (("cup", CUP), ("hat", HAT)):
        edges = (x1 / WIDTH, x2 / WIDTH, y1 / HEIGHT, y2 / HEIGHT)
        rows.append(f"a,xclick,{name},1,{','.join(map(str, edges))},0,0,0,0,0")
    head = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
        "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    )
    return put(folder / "t.csv", head + "\n" + "\n".join(rows))


def csv_of_sides(folder: Path) -> Path:
    rows = [
        f"a.png,{x1},{y1},{x2 - x1},{y2 - y1},{name}"
        for name, (x1, y1, x2, y2) in (("cup", CUP), ("hat", HAT))
    ]
    return put(folder / "t.csv", "image_path,x,y,width,height,label\n" + "\n".join(rows))


TOOLS: list[tuple[str, Callable[[Path], Path]]] = [
    ("coco", coco),
    ("voc", voc),
    ("yolo", yolo),
    ("labelme", labelme),
    ("label_studio", label_studio),
    ("label_studio", label_studio_min),
    ("cvat", cvat),
    ("via", via),
    ("via", via_one),
    ("csv", via_csv),
    ("csv", csv_of_tensorflow),
    ("csv", csv_without_head),
    ("csv", csv_of_open_images),
    ("csv", csv_of_sides),
]


@pytest.mark.parametrize(("name", "made"), TOOLS, ids=[made.__name__ for _, made in TOOLS])
def test_every_tool_says_the_same(tmp_path: Path, name: str, made: Callable[[Path], Path]) -> None:
    picture(
        tmp_path / "images" / "x" / "a.png" if "studio" in name else tmp_path / "images" / "a.png"
    )
    source = made(tmp_path)
    options = {} if source == tmp_path else {"images": tmp_path / "images"}
    cup, hat = sorted(convert(name, source, **options), key=lambda each: each.question)
    assert (cup.question, hat.question) == ("the cup", "the hat")
    assert cup.boxes[0].xyxy == pytest.approx(CUP)
    assert hat.boxes[0].xyxy == pytest.approx(HAT)
    assert recognised(source) == (name, source)


@pytest.mark.parametrize("name", ["classes.txt", "labels/classes.txt", "obj.names", "labels/0.txt"])
def test_auto_needs_no_table_of_yolos_classes(name: str, tmp_path: Path) -> None:
    """As labelImg and darknet leave a folder; that below a hidden one is no less a folder."""
    folder = tmp_path / ".cache" / "photos"
    (folder / "labels").mkdir(parents=True)
    (folder / name).write_text("0 0.5 0.5 0.2 1e-1\n" if name.endswith("0.txt") else "cup\n")
    assert recognised(folder) == ("yolo", folder)
    assert recognised(folder / name)[0] == "yolo"
    (folder / "labels" / "0.txt").write_text("no labels\n")
    (folder / "notes.csv").touch()
    assert recognised(folder) == ("csv", folder / "notes.csv")


def test_auto_names_what_it_cannot_choose_between(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        recognised(tmp_path / "none")
    with pytest.raises(DataError, match="no annotations of a known format"):
        recognised(tmp_path)
    coco(tmp_path)
    assert recognised(tmp_path) == ("coco", tmp_path / "c.json")
    put(tmp_path / "d.json", (tmp_path / "c.json").read_text())
    with pytest.raises(DataError, match=r"2 files of coco: c\.json, d\.json"):
        recognised(tmp_path)
    voc(tmp_path)
    with pytest.raises(DataError, match=r"several formats: coco .*voc"):
        recognised(tmp_path)


# --- boxes that cannot be read ------------------------------------------------------------------

# The second box is a cup too, and one of its numbers is no number.
BROKEN: list[tuple[str, Callable[[Path], Path], str, str]] = [
    ("coco", coco, "[200, 50, 100, 100]", '["wide", 50, 100, 100]'),
    ("voc", voc, "<xmin>200<", "<xmin>wide<"),
    ("yolo", yolo, "0.625", "wide"),
    ("labelme", labelme, "[200, 90]", '["wide", 90]'),
    ("label_studio", label_studio, '"x": 50.0', '"x": "wide"'),
    ("label_studio", label_studio_min, '"x": 50.0', '"x": "wide"'),
    ("cvat", cvat, 'xtl="200"', 'xtl="wide"'),
    ("via", via, "[200, 300, 250]", '["wide", 300, 250]'),
    ("csv", csv_of_tensorflow, "hat,200,", "hat,wide,"),
    ("csv", csv_of_sides, ",200,", ",wide,"),
    ("csv", via_csv, "[200, 300, 250]", '[""wide"", 300, 250]'),
]


@pytest.mark.parametrize(
    ("name", "made", "old", "new"), BROKEN, ids=[made.__name__ for _, made, *_ in BROKEN]
)
def test_a_box_that_cannot_be_read_leaves_its_class_unasked(
    tmp_path: Path, name: str, made: Callable[[Path], Path], old: str, new: str
) -> None:
    """Of two cups one is known: "the cup" would have an answer that is half of the truth."""
    picture(tmp_path / "images" / "a.png")
    source = made(tmp_path)
    spoilt = 0
    for path in tmp_path.rglob("*.*"):
        if path.suffix != ".png" and path.is_file():
            text = path.read_text()
            for quote in ('"', '""'):  # a ticked box of VIA
                hat, cup = f"{quote}hat{quote}", f"{quote}cup{quote}"
                text = text.replace(f"{{{hat}: true, {cup}: false}}", cup)
            spoilt += text.count(old)
            path.write_text(text.replace(old, new).replace("hat", "cup"))
    assert spoilt
    tally = Tally()
    options = {} if source == tmp_path else {"images": tmp_path / "images"}
    assert not list(convert(name, source, tally=tally, **options))
    assert [each.what for each in tally.aside] == ["box"]
    assert (tally.found["photos"], tally.found["boxes"], tally.kept["boxes"]) == (1, 2, 1)


@pytest.mark.parametrize("names", ["{.inf: cup}", "{.nan: cup}", "cup", "{a: cup}", "[[cup]]: 1"])
def test_classes_of_yolo_that_have_no_numbers(tmp_path: Path, names: str) -> None:
    picture(tmp_path / "a.png")
    put(tmp_path / "data.yaml", f"names: {names}\n")
    with pytest.raises(DataError, match=r"data\.yaml"):
        list(convert("yolo", tmp_path))


@pytest.mark.parametrize("head", ["a,b,c", ",".join(["column"] * 5000)])
def test_tables_without_known_columns(tmp_path: Path, head: str) -> None:
    with pytest.raises(DataError, match=r"t\.csv: columns .*; expected") as caught:
        list(convert("csv", put(tmp_path / "t.csv", f"{head}\n1,2,3\n")))
    assert len(str(caught.value)) < 600


# --- turns --------------------------------------------------------------------------------------


def test_label_studio_turns_boxes_in_pixels(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1000, 500)
    value = {
        "x": 20,
        "y": 20,
        "width": 30,
        "height": 20,
        "rotation": 90,
        "rectanglelabels": ["cup"],
    }
    region = {"value": value, "original_width": 1000, "original_height": 500}
    task = {"data": {"photo": "a.png"}, "annotations": [{"result": [region]}]}
    tally = Tally()
    (sample,) = convert("label_studio", put(tmp_path / "l.json", [task]), tally=tally)
    assert sample.boxes[0].xyxy == pytest.approx((100, 100, 200, 400))
    assert tally.notes["rotated boxes, their upright bounds taken"] == ["a.png"]


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_label_studio_turns_the_photo_back(tmp_path: Path, quarters: int) -> None:
    """The photo is shown turned clockwise; the box is where its pixels are."""
    picture(tmp_path / "a.png")
    shown = Image.new("L", (WIDTH, HEIGHT))
    shown.paste(255, CUP)
    shown = shown.rotate(-90 * quarters, expand=True)
    x1, y1, x2, y2 = shown.getbbox() or ()
    value = {
        "x": 100 * x1 / shown.width,
        "y": 100 * y1 / shown.height,
        "width": 100 * (x2 - x1) / shown.width,
        "height": 100 * (y2 - y1) / shown.height,
        "rectanglelabels": ["cup"],
    }
    region = {"value": value, **SIZE, "image_rotation": 90 * quarters}
    task = {"data": {"image": "a.png"}, "annotations": [{"result": [region]}]}
    (sample,) = convert("label_studio", put(tmp_path / "l.json", [task]))
    assert sample.boxes[0].xyxy == pytest.approx(CUP)


def test_cvat_turns_about_the_middle_and_names_frames(tmp_path: Path) -> None:
    picture(tmp_path / "frame_000002.PNG", 300, 300)
    box = '<box frame="2" outside="0" xtl="50" ytl="90" xbr="150" ybr="110" rotation="90"/>'
    gone = '<box frame="3" outside="1" xtl="50" ytl="90" xbr="150" ybr="110"/>'
    track = f'<track id="0" label="cup">{box}{gone}</track>'
    (sample,) = convert("cvat", put(tmp_path / "v.xml", f"<annotations>{track}</annotations>"))
    assert sample.boxes[0].xyxy == pytest.approx((90, 50, 110, 150))


def test_yolo_mishaps(tmp_path: Path) -> None:
    yolo(tmp_path)
    for name in ("a", "empty", "bad"):
        picture(tmp_path / "images" / f"{name}.png")
    put(tmp_path / "labels" / "bad.txt", "0 0.5 0.5 0.1 0.1\n7 0.5 0.5 0.2 0.2\n1 0.5 x 0.2 0.2\n")
    put(tmp_path / "labels" / "lost.txt", "0 0.5 0.5 0.1 0.1\n")
    put(tmp_path / "labels" / "empty.txt", "1 0.1 0.1 0.3 0.1 0.3 0.4\n")
    tally = Tally()
    samples = {each.id: each for each in convert("yolo", tmp_path, tally=tally)}
    assert samples.keys() == {"a-cup-unique", "a-hat-unique", "empty-hat-unique"}
    assert samples["empty-hat-unique"].boxes[0].xyxy == pytest.approx((40, 20, 120, 80))
    assert {each.kind for each in tally.aside} == {
        "unknown class",
        "a field has the wrong form",
        "missing image",
    }
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DataError, match="no class names"):
        list(convert("yolo", tmp_path))


@pytest.mark.parametrize("split", ["train", "val"])
def test_yolo_parts(tmp_path: Path, split: str) -> None:
    for part in ("train", "valid"):
        picture(tmp_path / part / "images" / f"{part}.png")
        put(tmp_path / part / "labels" / f"{part}.txt", "0 0.5 0.5 0.5 0.5")
    put(tmp_path / "data.yaml", "names: [cup]\n")
    (sample,) = convert("yolo", tmp_path, split=split)
    assert Path(sample.images[0].path).stem == {"train": "train", "val": "valid"}[split]


# --- conversations ------------------------------------------------------------------------------


def said(question: str, answer: str, **row: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"images": ["a.png"], "conversations": turns} | row


ANSWERS = [
    ("[40, 20, 120, 100]", None),
    ('```json\n[{"bbox_2d": [40, 20, 120, 100], "label": "cup"}]\n```', None),
    ("<|box_start|>(100,100),(300,500)<|box_end|>", "thousandths"),
    ("<box>[[100, 100, 300, 500]]</box>", "thousandths"),
    ("(0.1, 0.1, 0.3, 0.5)", None),
    ("<think>It is [1, 2, 3, 4] small.</think><answer>[40, 20, 120, 100]</answer>", "original"),
]


def chats(folder: Path, *rows: dict[str, Any], **options: Any) -> list[Sample]:
    return list(convert("chat", put(folder / "rows.json", list(rows)), **options))


@pytest.mark.parametrize(("answer", "frame"), ANSWERS)
def test_answers_of_other_trainers(tmp_path: Path, answer: str, frame: str | None) -> None:
    picture(tmp_path / "a.png")
    # What lies past 200 cannot be pixels of the height, and past 1000 no thousandths.
    picture(tmp_path / "b.png", 1600, 200)
    other = said("the hat", "[1200, 20, 1300, 100]", images=["b.png"])
    rows = [said("<image>\nWhere is the cup?", answer)]
    if frame is None and "0.1" not in answer:
        rows.append(other)
    sample, *_ = chats(tmp_path, *rows, box_frame=frame)
    assert sample.question == "Where is the cup?"
    assert sample.boxes[0].xyxy == pytest.approx(CUP)
    assert sample.think == ("It is [1, 2, 3, 4] small." if "think" in answer else None)


def test_a_frame_is_not_guessed(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="several frames hold all 1 boxes; say what they count"):
        chats(tmp_path, said("<image>cup", "[40, 20, 120, 100]"))
    with pytest.raises(DataError, match="no frame holds"):
        chats(tmp_path, said("<image>cup", "[40, 20, 12000, 100]"))


@given(
    st.integers(28, 2000),
    st.integers(28, 2000),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.sampled_from([(3136, 401_408, 28), (200_704, 1_003_520, 28), (65_536, 16_777_216, 32)]),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_boxes_of_a_resized_copy_come_back(
    tmp_path: Path,
    width: int,
    height: int,
    shares: tuple[float, float, float, float],
    made: tuple[int, int, int],
) -> None:
    fewest, most, factor = made
    picture(tmp_path / "a.png", width, height)
    copy = PixelLimits(fewest, most).resized(width, height, factor=factor)
    size = EncodedSize(width, height, *copy)
    (x1, x2), (y1, y2) = sorted(shares[:2]), sorted(shares[2:])
    assume(x2 - x1 > 2 / 28 and y2 - y1 > 2 / 28)
    box = Box(x1 * width, y1 * height, x2 * width, y2 * height, size.pixels)
    row = said("<image>cup", Codec(FrameKind.INPUT, Grammar.JSON).spell([box], size=size))
    limits = {"min_pixels": fewest, "max_pixels": most, "factor": factor}
    (sample,) = chats(tmp_path, row, box_frame="resized", **limits)
    half = [0.5 * width / copy[0], 0.5 * height / copy[1]] * 2  # a pixel of the copy
    found = zip(sample.boxes[0].xyxy, box.xyxy, half, strict=True)
    assert all(abs(got - meant) <= most + 1e-6 for got, meant, most in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box_frame": "resized"}, "needs --min-pixels and --max-pixels"),
        ({"box_frame": "resized", "max_pixels": 401_408}, "needs --min-pixels: "),
        ({"box_frame": "resized", "min_pixels": 9, "max_pixels": 4}, "min_pixels 9 is above"),
        ({"max_pixels": 401_408}, "add --box-frame resized"),
        ({"box_frame": "original", "factor": 28}, "add --box-frame resized"),
        ({"box_frame": "resised"}, "did you mean 'resized'"),
    ],
)
def test_a_resized_frame_is_told_whole(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=message):
        chats(tmp_path, said("<image>cup", "[40, 20, 120, 100]"), **options)


def test_pixels_of_a_photo_that_is_not_there_are_none(tmp_path: Path) -> None:
    rows = [said("<image>cup", "[40, 20, 120, 100]")]
    with pytest.raises(DataError, match="boxes in pixels need its sides"):
        chats(tmp_path, *rows, box_frame="original", allow_missing_images=True)
    (sample,) = chats(tmp_path, *rows, box_frame="thousandths", allow_missing_images=True)
    assert sample.boxes[0].xyxy == (40, 20, 120, 100)


def test_messages_of_parts_and_several_turns(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    parts = [{"type": "image"}, {"type": "text", "text": "the cup"}]
    row = {
        "images": ["a.png", "b.png"],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": "[40, 20, 120, 100]"},
            {"role": "user", "content": "<image>Thanks. Is it a cup?"},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "the hat in image-2"},
            {"role": "assistant", "content": "[200, 50, 300, 150]"},
        ],
    }
    cup, hat = chats(tmp_path, row, box_frame="original")
    assert (len(cup.images), len(hat.images), hat.target_image) == (1, 2, 1)
    assert hat.boxes[0].xyxy == HAT


def test_images_and_places_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="another number of <image> than of images: 2 and 1"):
        chats(tmp_path, said("<image><image>cup", "[40, 20, 120, 100]"), box_frame="original")


def swift(**objects: Any) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": "<image><image>Find <ref-object>."},
        {"role": "assistant", "content": "<bbox>"},
    ]
    return {"messages": messages, "images": ["a.png", "b.png"], "objects": objects}


def test_ms_swift_objects(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", 200, 200)
    source = tmp_path / "s.jsonl"

    def converted(row: dict[str, Any]) -> Sample:
        (sample,) = convert("ms_swift", put(source, json.dumps(row)))
        return sample

    plain = converted(swift(ref=["the cup"], bbox=[list(CUP)]))
    assert (plain.question, plain.target_image) == ("Find the cup.", 0)
    assert plain.boxes[0].xyxy == CUP
    placed = converted(swift(ref=["the cup"], bbox=[[0, 0, 90, 90], list(CUP)], image_id=[1, 0]))
    assert placed.target_image == 1 and [each.image for each in placed.targets] == [1, 0]
    shares = converted(swift(ref=["x"], bbox=[[0.1, 0.1, 0.3, 0.5]], bbox_type="norm1"))
    assert shares.boxes[0].xyxy == pytest.approx(CUP)
    asked = swift(ref=["the cup"], bbox=[[1, 1, 9, 9], list(CUP)])
    asked["messages"][0]["content"] = "<image><image>What is near <bbox>?"
    told = converted(asked)
    assert told.question == "What is near [1, 1, 9, 9]?" and told.boxes[0].xyxy == CUP
    for wrong, match in (
        (swift(ref=["x"], bbox=[[1, 2]]), "point in place of a box"),
        (swift(ref=["x"], bbox=[list(CUP)], image_id=[2]), "image_id of no image"),
        (swift(ref=["x"], bbox=[list(CUP)], bbox_type="norm9"), "unknown bbox_type"),
    ):
        with pytest.raises(DataError, match=match):
            converted(wrong)


def test_every_format_is_named_in_the_help() -> None:
    from typer.testing import CliRunner

    from reground.cli import app

    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["data", "convert", "--help"]).output
    assert all(name in shown for name in (*FORMATS, "auto"))


def test_the_row_in_the_documentation_is_one() -> None:
    from reground.grounding.sample import Sample as Row

    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    row = Row.from_json(json.loads(page.split("```json\n")[1].split("```")[0]))
    assert row.boxes[0].xyxy == (120, 200, 180, 280)
    stated = {
        name.strip("` ")
        for line in page.splitlines()
        if line.startswith("| `")
        for name in line.split("|")[1].split(",")
    }
    assert set(Row.__dataclass_fields__) <= stated
