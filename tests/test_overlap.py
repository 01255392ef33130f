"""Pictures and questions that two data sets share are found, and no others are."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from typer.testing import CliRunner

from reground.cli import app
from reground.data.images import load
from reground.data.looks import LIMIT, Likeness, Look, look, looks, pairs
from reground.data.source import open_dataset, save_dataset
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target

BCCD = Path(__file__).parents[1] / "../shared/data/bccd/JPEGImages"
needs_bccd = pytest.mark.skipif(not BCCD.is_dir(), reason="needs the photos in ../shared/data/bccd")


def again(image: Image.Image, quality: int) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return Image.open(content).convert("RGB")


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved again": lambda image: again(image, 85),
    "saved badly": lambda image: again(image, 20),
    "half": lambda image: image.resize((image.width // 2, image.height // 2)),
    "double": lambda image: image.resize((image.width * 2, image.height * 2)),
    "square": lambda image: image.resize((416, 416)),
    "thumbnail": lambda image: again(image.resize((96, 96)), 60),
    "lighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.2),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


def row(name: str, path: Path, question: str = "the cup") -> Sample:
    image = ImageRef(str(path), *load(str(path)).size)
    return Sample(name, (image,), question, (Target(0, Box(9, 9, 50, 60, image.frame)),), task="t")


def scene(number: int) -> Image.Image:
    return load(f"synth:referring/5/{number}/0")


def run(*arguments: object, code: int) -> str:
    done = CliRunner().invoke(app, ["data", "overlap", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def test_the_three_kinds_the_table_the_file_and_the_rows_that_are_left(tmp_path: Path) -> None:
    for number in range(6):
        scene(number).save(tmp_path / f"{number}.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    scene(1).save(tmp_path / "bmp.bmp")
    again(scene(2), 60).resize((150, 150)).save(tmp_path / "small.jpg")
    ours, theirs = tmp_path / "train.jsonl", tmp_path / "more" / "val.jsonl"
    save_dataset(ours, [row(f"t{n}", tmp_path / f"{n}.png", f"thing {n}.") for n in range(5)])
    held = {"v0": "copy.png", "v1": "bmp.bmp", "v2": "small.jpg", "v5": "5.png"}
    save_dataset(
        theirs, [row(name, tmp_path / file, f"Thing  {name[1]}") for name, file in held.items()]
    )
    out, clean = tmp_path / "shared.json", tmp_path / "clean.jsonl"
    shown = run(ours, theirs, "--out", out, code=1)
    assert "too: 3 (1 same file, 1 same pixels, 1 nearly the same)" in shown
    assert "asks, too: 3, of which about the same picture: 3" in shown
    (found,) = json.loads(out.read_text())["eval"]
    texts = [each["question"] for each in found["shared_questions"]]
    assert texts == sorted(texts)  # the same file in every run
    files = [(each["likeness"], each["train"], each["eval"]) for each in found["pairs"]]
    assert files == [
        ("same file", "0.png", "copy.png"),
        ("same pixels", "1.png", "bmp.bmp"),
        ("nearly the same", "2.png", "small.jpg"),
    ]
    assert found["about_shared_pictures"] == ["v0", "v1", "v2"]
    same = {each["question"]: each["same_picture"] for each in found["shared_questions"]}
    assert same == {f"thing {n}": [{"train": f"t{n}", "eval": f"v{n}"}] for n in range(3)}
    assert "2 of 5 samples" in run(ours, theirs, "--drop", clean, code=0)
    assert [each.id for each in open_dataset(str(clean))] == ["t3", "t4"]
    run(clean, theirs, code=0)


@pytest.mark.parametrize("change", CHANGES.values(), ids=[*CHANGES])
def test_a_scene_is_found_after_a_change_and_no_other_is(
    tmp_path: Path, change: Callable[[Image.Image], Image.Image]
) -> None:
    for number in range(12):
        scene(number).save(tmp_path / f"{number}.png")
        change(scene(number)).save(tmp_path / f"{number}.bmp")
    ours, theirs = (looks(map(str, tmp_path.glob(f"*.{end}")))[0] for end in ("png", "bmp"))
    found = pairs(ours, theirs)
    assert len(found) == 12 and {pair.likeness for pair in found} == {Likeness.NEAR}
    assert all(Path(pair.train).stem == Path(pair.eval).stem for pair in found)


@pytest.mark.slow
@needs_bccd
def test_photos_of_blood_cells_are_found_again_and_told_apart(tmp_path: Path) -> None:
    """364 photos that look much alike: two are of one spot, all others are far from each other."""
    photos = sorted(map(str, BCCD.iterdir()))
    found, unread = looks(photos)
    assert len(found) == 364 and not unread
    hashes = np.array([each.bits for each in found.values()])
    apart = sorted(int((a != b).sum()) for a, b in combinations(hashes, 2))
    assert apart[0] <= LIMIT and apart[1] > 2 * LIMIT
    others = [pair for pair in pairs(found, found) if pair.train != pair.eval]
    assert {Path(pair.train).stem for pair in others} == {"BloodImage_00037", "BloodImage_00038"}
    for number, path in enumerate(photos[::40]):
        for name, change in CHANGES.items():
            change(load(path)).save(tmp_path / f"{number}-{name}.bmp")
    changed, _ = looks(map(str, tmp_path.iterdir()))
    again = [pair for pair in pairs(found, changed) if pair.likeness is Likeness.NEAR]
    right = {(pair.train, pair.eval) for pair in again}
    assert right >= {(photos[40 * int(Path(each).name[0])], each) for each in changed}
    assert len(right) == len(changed) + 10 * ("BloodImage_00037" in str(photos[::40]))


def drawn(kind: str, number: int) -> Image.Image:
    generator = np.random.default_rng(number)
    if kind == "bars":
        stripes = np.repeat(generator.integers(0, 2, 40) * 255, 8)
        return Image.fromarray(np.tile(stripes, (240, 1)).astype(np.uint8)).convert("RGB")
    if kind == "one colour":
        return Image.new("RGB", (320, 240), tuple(int(v) for v in generator.integers(0, 256, 3)))
    if kind == "noise":
        return Image.fromarray(generator.integers(0, 256, (240, 320, 3)).astype(np.uint8))
    shares = np.cos(number) * np.arange(320) + np.sin(number) * np.arange(240)[:, None]
    grey = (shares - shares.min()) / np.ptp(shares) * 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize("kind", ["bars", "one colour", "noise", "slope"])
def test_pictures_with_little_in_them_are_told_apart(tmp_path: Path, kind: str) -> None:
    for number in range(30):
        drawn(kind, number).save(tmp_path / f"{number}.png")
    found, _ = looks(map(str, tmp_path.iterdir()))
    assert all(pair.train == pair.eval for pair in pairs(found, found))


def test_blocks_of_many_pictures_miss_none() -> None:
    """More pictures than are compared at a time: pairs on both sides of every border are found."""
    generator = np.random.default_rng(0)

    def made(name: str) -> Look:
        grey = generator.normal(size=256)
        return Look(
            name, name, generator.random(256) < 0.5, (grey / np.linalg.norm(grey)).astype("f2")
        )

    ours = {f"t{n}": made(f"t{n}") for n in range(9000)}
    theirs = {f"e{n}": made(f"e{n}") for n in range(1100)}
    wanted = {("t0", "e0", LIMIT), ("t8191", "e1023", 3), ("t8192", "e1024", 1), ("t8999", "e9", 0)}
    for one, other, distance in wanted:
        bits = ours[one].bits.copy()
        bits[:distance] ^= True
        theirs[other] = Look(other, other, bits, ours[one].grey)
    far = ours["t5"].bits.copy()
    far[: LIMIT + 1] ^= True
    theirs["e5"] = Look("e5", "e5", far, ours["t5"].grey)
    assert {(pair.train, pair.eval, pair.distance) for pair in pairs(ours, theirs)} == wanted


def test_a_view_is_compared_as_its_photo(tmp_path: Path) -> None:
    """Crops and mirrored views that were made here are traced back to their file."""
    scene(0).save(tmp_path / "a.png")
    view = Sample("t", (ImageRef(f"{tmp_path}/a.png#view=0,0,60,60,h", 60, 60),), "x", (), task="t")
    save_dataset(tmp_path / "train.jsonl", [view])
    save_dataset(tmp_path / "val.jsonl", [row("v", tmp_path / "a.png", "y")])
    shown = run(tmp_path / "train.jsonl", tmp_path / "val.jsonl", code=1)
    assert "too: 1 (1 same file" in shown


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for number in range(2):
        scene(number).save(tmp_path / f"{number}.png")
    rows = [row(f"r{n}", tmp_path / f"{n}.png") for n in range(2)]
    ours, theirs = tmp_path / "train.jsonl", tmp_path / "val.jsonl"
    save_dataset(ours, rows)
    save_dataset(theirs, [row("other", tmp_path / "1.png", "the plate")])
    (tmp_path / "0.png").write_bytes(b"no picture")
    shown = run(ours, theirs, "--drop", tmp_path / "clean.jsonl", code=1)
    assert "cannot be read, and were not compared: 1" in shown
    assert f"{tmp_path}/0.png: not an image" in shown
    (tmp_path / "1.png").unlink()
    done = CliRunner().invoke(app, ["data", "overlap", str(ours), str(theirs)])
    assert "none of its 2 pictures can be read" in str(done.exception)


def test_a_view_of_nothing_is_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    for number in range(2):
        scene(number).save(tmp_path / f"{number}.png")
    image = ImageRef(f"{tmp_path}/0.png#view=9,9,9,9,", 60, 60)
    rows = [Sample("view", (image,), "x", (), task="t"), row("whole", tmp_path / "0.png")]
    save_dataset(tmp_path / "train.jsonl", rows)
    save_dataset(tmp_path / "val.jsonl", [row("v", tmp_path / "1.png")])
    shown = run(tmp_path / "train.jsonl", tmp_path / "val.jsonl", code=1)
    assert "were not compared: 1" in shown and "a view without pixels" in shown


def test_scenes_are_compared_and_endless_ones_need_a_limit() -> None:
    run("synth:referring", "synth:referring", "--limit", 3, code=1)
    run("synth:referring", "synth:attribute", "--limit", 20, code=0)
    done = CliRunner().invoke(app, ["data", "overlap", "synth:referring", "synth:referring"])
    assert "--limit" in str(done.exception)


def test_a_picture_is_upright_before_it_is_compared(tmp_path: Path) -> None:
    """A photo stored turned, with EXIF, has the pixels of the upright one."""
    image = scene(3).resize((200, 100))
    image.save(tmp_path / "upright.png")
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert look(str(tmp_path / "upright.png")).pixels == look(str(tmp_path / "turned.png")).pixels
