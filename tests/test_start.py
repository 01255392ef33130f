"""``reground start``: which parts a folder has, what is run, and what is run again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from reground.cli import main
from reground.config import load
from reground.data.convert.parts import parts
from reground.data.convert.writing import write
from reground.errors import DataError, RunError
from reground.io import dump_yaml
from reground.start import steps as stepping
from reground.start.files import write_configs, write_questions
from reground.start.plan import Plan
from reground.start.run import start
from reground.start.steps import Runner, Step
from reground.training.settings import TrainConfig

SIDE = 64


def photo(path: Path, number: int) -> tuple[int, int, int, int]:
    """A photo of one box, which is returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    box = (4 + number % 20, 6, 30 + number % 20, 40)
    image = Image.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(image).rectangle(box, fill="red")
    image.save(path)
    return box


def coco(file: Path, photos: Path, count: int, first: int = 0) -> None:
    numbers = range(first, first + count)
    boxes = [photo(photos / f"{n:03}.png", n) for n in numbers]
    images = [{"id": n, "file_name": f"{n:03}.png", "width": SIDE, "height": SIDE} for n in numbers]
    marks = [
        {"id": n, "image_id": n, "category_id": n % 2, "bbox": [x, y, right - x, low - y]}
        for n, (x, y, right, low) in zip(numbers, boxes, strict=True)
    ]
    kinds = [{"id": 0, "name": "red_cup"}, {"id": 1, "name": "lid"}]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": marks, "categories": kinds}))


def voc(folder: Path, lists: Sequence[str]) -> None:
    for number in range(4):
        x, y, right, low = photo(folder / "JPEGImages" / f"{number}.jpg", number)
        edges = "".join(
            f"<{name}>{value}</{name}>"
            for name, value in {"xmin": x, "ymin": y, "xmax": right, "ymax": low}.items()
        )
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.jpg</filename><size><width>{SIDE}</width>"
            f"<height>{SIDE}</height></size><object><name>cup</name><bndbox>{edges}</bndbox>"
            "</object></annotation>"
        )
    for number, name in enumerate(lists):
        (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(f"{number}\n")


def yolo(folder: Path, names: Sequence[str], *, beside: bool) -> None:
    (folder).mkdir(parents=True, exist_ok=True)
    (folder / "data.yaml").write_text(dump_yaml({"names": ["cup"]}))
    for number, name in enumerate(names):
        images, labels = ("images", "labels")
        places = (f"{name}/{images}", f"{name}/{labels}")
        if beside:
            places = (f"{images}/{name}", f"{labels}/{name}")
        photo(folder / places[0] / f"{number}.png", number)
        (folder / places[1]).mkdir(parents=True)
        (folder / places[1] / f"{number}.txt").write_text("0 0.3 0.3 0.2 0.2\n")


def found(folder: Path) -> dict[str, str]:
    return {part.name: part.format for part in parts(folder)}


def test_parts_are_those_that_the_folder_has(tmp_path: Path) -> None:
    """As Pascal VOC, YOLO in both its layouts, COCO and Roboflow have them; converted, each gives
    its own photos and all together all."""
    voc(tmp_path / "voc", ["train", "trainval", "val", "test"])
    voc(tmp_path / "old", ["trainval", "test"])
    yolo(tmp_path / "yolo", ["train", "valid", "test"], beside=False)
    yolo(tmp_path / "ultralytics", ["train", "val"], beside=True)
    for number, name in enumerate(("train", "valid", "test")):
        folder = tmp_path / "roboflow" / name
        coco(folder / "_annotations.coco.json", folder, 2, 2 * number)
    photos = tmp_path / "archive" / "data" / "images"
    coco(photos.parent / "annotations" / "instances_train2017.json", photos, 3)
    coco(photos.parent / "annotations" / "instances_val2017.json", photos, 2, 3)
    whole = {"train", "val", "test"}
    assert found(tmp_path / "voc") == dict.fromkeys(whole, "voc")
    assert found(tmp_path / "old") == dict.fromkeys(("train", "test"), "voc")
    assert found(tmp_path / "yolo") == dict.fromkeys(whole, "yolo")
    assert found(tmp_path / "ultralytics") == dict.fromkeys(("train", "val"), "yolo")
    assert found(tmp_path / "roboflow") == dict.fromkeys(whole, "coco")
    assert found(tmp_path / "archive") == dict.fromkeys(("train", "val"), "coco")
    for name, count in {"yolo": 3, "ultralytics": 2, "roboflow": 6, "archive": 5}.items():
        rows = 0
        for part in parts(tmp_path / name):
            options: dict[str, Any] = {} if part.split is None else {"split": part.split}
            out = tmp_path / f"{name}.{part.name}.jsonl"
            rows += sum(write(part.format, part.source, out=out, **options)[0].values())
        assert rows == count


def test_a_folder_in_no_parts_is_one(tmp_path: Path) -> None:
    voc(tmp_path / "plain", [])
    voc(tmp_path / "train_alone", ["train"])
    coco(tmp_path / "one" / "labels.json", tmp_path / "one" / "train", 2)
    assert found(tmp_path / "plain") == found(tmp_path / "train_alone") == {"all": "voc"}
    assert found(tmp_path / "one") == {"all": "coco"}
    coco(tmp_path / "one" / "more.json", tmp_path / "one", 2)
    with pytest.raises(DataError, match="2 files of coco"):
        parts(tmp_path / "one")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "no such file or folder"),
        (lambda folder: photo(folder / "a.png", 0), "no annotations of a known format"),
        (lambda folder: coco(folder / "a.json", folder, 5), "5 photos can be asked about; exp"),
        (
            lambda folder: (folder.mkdir(), (folder / "a.jsonl").write_text(
                '{"messages": [], "images": []}\n')),
            "is chat, not photos with boxes",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_started_is_one_sentence(
    make: Any,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "photos")
    monkeypatch.setattr(sys, "argv", ["reground", "start", "photos", "--yes"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "said"), [("photos/a", "lies in the folder of photos"), ("mine", "holds other things")]
)
def test_what_others_have_is_left_alone(
    out: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    coco(Path("photos/a.json"), Path("photos"), 2)
    Path("mine").mkdir()
    Path("mine/letter.txt").touch()
    monkeypatch.setattr(sys, "argv", ["reground", "start", "photos", "--out", out])
    with pytest.raises(SystemExit):
        main()
    assert said in capsys.readouterr().err
    assert [*Path("mine").iterdir()] == [Path("mine/letter.txt")]
    assert len([*Path("photos").iterdir()]) == 3


def test_files_are_a_persons_once_they_are_written(tmp_path: Path) -> None:
    questions, _ = write_questions(tmp_path, ["red_cup", "lid"])
    assert "the leftmost red cup" in questions.read_text()
    first, last = write_configs(tmp_path, "tiny", 7)
    assert load(TrainConfig, first).steps == 7
    assert load(TrainConfig, last).model == str(tmp_path / first.stem)
    questions.write_text("red_cup: {unique: the mug}\n")
    assert write_questions(tmp_path, ["red_cup"])[0].read_text() == "red_cup: {unique: the mug}\n"
    [only] = write_configs(tmp_path / "other", "some/checkpoint", None)
    assert load(TrainConfig, only).model == "some/checkpoint"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The lines that a runner ran; each leaves what its third word names, or fails at "fail"."""
    lines: list[list[str]] = []

    def run(command: Sequence[str], **how: Any) -> subprocess.CompletedProcess[bytes]:
        lines.append(list(command[3:]))
        Path(command[4]).mkdir(exist_ok=True)
        (Path(command[4]) / "kept").touch()
        return subprocess.CompletedProcess([], int(lines[-1][0] == "fail"))

    monkeypatch.setattr(stepping.subprocess, "run", run)
    return lines


def test_what_is_done_stays_done_and_what_changed_is_done_again(
    tmp_path: Path, ran: list[list[str]]
) -> None:
    config = tmp_path / "config"
    config.write_text("1")
    steps = [
        Step(name, (name, str(tmp_path / name)), tmp_path / name, reads, mark="kept")
        for name, reads in (("a", ()), ("b", (config,)), ("c", ()))
    ]
    for _ in range(2):
        Runner(tmp_path / "steps.json").run(steps)
    assert [line[0] for line in ran] == ["a", "b", "c"]
    config.write_text("2")
    (tmp_path / "b" / "old").touch()
    Runner(tmp_path / "steps.json").run(steps)
    assert [line[0] for line in ran[3:]] == ["b", "c"]
    assert not (tmp_path / "b" / "old").exists()
    (tmp_path / "steps.json").write_text("{")
    Runner(tmp_path / "steps.json").run(steps)
    assert [line[0] for line in ran[5:]] == ["a", "b", "c"]


def test_other_photos_are_looked_at_and_other_words_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all commands those are run again that a change touches."""
    ran: list[list[str]] = []
    monkeypatch.setattr(stepping.subprocess, "run", _leaves_what_it_makes(ran))
    coco(tmp_path / "photos" / "a.json", tmp_path / "photos", 2)
    plan = Plan(parts(tmp_path / "photos"), tmp_path / "photos", tmp_path / "out", None, 0)
    words = write_questions(tmp_path, ["red_cup", "lid"])

    def lines() -> list[str]:
        ran.clear()
        runner = Runner(tmp_path / "steps.json")
        runner.run(plan.look())
        runner.run(plan.ask(2, *words))
        return [Path(line[line.index("--out") + 1]).stem for line in ran]

    asked = ["rows", "views", "objects"]
    assert lines() == ["seen.all", "look", *asked]
    assert lines() == []
    words[0].write_text("lid: {unique: the cover}\n")
    assert lines() == asked
    photo(tmp_path / "photos" / "more.png", 9)
    assert lines() == ["seen.all", "look", *asked]


def _leaves_what_it_makes(lines: list[list[str]]) -> Any:
    def run(command: Sequence[str], **how: Any) -> subprocess.CompletedProcess[bytes]:
        lines.append(list(command[3:]))
        out = Path(command[command.index("--out") + 1])
        out.parent.mkdir(parents=True, exist_ok=True)
        (out.with_name(f"{out.stem}.train.jsonl") if "--split-by" in command else out).touch()
        return subprocess.CompletedProcess([], 0)

    return run


def test_a_step_that_failed_goes_on(tmp_path: Path, ran: list[list[str]]) -> None:
    made = tmp_path / "fail"
    step = Step("it", ("fail", str(made)), made, mark="kept", resumes=("--resume",))
    for _ in range(2):
        with pytest.raises(RunError, match="ended with code 1; mend what it says"):
            Runner(tmp_path / "steps.json").run([step])
    (made / "kept").unlink()
    with pytest.raises(RunError):
        Runner(tmp_path / "steps.json").run([step])
    assert [line[2:] for line in ran] == [[], ["--resume"], []]


@pytest.mark.slow
def test_from_a_folder_to_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("reground.start.plan._MOST_VIEWS", 30)
    coco(Path("photos/labels.json"), Path("photos"), 30)
    asked: dict[str, Any] = {"out": Path("made"), "model": "tiny", "images": None, "seed": 0}
    start(Path("photos"), **asked, steps=2, guided=False)
    said = capfd.readouterr().out
    assert "in no parts: photos are put into train, val and test by chance (seed 0)" in said
    assert "$ reground train made/2_questions.yaml" in said
    assert "| before |" in said and "| after  |" in said
    assert Path("made/after/report.html").exists()
    start(Path("photos"), **asked, steps=2, guided=False)
    assert capfd.readouterr().out.count("done before") == said.count("\n$ ")
