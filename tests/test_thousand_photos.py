"""A thousand good photos among mishaps: the good convert, the others are named, counts add up."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from files import read_rows
from made import run_of
from reground.cli import app
from reground.data.convert.writing import write
from reground.data.source import open_dataset
from reground.data.validate import validate
from reground.errors import DataError
from reground.evaluation.records import Prediction, read_scores, write_predictions
from reground.evaluation.scoring.score import score_folder
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample
from reground.io import dump_yaml
from reground.protocols.protocol import get_protocol

GOOD = 1000
WIDTH, HEIGHT = 40, 30
Edges = tuple[float, ...]
Make = Callable[[Path], Any]
BOX: Edges = (5, 4, 25, 24)
ABSENT = "missing image"
CORRUPT = "corrupt image"
UNASKED = "gives no question"


@dataclass(frozen=True)
class Entry:
    """A photo as a source describes it, and what must become of it.

    ``reason`` is why it or its box is set aside; none where it is converted.
    """

    name: str
    make: Make | None
    reason: str = ""
    boxes: tuple[Edges, ...] = (BOX,)
    label: str = "cup"
    size: tuple[int, int] = (WIDTH, HEIGHT)
    lies: str = ""  # where the file is, if not as it is called
    only: str = ""  # the formats that can hold it; all


def image(width: int = WIDTH, height: int = HEIGHT, mode: str = "RGB", **how: Any) -> Make:
    return lambda path: Image.new(mode, (width, height)).save(path, **how)


def turned(orientation: int) -> Make:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image(exif=exif)


def noise(path: Path) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


def cut(path: Path) -> None:
    path.write_bytes(noise(path)[:300])


def lying(path: Path) -> None:
    """The header says 40,000 x 30,000."""
    content = noise(path)
    head = content[12:16] + struct.pack(">II", 40_000, 30_000) + content[24:29]
    checked = content[:12] + head + struct.pack(">I", zlib.crc32(head))
    path.write_bytes(checked + content[33:])


def twelve_bits(path: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 4095, np.uint16)).save(path)


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path may be 100 characters long
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(path.name)
    os.chdir(here)


def text(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def inside(x1: float, y1: float, x2: float, y2: float) -> tuple[Edges, ...]:
    return ((x1, y1, x2, y2),)


ENTRIES = [
    # --- pictures
    Entry("cut.png", cut, CORRUPT),
    Entry("cut off.jpg", cut, CORRUPT),
    Entry("lying.png", lying, "too many pixels"),
    Entry("empty.png", text(b""), CORRUPT),
    Entry("words.jpg", text(b"<html>404</html>"), CORRUPT),
    Entry("script.png", text(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n"), CORRUPT),
    Entry("icon.png", lambda path: Image.new("RGB", (40, 30)).save(path, format="ICO"), CORRUPT),
    Entry("float.tif", image(mode="F"), CORRUPT),
    Entry("missing.png", None, ABSENT),
    Entry("folder.png", lambda path: path.mkdir(), ABSENT),
    Entry("pipe.png", os.mkfifo, "not a regular file"),
    Entry("socket.png", a_socket, "not a regular file"),
    Entry("device.png", lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    Entry("loop.png", lambda path: path.symlink_to(path.name), "symbolic links"),
    Entry("dangling.png", lambda path: path.symlink_to("nowhere.png"), "no such image"),
    Entry("tiny.png", image(20, 20), "side under the factor", inside(2, 2, 18, 18), size=(20, 20)),
    Entry("long.png", image(6000, 28), "aspect over 200", size=(6000, 28)),
    Entry("twelve.png", twelve_bits),
    Entry("cmyk.jpg", image(mode="CMYK")),
    Entry("palette.gif", image(mode="P")),
    Entry("alpha.png", image(mode="RGBA")),
    Entry("grey.webp", image(mode="L")),
    Entry("bits.png", image(mode="1")),
    Entry("film.gif", image(save_all=True, append_images=[Image.new("RGB", (9, 9))])),
    Entry("jpeg.png", lambda path: Image.new("RGB", (40, 30)).save(path, format="JPEG")),
    *(Entry(f"turned{n}.png", turned(n), boxes=inside(2, 2, 28, 38)) for n in (5, 6, 7, 8)),
    *(Entry(f"upright{n}.jpg", turned(n)) for n in (2, 3, 4)),
    # --- boxes
    Entry("outside.png", image(), "box outside the image", inside(50, 5, 70, 20)),
    Entry("mostly.png", image(), "box outside the image", inside(38, 5, 60, 20)),
    Entry("above.png", image(), "box outside the image", inside(5, -40, 20, -10)),
    Entry("partly.png", image(), boxes=inside(-5.5, 4, 25, 33)),
    Entry("bare.png", image(), UNASKED, ()),
    Entry("twice.png", image(), boxes=(BOX, BOX)),
    Entry("alike.png", image(), boxes=(BOX, (5, 4, 25, 24.1))),
    Entry("reversed.png", image(), boxes=inside(25, 24, 5, 4), only="voc coco label_studio"),
    Entry("flat.png", image(), UNASKED, inside(5, 4, 25, 4)),
    Entry("point.png", image(), UNASKED, inside(5, 4, 5, 4)),
    Entry("speck.png", image(), "suspect frame", inside(0.1, 0.1, 0.9, 0.9)),
    Entry("nan.png", image(), "box without four numbers", inside(float("nan"), 4, 25, 24)),
    Entry("endless.png", image(), "box without four numbers", inside(5, 4, float("inf"), 24)),
    Entry("huge.png", image(), "box outside the image", inside(5, 4, 1e300, 24)),
    Entry("nameless.png", image(), "without a class", label=""),
    Entry("blank.png", image(), "without a class", label="  "),
    Entry("marked.png", image(), "image placeholder in the question", label="<image> cup"),
    Entry("other.png", image(), label="tasse \u00e0 caf\u00e9 \u676f"),
    Entry("wordy.png", image(), label="cup " * 500),
    # --- names
    Entry("day/1.png", image()),
    Entry("night/1.png", image()),
    Entry("same.png", image(), only="voc coco label_studio"),
    Entry("same.jpg", image(), only="voc coco label_studio"),
    Entry("double.png", image(), "two photos of one label file", only="yolo"),
    Entry("double.jpg", image(), "two photos of one label file", only="yolo"),
    Entry("two words (1).png", image()),
    Entry("#hash%20&x=1.png", image()),
    Entry("caf\u00e9.png", image(), lies="cafe\u0301.png", only="voc coco label_studio"),
    Entry("LOUD.PNG", image(), lies="loud.png", only="voc coco label_studio"),
    Entry("C:\\photos\\back.png", image(), lies="back.png", only="voc coco label_studio"),
    Entry("http://host/a/web.png?v=2", image(), lies="web.png", only="voc coco label_studio"),
    Entry("../../up.png", image(), lies="up.png", only="voc coco label_studio"),
    Entry("tw%C3%B6.png", image(), lies="twö.png", only="voc coco label_studio"),
    Entry("x" * 5000 + ".png", None, ABSENT, only="voc coco label_studio"),
    Entry("nul\0.png", None, ABSENT, only="coco label_studio"),
    Entry("http://[half/gone.png", None, ABSENT, only="voc coco label_studio"),
]


def of(name: str) -> list[Entry]:
    """The thousand good ones, and the mishaps that a format can hold."""
    good = [Entry(f"good/{number:04}.png", image()) for number in range(GOOD)]
    return good + [each for each in ENTRIES if not each.only or name in each.only.split()]


def lay(folder: Path, entries: list[Entry]) -> None:
    """The picture files."""
    for entry in entries:
        if entry.make:
            path = folder / (entry.lies or entry.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            entry.make(path)


def shares(entry: Entry, edges: Edges) -> Edges:
    """Left, upper, width and height in shares of the photo as it is shown."""
    width, height = entry.size[::-1] if "turned" in entry.name else entry.size
    x1, y1, x2, y2 = edges
    return (x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height)


# --- the four formats: what they say of the entries, and mishaps of their own --------------------

Rejected = dict[str, str]  # a part of an id, and of the reason
TURN = "<robndbox><cx>20</cx><cy>15</cy><w>12</w><h>6</h><angle>1.5707963</angle></robndbox>"


def xml(name: str, size: Edges, *objects: str) -> str:
    sides = f"<width>{size[0]}</width><height>{size[1]}</height>"
    return (
        f"<annotation><filename>{escape(name)}</filename><size>{sides}</size>"
        f"{''.join(objects)}</annotation>"
    )


def thing(label: str, edges: Edges) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{edge}</{key}>" for key, edge in zip(names, edges, strict=True))
    return f"<object><name>{escape(label)}</name><bndbox>{box}</bndbox></object>"


def voc(folder: Path, entries: list[Entry]) -> tuple[Path, Rejected, list[str]]:
    annotations = folder / "annotations"
    annotations.mkdir()
    for number, entry in enumerate(entries):
        content = xml(entry.name, entry.size, *(thing(entry.label, box) for box in entry.boxes))
        (annotations / f"{number:05}.xml").write_text(content)
    whole = xml("own0.png", (WIDTH, HEIGHT), thing("cup", BOX))
    rejected = {}
    broken: dict[str, bytes] = {
        "cut": whole[:90].encode(),
        "empty": b"",
        "binary": bytes(range(256)),
        "two roots": (whole + whole).encode(),
        "entity": whole.replace("cup", "&cup;").encode(),
        "utf16": whole.encode("utf-16")[:-7],
        "control": whole.replace("cup", "c\x01up").encode(),
        "json": b'{"filename": "own0.png"}',
    }
    for key, content in broken.items():
        (annotations / f"broken {key}.xml").write_bytes(content)
        rejected[f"broken {key}"] = "broken XML"
    odd: dict[str, str] = {
        "half.xml": xml("own1.png", (WIDTH, HEIGHT), "<object><name>cup</name></object>"),
        "words.xml": xml("own2.png", (WIDTH, HEIGHT), thing("cup", BOX).replace("24", "many")),
        "unturned.xml": xml(
            "own3.png", (WIDTH, HEIGHT), f"<object><name>cup</name>{TURN}</object>"
        ).replace("12", "wide"),
        "resized.xml": xml("own4.png", (80, 60), thing("cup", BOX)),
    }
    for name, content in odd.items():
        (annotations / name).write_text(content)
    rejected |= {"own1.png": "box without four numbers", "own2.png": "box without four numbers"}
    rejected |= {"own3.png": "box without four numbers", "own4.png": "recorded size differs"}
    good = {
        "turned box": xml("own5.png", (WIDTH, HEIGHT), f"<object><name>cup</name>{TURN}</object>"),
        "marked": "\ufeff" + xml("own6.png", (WIDTH, HEIGHT), thing("cup", BOX)),
        "sizeless": xml("own7.png", ("", "none"), thing("cup", BOX)),
        "own8": xml("", (WIDTH, HEIGHT), thing("cup", BOX)),
        "old": '<?xml version="1.0" encoding="latin-1"?>'
        + xml("own9.png", (0, 0), thing("caf\u00e9", BOX)),
    }
    for name, content in good.items():
        encoding = "latin-1" if name == "old" else "utf-8"
        (annotations / f"{name}.xml").write_text(content, encoding=encoding)
    (annotations / "._own0.xml").write_bytes(b"\0\5\x16\7")  # a Mac's own
    (annotations / "folder.xml").mkdir()
    return folder, rejected, [f"own{number}.png" for number in range(5, 10)]


def coco(folder: Path, entries: list[Entry]) -> tuple[Path, Rejected, list[str]]:
    labels = {entry.label: None for entry in entries}
    numbers = {label: number for number, label in enumerate(labels, start=1)}
    images: list[Any] = []
    annotations: list[Any] = []

    def add(
        name: Any, *, size: Any = (WIDTH, HEIGHT), key: Any = None, **own: Any
    ) -> dict[str, Any]:
        key = len(images) + 1 if key is None else key
        images.append({"id": key, "file_name": name, "width": size[0], "height": size[1]} | own)
        return {"image_id": key, "category_id": 1, "bbox": [5, 4, 20, 20]}

    def box(row: dict[str, Any], **own: Any) -> None:
        annotations.append({"id": len(annotations) + 1} | row | own)

    for entry in entries:
        row = add(entry.name, size=entry.size)
        for x1, y1, x2, y2 in entry.boxes:
            box(row, category_id=numbers[entry.label], bbox=[x1, y1, x2 - x1, y2 - y1])
    rejected = {}
    kinds: dict[str, dict[str, Any]] = {
        "unknown category": {"category_id": 999},
        "unknown category ": {"category_id": None},
        "unknown category  ": {"category_id": [1]},
        "box without four numbers": {"bbox": ["a", 1, 2, 3]},
        "box without four numbers ": {"bbox": [1, 2, 3]},
        "box without four numbers  ": {"bbox": {"x": 1, "y": 2, "w": 3, "h": 4}},
        "box without four numbers   ": {"bbox": "5 4 20 20"},
        "box without four numbers    ": {"bbox": 7},
        "box without four numbers     ": {"bbox": [True, None, [], {}]},
        "without a box": {"bbox": None},
        "without a box ": {"bbox": None, "segmentation": {"counts": "xx", "size": [30, 40]}},
        "without a box  ": {"bbox": None, "segmentation": [[1, 2, 3]]},
        "wrong form": {"bbox": None, "segmentation": [7, 8]},
        "wrong form ": {"bbox": None, "segmentation": [["a"] * 6]},
    }
    for number, (reason, own) in enumerate(kinds.items()):
        box(add(f"own{number}.png"), **own)
        rejected[f"own{number}.png"] = reason.strip()
    box(add("twin1.png", key="same"))
    box(add("twin2.png", key="same"))
    rejected |= {"twin1.png": "not unique", "twin2.png": "not unique"}
    box({"image_id": "nobody", "category_id": 1, "bbox": [1, 1, 9, 9]})
    rejected["nobody"] = "annotation of no photo"
    for key, name in {"null": None, "none": "", "list": ["a.png"], "object": {}}.items():
        box(add(name, key=f"name {key}"))
        rejected[f"name {key}"] = "file_name"
    box(add(5))
    rejected["5"] = "missing image"
    images.append({"file_name": "idless.png"})
    rejected["idless.png"] = "'id' is missing"
    box(add("own0.png", size=("wide", "high"), key="words"))
    rejected["image words"] = "a size that is no number"
    box(add("good/0000.png", size=(80, 60), key="resized"))
    box(add("polygon.png"), bbox=[], segmentation=[[5, 4, 25, 4, 25, 24]])
    box(add("sizeless.png", size=(None, None)))
    box(add("zero.png", size=(0, 0)))
    box(
        add("textual.png", size=("40", "30"), key=70_000.0) | {"image_id": "70000"},
        bbox=["5", "4", 9, 9],
    )
    box(add("addressed.png"), extra={"attributes": [None]})
    del images[-1]["file_name"]
    images[-1]["coco_url"] = "http://images.cocodataset.org/val2017/addressed.png"
    box(add("crowded.png"), iscrowd=1)
    box(add("crowded.png", key="again"), iscrowd="1")
    tables = {
        "info": None,
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for label, number in numbers.items()]
        + [{"id": 500, "name": "one"}, {"id": 500, "name": "two"}],
    }
    source = folder / "instances.json"
    source.write_text(json.dumps(tables), encoding="utf-8-sig")
    named = ["polygon", "sizeless", "zero", "textual", "addressed"]
    return source, rejected, [f"{name}.png" for name in named]


def yolo(folder: Path, entries: list[Entry]) -> tuple[Path, Rejected, list[str]]:
    labels = list({entry.label: None for entry in entries})
    for entry in entries:
        rows = ""
        for box in entry.boxes:
            x, y, width, height = shares(entry, box)
            number = labels.index(entry.label)
            rows += f"{number} {x + width / 2} {y + height / 2} {width} {height}\n"
        path = folder / "labels" / Path(entry.name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rows)
    names = {number: label for number, label in enumerate(labels)}
    (folder / "data.yaml").write_text(dump_yaml({"train": "images", "names": names}))
    row = "0 0.5 0.5 0.4 0.4"
    bad: dict[str, tuple[bytes, str]] = {
        "unknown": (b"99 0.5 0.5 0.4 0.4\n", "unknown class"),
        "negative": (b"-1 0.5 0.5 0.4 0.4\n", "unknown class"),
        "fraction": (b"0.5 0.5 0.5 0.4 0.4\n", "unknown class"),
        "endless": (b"inf 0.5 0.5 0.4 0.4\n", "unknown class"),
        "named": (b"cup 0.5 0.5 0.4 0.4\n", "wrong form"),
        "short": (b"0 0.5 0.5 0.4\n", "box without four numbers"),
        "lonely": (b"0\n", "box without four numbers"),
        "odd": (b"0 0.1 0.2 0.3 0.4 0.5 0.6 0.7\n", "box without four numbers"),
        "pixels": (b"0 120 90 60 40\n", "box outside the image"),
        "binary": (bytes(range(128, 256)), "not readable"),
        "commas": (b"0,0.5,0.5,0.4,0.4\n", "wrong form"),
    }
    good: dict[str, bytes] = {
        "lines": f"\ufeff\r\n  \r\n{row}\r\n\r\n".encode(),
        "wide": row.encode("utf-16"),
        "scored": f"{row} 0.93".encode(),
        "whole": b"0.0\t0.5 0.5\t0.4 0.4   ",
        "polygon": b"0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\n",
    }
    for name, content in {**{key: text for key, (text, _) in bad.items()}, **good}.items():
        (folder / "labels" / f"{name}.txt").write_bytes(content)
        image()(folder / "images" / f"{name}.png")
    (folder / "labels" / "drawer.txt").mkdir()
    return (
        folder,
        {f"{name}.png": reason for name, (_, reason) in bad.items()},
        [f"{name}.png" for name in good],
    )


def label_studio(folder: Path, entries: list[Entry]) -> tuple[Path, Rejected, list[str]]:
    tasks: list[Any] = []

    def region(entry: Entry, edges: Edges, **own: Any) -> dict[str, Any]:
        x, y, width, height = (100 * share for share in shares(entry, edges))
        value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
        value |= {"rectanglelabels": [entry.label]} | own.pop("value", {})
        sides = {"original_width": entry.size[0], "original_height": entry.size[1]}
        return {"type": "rectanglelabels", "value": value} | sides | own

    def add(name: Any, *regions: Any, **own: Any) -> None:
        done = [{"result": [*regions]}]
        task = {"id": len(tasks) + 1, "data": {"image": name}, "annotations": done}
        tasks.append(task | own)

    for entry in entries:
        add(entry.name, *(region(entry, box) for box in entry.boxes))
    rejected = {}
    plain = Entry("a.png", None)
    bad: list[tuple[str, dict[str, Any]]] = [
        ("wrong form", {"value": {"x": "left"}}),
        ("wrong form", {"value": {"width": None}}),
        ("box without four numbers", {"value": {"height": float("inf")}}),
        ("wrong form", {"value": {"rotation": "much"}}),
        ("photo turned by no quarter", {"image_rotation": 45}),
        ("wrong form", {"original_width": "wide"}),
        ("recorded size differs", {"original_width": 80, "original_height": 60}),
        ("recorded size differs", {"original_width": -40, "original_height": -30}),
        ("wrong form", {"value": {"points": [[1, 2], [3]]}}),
        ("shape without points", {"value": {"points": []}}),
        ("without a class", {"value": {"rectanglelabels": [""]}}),
        ("without a class", {"value": {"rectanglelabels": [None]}}),
    ]
    for number, (reason, own) in enumerate(bad):
        add(f"own{number}.png", region(plain, BOX, **own))
        rejected[f"own{number}.png"] = reason
    for key, data, reason in (
        ("imageless", {"text": "no photo"}, "without an image"),
        ("listed", {"image": ["a.png"]}, "without an image"),
        ("dataless", 7, "wrong form"),
    ):
        add("x.png", region(plain, BOX), data=data, id=key)
        rejected[key] = reason
    for name, done in {"nulls": [None], "words": "none", "number": 5, "unset": [{}]}.items():
        add(f"{name}.png", annotations=done)
        rejected[f"{name}.png"] = "a field has the wrong form" if done != [{}] else "is missing"
    tasks.append("a text")
    rejected[f"task {len(tasks) - 1}"] = "no object"
    turned_box = {"x": 50, "y": 10, "width": 30, "height": 20, "rotation": 90}
    add("rotated.png", region(plain, BOX, value=turned_box))
    add("sideways.png", region(plain, BOX, image_rotation=90))
    relation = {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"}
    add("related.png", region(plain, BOX), relation)
    add("chosen.png", region(plain, BOX), {"type": "choices", "value": {"choices": ["good"]}})
    cancelled = {"was_cancelled": True, "result": [region(plain, BOX)] * 3}
    add("cancelled.png", annotations=[cancelled, {"result": [region(plain, BOX)]}])
    add("again.png", region(plain, BOX))
    add("again.png", region(plain, BOX))
    add("empty task.png", annotations=[])
    source = folder / "export.json"
    source.write_text(json.dumps(tasks))
    named = ["rotated", "sideways", "related", "chosen", "cancelled", "again"]
    return source, rejected, [f"{name}.png" for name in named]


FORMATS: dict[str, Any] = {"voc": voc, "coco": coco, "yolo": yolo, "label_studio": label_studio}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_a_thousand_photos_among_every_mishap(tmp_path: Path, name: str) -> None:
    entries = of(name)
    lay(tmp_path / "images", entries)
    source, rejected, converted = FORMATS[name](tmp_path, entries)
    for more in {*converted, *rejected}:
        path = tmp_path / "images" / more
        if more.endswith(".png") and not path.exists():
            image()(path)
    out = tmp_path / "out.jsonl"
    command = ["data", "convert", name, str(source), "--images", str(tmp_path / "images")]
    shown = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert (shown.exit_code, shown.exception) == (0, None), shown.output[-2000:]

    rows = list(open_dataset(str(out)))
    photos = {Path(row.images[0].path).relative_to(tmp_path / "images").as_posix() for row in rows}
    wanted = {entry.lies or entry.name for entry in entries if not entry.reason} | {*converted}
    assert {"missing": wanted - photos, "too many": photos - wanted} == {
        "missing": set(),
        "too many": set(),
    }
    aside = read_rows(tmp_path / "out.rejected.jsonl")
    expected = {each.name: each.reason for each in entries if each.reason not in ("", UNASKED)}
    wrong = {
        part: [each["reason"] for each in aside if Path(part).stem in each["id"]]
        for part, reason in (expected | rejected).items()
        if not any(
            Path(part).stem in each["id"] and reason in f"{each['kind']} {each['reason']}"
            for each in aside
        )
    }
    assert not wrong, wrong

    add_up(shown.output, aside, len(photos))

    with pytest.raises(DataError):
        write(name, source, out=tmp_path / "strict.jsonl", images=tmp_path / "images", strict=True)
    assert not [*tmp_path.glob("*strict*")]
    assert not validate(out).reasons
    assert answered(tmp_path / "answers", rows) == len(rows)


def add_up(said: str, aside: list[dict[str, Any]], photos: int) -> None:
    """All that was found is asked about, left out by name, or set aside."""

    def noted(words: str) -> int:
        return sum(int(n) for n in re.findall(rf"^  (\d+) x {words}", said, re.MULTILINE))

    read = re.search(r"read (\d+) photos \((\d+) asked .*?, (\d+) boxes \((\d+) asked", said)
    assert read, said
    all_photos, asked, all_boxes, kept = map(int, read.groups())
    gone = Counter(each["what"] for each in aside)
    assert asked == photos
    unasked = noted("photos that gave no question") + noted("images that stand twice")
    assert all_photos == asked + unasked + gone["photo"]
    left_out = noted("boxes that stand twice") + noted("empty boxes of ")
    assert all_boxes == kept + left_out + noted("boxes of photos that") + gone["box"]


def answered(folder: Path, rows: list[Sample]) -> int:
    """How many rows a perfect model's stored answers are right about."""
    protocol = get_protocol("univg_r1", "think")

    def answer(row: Sample) -> Prediction:
        (image,) = row.images
        size = EncodedSize(image.width, image.height, image.width, image.height)
        return Prediction(row, protocol.gold(row, [size])[0].text, (size,), 9, "stop")

    write_predictions(folder, map(answer, rows), run=run_of(rows))
    score_folder(folder, out=folder)
    return sum((row.iou or 0) > 0.8 for row in read_scores(folder))
