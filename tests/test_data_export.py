"""What is written for other tools, and comes back as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from reground.cli import app
from reground.data.convert import convert
from reground.data.convert.writing import write
from reground.data.export import export
from reground.data.source import open_dataset, save_dataset
from reground.errors import DataError
from reground.grounding.sample import Sample
from reground.tinyworld import scenes

CLASSES = ("red cell", "platelet")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Ten photos with up to four boxes of two classes, in two folders with names alike."""
    generator = np.random.default_rng(0)
    root = tmp_path / "voc"
    for number in range(10):
        folder = f"part{number % 2}"
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (320, 240), "gray").save(root / folder / f"{number // 2}.png")
        objects = ""
        for label in CLASSES:
            for _ in range(generator.integers(2, 4)):
                x, y = generator.integers(0, 200), generator.integers(0, 150)
                w, h = generator.integers(10, 100), generator.integers(10, 80)
                objects += (
                    f"<object><name>{label}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
                    f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
                )
        text = f"<annotation><filename>{number // 2}.png</filename>{objects}</annotation>"
        (root / folder / f"{number // 2}.xml").write_text(
            text.replace("<filename>", f"<filename>{folder}/")
        )
    return root


def boxes_of(samples: list[Sample]) -> dict[tuple[str, str], list[tuple[float, ...]]]:
    """By photo and class, in order."""
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for sample in samples:
        path = Path(sample.images[0].path).resolve()
        key = ("/".join(path.parts[-2:]), sample.strata["class"])
        found[key] = sorted(box.xyxy for box in sample.boxes)
    return found


def test_labels_go_round_through_all_tools(voc: Path, tmp_path: Path) -> None:
    """VOC, ours, COCO, ours, YOLO, ours, Label Studio, ours: within half a pixel, nothing lost."""
    questions = tmp_path / "q.yaml"
    questions.write_text("".join(f"{name}: {{all: 'every {name}'}}\n" for name in CLASSES))
    write("voc", voc, out=tmp_path / "1.jsonl", questions=questions, origin=0)
    first = list(open_dataset(str(tmp_path / "1.jsonl")))
    assert len(first) == 20
    now = first
    for name, place, source in (
        ("coco", "coco.json", "coco.json"),
        ("yolo", "yolo", "yolo"),
        ("label_studio", "tasks.json", "tasks.json"),
    ):
        left_out = export(name, now, tmp_path / place)
        assert not {*left_out} & {"views and scenes", "questions about several images"}
        out = tmp_path / f"{name}.jsonl"
        _, tally = write(name, tmp_path / source, out=out, questions=questions)
        assert not tally.aside
        now = list(open_dataset(str(out)))
    before, after = boxes_of(first), boxes_of(now)
    assert before.keys() == after.keys()
    for key, boxes in before.items():
        assert np.abs(np.array(boxes) - np.array(after[key])).max() < 0.5


@pytest.mark.parametrize(
    ("name", "options"), [("chat", {"box_frame": "original"}), ("ms_swift", {})]
)
def test_rows_go_round_through_other_trainers(
    voc: Path, tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    samples = list(convert("voc", voc, origin=0))
    export(name, samples, tmp_path / "rows.jsonl")
    again = list(convert(name, tmp_path / "rows.jsonl", **options))
    assert [sample.question for sample in again] == [sample.question for sample in samples]
    for one, other in zip(samples, again, strict=True):
        both = [[box.xyxy for box in sample.boxes] for sample in (one, other)]
        assert np.allclose(*both)
        assert Path(one.images[0].path).resolve() == Path(other.images[0].path).resolve()


@pytest.mark.parametrize("name", ["chat", "ms_swift"])
@pytest.mark.parametrize("mark", ["<image>", "<bbox>", "<video>"])
@pytest.mark.parametrize("field", ["question", "think"])
def test_a_text_with_a_placeholder_is_set_aside(
    voc: Path, tmp_path: Path, name: str, mark: str, field: str
) -> None:
    first, second, *_ = convert("voc", voc, origin=0)
    odd = replace(first, **{field: f"the {mark} cell"})
    assert export(name, [odd, second], tmp_path / "rows.jsonl") == {
        f"texts with {mark}, a placeholder": 1
    } | export(name, [second], tmp_path / "other.jsonl")
    assert (tmp_path / "rows.jsonl").read_bytes() == (tmp_path / "other.jsonl").read_bytes()
    with pytest.raises(DataError, match=f"nothing to write; left out: 1 x texts with {mark}"):
        export(name, [odd], tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_what_a_format_cannot_hold_is_counted(voc: Path, tmp_path: Path) -> None:
    samples = list(convert("voc", voc, origin=0, views=2))
    views = sum("#view=" in sample.images[0].path for sample in samples)
    data = tmp_path / "all.jsonl"
    save_dataset(data, [*samples, scenes.sample("referring", seed=0, index=0)])
    command = ["data", "export", "coco", str(data), "--out", str(tmp_path / "c.json")]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert f"not in coco: {views + 1} x views and scenes" in shown.output
    tables = json.loads((tmp_path / "c.json").read_text())
    assert {each["name"] for each in tables["categories"]} == {*CLASSES}
    with pytest.raises(DataError, match="did you mean 'coco'"):
        export("cocoa", samples, tmp_path / "x")
