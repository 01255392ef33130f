"""Data sets of Hugging Face with labelled boxes, written by `datasets` and read here."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from reground.cli import app
from reground.data.convert import convert
from reground.data.convert.auto import recognised
from reground.data.convert.tally import Tally
from reground.data.source import open_dataset
from reground.errors import DataError
from reground.grounding.sample import Sample

datasets = pytest.importorskip("datasets", reason="needs the package datasets")

CLASSES = ["cup", "plate", "spoon"]
Boxes = list[tuple[str, tuple[float, float, float, float]]]
FORMS: dict[str, Callable[[float, float, float, float], list[float]]] = {
    "xywh": lambda a, b, c, d: [a, b, c - a, d - b],
    "xyxy": lambda a, b, c, d: [a, b, c, d],
    "cxcywh": lambda a, b, c, d: [(a + c) / 2, (b + d) / 2, c - a, d - b],
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def picture(seed: int, suffix: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((320, 240)).save(out, suffix)
    return out.getvalue()


def truth(num_photos: int) -> list[Boxes]:
    generator = np.random.default_rng(1)
    return [
        [
            (
                CLASSES[int(generator.integers(0, 3))],
                (float(x), float(y), float(x + generator.integers(10, 110)), float(y + 60)),
            )
            for x, y in generator.integers(0, (200, 170), (int(generator.integers(0, 5)), 2))
        ]
        for _ in range(num_photos)
    ]


def table(photos: list[Boxes], form: str, *, as_rows: bool = False, named: bool = False) -> Any:
    """As cppe-5: classes by number; with ``as_rows`` a list of objects, ``named`` their names."""
    label = datasets.Value("string") if named else datasets.ClassLabel(names=CLASSES)
    one = {"bbox": datasets.Sequence(datasets.Value("float32"), length=4), "category": label}
    features = {
        "image": datasets.Image(),
        "objects": [one] if as_rows else datasets.Sequence(one),
    }
    rows = [
        [{"bbox": FORMS[form](*box), "category": name} for name, box in boxes] for boxes in photos
    ]
    held = {key: [[each[key] for each in row] for row in rows] for key in one}
    tables = [{key: held[key][place] for key in one} for place in range(len(rows))]
    images = [{"bytes": picture(seed), "path": None} for seed in range(len(photos))]
    return datasets.Dataset.from_dict(
        {"image": images, "objects": rows if as_rows else tables},
        features=datasets.Features(features),
        split="train",
    )


def as_folder(data: Any, path: Path) -> Path:
    data.save_to_disk(path / "saved")
    return path / "saved"


def as_splits(data: Any, path: Path) -> Path:
    datasets.DatasetDict({"train": data}).save_to_disk(path / "dict")
    return path / "dict"


def as_parquet(data: Any, path: Path) -> Path:
    data.to_parquet(path / "cups.parquet")
    return path / "cups.parquet"


def as_shards(data: Any, path: Path) -> Path:
    (path / "repository" / "data").mkdir(parents=True)
    for number in range(2):
        shard = data.shard(2, number, contiguous=True)
        shard.to_parquet(path / f"repository/data/train-0000{number}-of-00002.parquet")
    return path / "repository"


def found(samples: list[Sample]) -> list[Boxes]:
    """Boxes by photo, in the order of photos' names."""
    by_photo: dict[str, Boxes] = {}
    for sample in samples:
        own = by_photo.setdefault(Path(sample.images[0].path).name, [])
        own += [(sample.strata["class"], box.xyxy) for box in sample.boxes]
    return [sorted(by_photo[name]) for name in sorted(by_photo)]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("store", [as_folder, as_splits, as_parquet, as_shards])
def test_what_datasets_writes_comes_back(tmp_path: Path, form: str, store: Any) -> None:
    """auto finds what it is and which boxes they are; only boxes by their middle must be named."""
    photos = truth(12)
    source = store(table(photos, form, as_rows=form == "xyxy", named=form == "cxcywh"), tmp_path)
    out, folder = tmp_path / "out" / "all.jsonl", tmp_path / "out" / "photos"
    arguments = ["data", "convert", "auto", source, "--out", out, "--images", folder]
    arguments += ["--box-format", form] if form == "cxcywh" else []
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "recognised as hub_objects" in done.output and "set aside" not in done.output
    assert (f"boxes are {form}" in done.output) == (form != "cxcywh")
    assert found(list(open_dataset(str(out)))) == [sorted(boxes) for boxes in photos if boxes]
    assert len(list(folder.iterdir())) == 12
    for path, seed in zip(sorted(folder.iterdir()), range(12), strict=True):
        assert path.read_bytes() == picture(seed)


def one(boxes: list[Any], labels: list[Any] | None = None, **more: Any) -> Any:
    """A data set of one photo of 320 x 240, whose fields have no fixed length."""
    objects = {"bbox": boxes, "label": labels or ["cup"] * len(boxes)} | more
    return datasets.Dataset.from_dict(
        {"image": [{"bytes": picture(0), "path": "cup.png"}], "objects": [objects]}
    ).cast_column("image", datasets.Image())


@pytest.mark.parametrize(
    ("boxes", "form"),
    [
        ([[50, 60, 20, 30]], "xywh"),  # its second corner would lie before its first
        ([[200, 100, 300, 200]], "xyxy"),  # it would reach outside
        ([[10, 10, 60, 60]], None),  # both fit
        ([[200, 100, 300, 200], [50, 60, 20, 30]], None),  # each fits one
        ([[0.5, 0.5, 0.25, 0.25]], "xywh"),
        ([[0.5, 0.5, 0.75, 0.75]], "xyxy"),
    ],
)
def test_which_boxes_they_are_is_found_or_asked(
    tmp_path: Path, boxes: list[list[float]], form: str | None
) -> None:
    source = as_folder(one(boxes), tmp_path)
    tally = Tally()
    samples = convert("hub_objects", source, tally=tally, images=tmp_path / "photos")
    if form is None:
        with pytest.raises(DataError, match=r"fit as xywh, .* fit as xyxy; say .*--box-format"):
            list(samples)
        return
    (sample,) = samples
    assert any(note.startswith(f"boxes are {form}") for note in tally.notes)
    scale = np.array([320, 240, 320, 240]) if max(boxes[0]) <= 1 else np.ones(4)
    a, b, c, d = np.array(boxes[0]) * scale
    right = (a, b, a + c, b + d) if form == "xywh" else (a, b, c, d)
    assert sample.boxes[0].xyxy == pytest.approx(right)


def test_a_few_bad_boxes_do_not_hide_what_the_others_are(tmp_path: Path) -> None:
    good = [[x, y, 40, 30] for x in range(100, 200, 10) for y in range(100, 160, 20)]
    source = as_folder(one([*good, [280, 200, 60, 60]]), tmp_path)
    (sample,) = convert("hub_objects", source, tally=Tally(), images=tmp_path / "photos")
    assert len(sample.boxes) == len(good) + 1


def test_mishaps_are_set_aside_with_their_reasons(tmp_path: Path) -> None:
    def row(image: Any, boxes: Any, labels: Any) -> dict[str, Any]:
        return {"image": image, "objects": {"bbox": boxes, "category": labels}}

    whole, twin = ({"bytes": picture(seed), "path": "x/1.png"} for seed in (1, 2))
    rows = [
        row(whole, [[200, 100, 50, 60]], [0]),
        row(twin, [[20, 30, 15, 20], [100, 100, 9, 9]], [1, 2]),  # another photo of that name
        row({"bytes": b"no picture", "path": None}, [[1, 2, 30, 40]], [0]),
        row(None, [[1, 2, 30, 40]], [0]),
        row({"bytes": picture(3), "path": None}, [[1, 2, 30, 40]], [0, 1]),
        row({"bytes": picture(4), "path": None}, [[1, 2, 30], [90, 50, 30, 20]], [0, 1]),
        row({"bytes": picture(5), "path": None}, [[1, 2, 3, 4], [90, 50, 30, 20]], [7, 1]),
        row({"bytes": picture(6), "path": None}, [], []),
        row({"bytes": picture(7), "path": None}, None, None),
    ]
    features = datasets.Features(
        {
            "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "objects": {
                "bbox": datasets.Sequence(datasets.Sequence(datasets.Value("float32"))),
                "category": datasets.Sequence(datasets.Value("int64")),
            },
        }
    )
    source = as_folder(datasets.Dataset.from_list(rows, features=features), tmp_path)
    tally = Tally()
    samples = list(convert("hub_objects", source, tally=tally, images=tmp_path / "photos"))
    reasons = sorted((each.id.partition(":")[0], each.kind) for each in tally.aside)
    assert [reason for name, reason in reasons if name == "row 4"] == [
        "boxes and classes that differ in number"
    ]
    assert {name for name, _ in reasons} >= {"row 2", "row 3", "row 4"}
    assert sum(reason == "box without four numbers" for _, reason in reasons) == 1
    asked = {(Path(each.images[0].path).name, each.strata["class"]) for each in samples}
    assert ("1.png", "0") in asked and len({name for name, _ in asked}) == 4
    assert tally.notes["photos that gave no question"]
    by_photo = {sample.images[0].path: Path(sample.images[0].path) for sample in samples}
    for path in by_photo.values():
        mine = {each.strata["class"] for each in samples if each.images[0].path == str(path)}
        if mine == {"0"}:
            assert path.read_bytes() == picture(1)


def test_numbers_without_a_class_are_set_aside(tmp_path: Path) -> None:
    data = table([[("cup", (200, 100, 250, 160)), ("plate", (200, 30, 290, 80))]], "xywh")
    data = data.map(
        lambda row: {"objects": row["objects"] | {"category": [-1, 1]}},
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "objects": datasets.Sequence(
                    {
                        "bbox": datasets.Sequence(datasets.Value("float32"), length=4),
                        "category": datasets.ClassLabel(names=CLASSES),
                    }
                ),
            }
        ),
    )
    tally = Tally()
    source = as_folder(data, tmp_path)
    (sample,) = convert("hub_objects", source, tally=tally, images=tmp_path / "photos")
    assert sample.strata["class"] == "plate"
    assert tally.aside[0].kind == "unknown category"


def test_a_folder_of_photos_with_metadata(tmp_path: Path) -> None:
    """imagefolder: the photos are files, and metadata.jsonl holds their objects."""
    folder = tmp_path / "set" / "train"
    folder.mkdir(parents=True)
    rows = []
    for number in range(3):
        (folder / f"{number}.png").write_bytes(picture(number))
        objects = {"bbox": [[200, 100, 50, 60 + number]], "categories": ["cup"]}
        rows.append({"file_name": f"{number}.png", "objects": objects})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert recognised(tmp_path / "set")[0] == "hub_objects"
    name, source = recognised(tmp_path / "set")
    samples = list(convert(name, source, images=tmp_path / "photos"))
    assert [Path(sample.images[0].path).name for sample in samples] == ["0.png", "1.png", "2.png"]
    assert samples[2].boxes[0].xyxy == (200, 100, 250, 162)


def test_what_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    source = as_folder(one([[200, 100, 50, 60]]), tmp_path)
    with pytest.raises(DataError, match="--images"):
        list(convert("hub_objects", source))
    with pytest.raises(DataError, match="--box-format coco: known are xywh"):
        list(convert("hub_objects", source, images=tmp_path, box_format="coco"))
    plain = datasets.Dataset.from_dict({"image": [picture(0)], "text": ["a cup"]})
    plain.save_to_disk(tmp_path / "plain")
    with pytest.raises(DataError, match=r"columns image, text; expected image, and objects"):
        list(convert("hub_objects", tmp_path / "plain", images=tmp_path))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="datasets cannot read it"):
        list(convert("hub_objects", tmp_path / "cut.parquet", images=tmp_path))
    both = datasets.DatasetDict({name: one([[200, 100, 50, 60]]) for name in ("train", "test")})
    both.save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match="has the splits train, test; choose one with --split"):
        list(convert("hub_objects", tmp_path / "both", images=tmp_path))
