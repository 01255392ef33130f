"""Validation: every reason is found, nothing stops at the first, clean rows go on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from files import read_rows
from reground.data.images import load
from reground.data.source import open_dataset, save_dataset
from reground.data.validate import Reason, Report, validate
from reground.errors import DataError
from reground.tinyworld import scenes as synth

Row = dict[str, Any]


def image(folder: Path, name: str, width: int = 200, height: int = 100) -> Row:
    path = folder / name
    if not path.exists():
        Image.effect_noise((width, height), 50).save(path)
    return {"path": name, "width": width, "height": height}


def row(folder: Path, name: str = "a", **changes: Any) -> Row:
    base = {
        "id": name,
        "images": [image(folder, "photo.png")],
        "question": "the cat",
        "targets": [{"image": 0, "box": [10, 20, 110, 80]}],
        "task": "test",
    }
    return base | changes


def boxed(folder: Path, *numbers: float, **changes: Any) -> Row:
    return row(folder, targets=[{"image": 0, "box": list(numbers)}], **changes)


def check(folder: Path, *rows: Row | str, **options: Any) -> Report:
    lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    return validate(folder / "data.jsonl", **options)


def test_a_view_of_a_photo_is_checked_as_the_photo_is(tmp_path: Path) -> None:
    def view(file: str, edges: str) -> Row:
        return {"path": f"{file}#view={edges}", "width": 120, "height": 80}

    image(tmp_path, "photo.png")
    rows = [
        row(tmp_path, "good", images=[view("photo.png", "50,10,170,90,hv")]),
        row(tmp_path, "absent", images=[view("absent.png", "50,10,170,90,")]),
        row(tmp_path, "outside", images=[view("photo.png", "100,10,220,90,")]),
    ]
    report = check(tmp_path, *rows)
    assert report.num_clean == 1
    assert report.reasons == {Reason.MISSING_IMAGE: 1, Reason.CORRUPT_IMAGE: 1}


def truncated(folder: Path) -> Row:
    entry = image(folder, "cut.png")
    path = folder / "cut.png"
    path.write_bytes(path.read_bytes()[:2000])
    return entry


PROBLEMS: list[tuple[Reason, Callable[[Path], Row | str]]] = [
    (Reason.UNREADABLE, lambda f: "{"),
    (Reason.UNREADABLE, lambda f: "3"),
    (Reason.UNREADABLE, lambda f: "[" * 100_000),
    (Reason.UNREADABLE, lambda f: row(f, answer=3)),
    (Reason.UNREADABLE, lambda f: row(f, images=[])),
    (Reason.UNREADABLE, lambda f: row(f, target_image=1)),
    (Reason.UNREADABLE, lambda f: boxed(f, 1, 2, 3)),
    (Reason.UNREADABLE, lambda f: boxed(f, 1, 2, float("nan"), 4)),
    (Reason.UNREADABLE, lambda f: row(f, images=[{"path": "a", "width": 1e400, "height": 1}])),
    (
        Reason.MISSING_IMAGE,
        lambda f: row(f, images=[{"path": "no.png", "width": 200, "height": 99}]),
    ),
    (Reason.CORRUPT_IMAGE, lambda f: row(f, images=[truncated(f)])),
    (Reason.SIZE_DIFFERS, lambda f: row(f, images=[image(f, "b.png") | {"height": 101}])),
    (
        Reason.SIZE_DIFFERS,
        lambda f: row(f, images=[image(f, "b.png") | {"width": 100, "height": 200}], targets=[]),
    ),
    (Reason.TOO_SMALL, lambda f: row(f, images=[image(f, "c.png", 200, 27)], targets=[])),
    (Reason.TOO_LONG, lambda f: row(f, images=[image(f, "d.png", 5629, 28)], targets=[])),
    (Reason.DEGENERATE, lambda f: boxed(f, 10, 20, 10, 80)),
    (Reason.DEGENERATE, lambda f: boxed(f, 110, 20, 10, 80)),
    (Reason.OUTSIDE, lambda f: boxed(f, 10, 20, 210, 80)),
    (Reason.OUTSIDE, lambda f: boxed(f, -3, 20, 110, 80)),
    (Reason.PLACEHOLDER, lambda f: row(f, question="<image>\nthe cat")),
    (Reason.SUSPECT_FRAME, lambda f: boxed(f, 0.1, 0.2, 0.55, 0.8)),
    (
        Reason.OUTSIDE,
        lambda f: row(f, tool_results=[{"image": 0, "box": [10, 20, 300, 80]}]),
    ),
]


@pytest.mark.parametrize(("reason", "make"), PROBLEMS)
def test_each_reason_is_found_alone(
    tmp_path: Path, reason: Reason, make: Callable[[Path], Row | str]
) -> None:
    bad = make(tmp_path)
    report = check(tmp_path, row(tmp_path, "good"), bad, out=tmp_path / "clean.jsonl")
    assert report.reasons == {reason: 1}
    assert (report.num_rows, report.num_clean, report.num_quarantined) == (2, 1, 1)
    (entry,) = read_rows(report.quarantine)
    assert entry["line"] == 2
    assert [each["reason"] for each in entry["reasons"]] == [reason]
    assert all(each["detail"] for each in entry["reasons"])
    if isinstance(bad, dict) and "NaN" not in json.dumps(bad):
        assert entry["row"] == bad
    assert [sample.id for sample in open_dataset(str(tmp_path / "clean.jsonl"))] == ["good"]


def test_a_clean_file_leaves_no_quarantine(tmp_path: Path) -> None:
    (tmp_path / "data.quarantine.jsonl").write_text("from an earlier run\n")
    report = check(tmp_path, row(tmp_path, "a"), "", row(tmp_path, "b"))
    assert (report.num_rows, report.num_clean, report.reasons) == (2, 2, {})
    assert report.quarantine == tmp_path / "data.quarantine.jsonl"
    assert not report.quarantine.exists()


def test_every_row_is_checked_and_may_have_several_reasons(tmp_path: Path) -> None:
    report = check(
        tmp_path,
        row(tmp_path, "a"),
        boxed(tmp_path, 150, 20, 250, 20, id="a"),
        "{",
        row(tmp_path, "b", images=[{"path": "no.png", "width": 200, "height": 100}]),
        row(tmp_path, "c"),
    )
    assert report.reasons == {
        Reason.DUPLICATE_ID: 1,
        Reason.DEGENERATE: 1,
        Reason.OUTSIDE: 1,
        Reason.UNREADABLE: 1,
        Reason.MISSING_IMAGE: 1,
    }
    entries = read_rows(report.quarantine)
    assert [entry["line"] for entry in entries] == [2, 3, 4]
    assert report.num_clean == 2


def test_unreadable_bytes_do_not_stop_the_check(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    good = json.dumps(row(tmp_path)).encode()
    path.write_bytes(b'{"id": "\xff"}\n' + good + b"\n")
    report = validate(path)
    assert (report.reasons, report.num_clean) == ({Reason.UNREADABLE: 1}, 1)


def test_the_factor_is_the_familys(tmp_path: Path) -> None:
    rows = [row(tmp_path, images=[image(tmp_path, "e.png", 200, 30)], targets=[])]
    assert check(tmp_path, *rows, factor=28).reasons == {}
    assert check(tmp_path, *rows, factor=32).reasons == {Reason.TOO_SMALL: 1}


def test_clean_rows_are_clipped_and_find_their_images_elsewhere(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "clean.jsonl"
    slight = boxed(tmp_path, 10, 20, 201, 100.5)
    report = check(tmp_path, slight, row(tmp_path, "b"), out=out)
    assert (report.num_clean, report.num_clipped) == (2, 1)
    first, second = open_dataset(str(out))
    assert first.boxes[0].xyxy == (10, 20, 200, 100)
    assert second.boxes[0].xyxy == (10, 20, 110, 80)
    assert Path(first.images[0].path).is_file()


def big(folder: Path, number: int, *box: float) -> Row:
    entry = image(folder, "big.png", 1500, 1200)
    return row(folder, str(number), images=[entry], targets=[{"image": 0, "box": list(box)}])


def test_a_file_in_0_to_1000_is_suspect_as_a_whole(tmp_path: Path) -> None:
    """No box of 40 in 1500 x 1200 reaches past 1000: by chance at most (2/3 * 5/6) ** 40."""
    inside = [big(tmp_path, n, n, n, 600 + 10 * n, 500 + 10 * n) for n in range(40)]
    report = check(tmp_path, *inside)
    assert report.reasons == {Reason.SUSPECT_FRAME: 40}
    assert check(tmp_path, *inside[:10]).reasons == {}  # ten may well be chance
    again = [big(tmp_path, n, 5, 5, 900, 900) for n in range(40)]
    assert check(tmp_path, *again).reasons == {}  # one object asked about 40 times proves nothing
    reaching = big(tmp_path, 99, 10, 10, 1400, 1100)
    assert check(tmp_path, *inside, reaching).reasons == {}


def test_many_boxes_outside_small_images_make_the_frame_suspect(tmp_path: Path) -> None:
    outside = [boxed(tmp_path, n, 200, 900, 900, id=str(n)) for n in range(5)]
    inside = [boxed(tmp_path, n, 0, 50, 50, id=f"in {n}") for n in range(5)]
    report = check(tmp_path, *outside, *inside)
    assert report.reasons == {Reason.OUTSIDE: 5, Reason.SUSPECT_FRAME: 10}
    report = check(tmp_path, *outside[:4], *inside)
    assert report.reasons == {Reason.OUTSIDE: 4}


def test_scene_world_rows_are_clean(tmp_path: Path) -> None:
    path = tmp_path / "synth.jsonl"
    samples = [synth.sample("referring", seed=0, index=index) for index in range(20)]
    save_dataset(path, samples)
    report = validate(path, out=tmp_path / "clean.jsonl")
    assert (report.num_clean, report.num_clipped) == (20, 0)
    assert list(open_dataset(str(tmp_path / "clean.jsonl"))) == samples


def test_missing_and_empty_files_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        validate(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="holds no row"):
        check(tmp_path, "")


def test_sides_may_be_left_out_where_the_file_is_there(tmp_path: Path) -> None:
    image(tmp_path, "photo.png")
    report = check(tmp_path, row(tmp_path, images=[{"path": "photo.png"}]))
    assert report.num_clean == 1
    (sample,) = open_dataset(str(tmp_path / "data.jsonl"))
    assert (sample.images[0].width, sample.images[0].height) == (200, 100)
    report = check(tmp_path, row(tmp_path, images=[{"path": "none.png"}]))
    assert report.reasons == {Reason.UNREADABLE: 1}


def scattered(folder: Path, share: float, *, middle: float = 0.5, count: int = 12) -> list[Row]:
    """Rows about photos of 1200 x 900, with boxes in ``share`` of their sides about ``middle``."""
    rng = random.Random(4)
    rows = []
    for number in range(count):
        centre = [middle + share * (rng.random() - 0.5) for _ in range(2)]
        half = 0.02
        edges = [1200 * (centre[0] - half), 900 * (centre[1] - half)]
        edges += [1200 * (centre[0] + half), 900 * (centre[1] + half)]
        photo = image(folder, f"{number}.png", 1200, 900)
        rows.append(boxed(folder, *edges, id=f"{number}", images=[photo]))
    return rows


def far(folder: Path) -> Row:
    """A box past 1000, which keeps a file from looking like 0-1000."""
    return boxed(folder, 10, 10, 2001, 80, id="far", images=[image(folder, "long.png", 2100, 100)])


@pytest.mark.parametrize(
    ("share", "middle", "doubtful"),
    [(0.3, 0.17, True), (0.9, 0.5, False), (0.3, 0.5, False), (0.3, 0.8, False)],
)
def test_boxes_of_a_smaller_copy_are_doubted(
    tmp_path: Path, share: float, middle: float, doubtful: bool
) -> None:
    report = check(tmp_path, *scattered(tmp_path, share, middle=middle), far(tmp_path))
    assert report.num_quarantined == 0
    assert any("--box-frame resized" in each for each in report.doubts) == doubtful


def test_boxes_beyond_most_photos_are_doubted(tmp_path: Path) -> None:
    rows = [boxed(tmp_path, 100, 20, 1101 + n, 90, id=f"{n}") for n in range(5)]
    report = check(tmp_path, *rows, row(tmp_path, "good"))
    assert report.reasons == {Reason.OUTSIDE: 5}
    assert report.doubts[0].startswith("5 of 6 boxes reach outside their photos")


def test_photos_of_one_colour_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100), (9, 200, 30)).save(tmp_path / "flat.jpg")
    flat = {"path": "flat.jpg", "width": 200, "height": 100}
    report = check(tmp_path, row(tmp_path), row(tmp_path, "b", images=[flat]))
    assert report.num_quarantined == 0
    (doubt,) = report.doubts
    assert doubt.startswith("1 of 2 photos are almost of one colour: ") and "flat.jpg" in doubt


def test_photos_of_a_set_that_use_other_bits_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, most in (("dim", 900), ("bright", 4000)):
        values = np.linspace(0, most, 200, dtype=np.uint16)[None].repeat(100, axis=0)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    rows = [
        row(tmp_path, name, images=[{"path": f"{name}.png", "width": 200, "height": 100}])
        for name in ("dim", "bright")
    ]
    (doubt,) = check(tmp_path, *rows).doubts
    assert "1 of 2 photos of 16 bits" in doubt and "dim.png" in doubt
    assert load(str(tmp_path / "dim.png")).getextrema()[0] == (0, 225)
    monkeypatch.setenv("REGROUND_GREY_BITS", "12")  # as the sentence says
    assert check(tmp_path, *rows).doubts == []
    assert load(str(tmp_path / "dim.png")).getextrema()[0] == (0, 56)
    assert load(str(tmp_path / "bright.png")).getextrema()[0] == (0, 250)
