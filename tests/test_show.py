"""Contact sheets: what a person sees of a data set, and where."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont
from typer.testing import CliRunner

from reground.cli import app
from reground.data.captions import wrapped
from reground.data.fonts import drawable, font_for
from reground.data.show import contact_sheet, picture, spread
from reground.data.source import open_dataset, save_dataset
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection, ImageRef, Sample, Target

GREEN, RED, PINK, BLUE = "#1f9d3a", "#e6194b", "#f032e6", "#2f6fde"
Edges = tuple[float, float, float, float]


def photo(path: Path, width: int = 320, height: int = 320) -> ImageRef:
    Image.new("RGB", (width, height), "#444444").save(path)
    return ImageRef(str(path), width, height)


def row(
    name: str, image: ImageRef, *boxes: Edges, question: str = "it", label: str = "", at: int = 0
) -> Sample:
    targets = tuple(Target(0, Box(*each, image.frame)) for each in boxes)
    strata = {"class": label} if label else {}
    return Sample(name, (image,), question, targets, task="t", strata=strata)


def where(path: Path, colour: str) -> tuple[int, int, int, int] | None:
    """The bounds of a colour in the upper 320 pixels of a page; None where it is not there."""
    pixels = np.asarray(Image.open(path).convert("RGB"))[:320]
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    rows, columns = np.nonzero((pixels == wanted).all(axis=2))
    if not rows.size:
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def test_the_questions_of_a_photo_share_a_picture_in_colours_of_classes(tmp_path: Path) -> None:
    image, other = photo(tmp_path / "a.png"), photo(tmp_path / "b.png")
    samples = [
        row("1", image, (20, 30, 60, 70), label="cup"),
        row("2", image, (100, 110, 180, 160), (200, 200, 250, 260), label="plate"),
        row("3", other, (5, 10, 50, 60), label="plate"),
    ]
    pages = contact_sheet(samples, out=tmp_path / "sheet.png")
    assert pages == {tmp_path / "sheet.png": 3}
    assert where(tmp_path / "sheet.png", GREEN) == pytest.approx((20, 30, 60, 70), abs=2)
    both = where(tmp_path / "sheet.png", RED)  # in the first photo, and in the second right of it
    assert both == pytest.approx((100, 10, 328 + 50, 260), abs=2)
    below = np.asarray(Image.open(tmp_path / "sheet.png"))[330:]
    for colour in (GREEN, RED):  # the legend
        wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        assert (below == wanted).all(axis=2).sum() >= 100


def test_questions_without_classes_have_a_colour_each(tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png")
    samples = [row(q, image, (x, 50, x + 40, 90), question=q) for q, x in (("l", 10), ("r", 200))]
    contact_sheet(samples, out=tmp_path / "sheet.png")
    assert where(tmp_path / "sheet.png", GREEN) == pytest.approx((10, 50, 50, 90), abs=2)
    assert where(tmp_path / "sheet.png", RED) == pytest.approx((200, 50, 240, 90), abs=2)


def test_boxes_are_drawn_in_the_image_that_they_are_in(tmp_path: Path) -> None:
    images = tuple(photo(tmp_path / f"{name}.png") for name in "abc")
    box = Box(100, 110, 180, 160, images[2].frame)
    tool = Detection(1, Box(10, 20, 90, 100, images[1].frame))
    sample = Sample("s", images, "q", (Target(2, box),), task="t", tool_results=(tool,))
    contact_sheet([sample], out=tmp_path / "sheet.png")
    right = 2 * (320 + 8)
    assert where(tmp_path / "sheet.png", GREEN) == pytest.approx(
        (right + 100, 110, right + 180, 160), abs=2
    )
    assert where(tmp_path / "sheet.png", BLUE) == pytest.approx((338, 20, 418, 100), abs=2)


def test_many_photos_go_to_pages(tmp_path: Path) -> None:
    samples = [row(f"{n}", photo(tmp_path / f"{n}.png"), (9, 9, 50, 50)) for n in range(45)]
    save_dataset(tmp_path / "rows.jsonl", samples)
    out = tmp_path / "sheet.png"
    done = CliRunner().invoke(
        app, ["data", "show", str(tmp_path / "rows.jsonl"), "--limit", "40", "--out", str(out)]
    )
    assert done.exit_code == 0
    counts = [int(line.split()[-2]) for line in done.output.splitlines()]
    pages = [out, *sorted(tmp_path.glob("sheet.*.png"))]
    assert sum(counts) == 40 and len(pages) == len(counts) >= 2
    assert all(max(Image.open(page).size) <= 2400 for page in pages)


@pytest.mark.slow
@pytest.mark.parametrize("sides", [(9000, 5000), (6000, 60), (60, 6000), (40, 40)])
def test_photos_of_any_form_fit_and_small_boxes_are_seen(
    tmp_path: Path, sides: tuple[int, int]
) -> None:
    width, height = sides
    box = (width * 0.5, height * 0.5, width * 0.5 + 4, height * 0.5 + 4)
    shown = picture(row("s", photo(tmp_path / "a.png", *sides), box, question="a " * 30))
    assert shown.width <= 1400 and shown.height <= 1200
    pixels = np.asarray(shown)
    assert (pixels == [0x1F, 0x9D, 0x3A]).all(axis=2).sum() >= 8


def test_a_photo_that_cannot_be_read_is_named_and_the_others_are_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [photo(tmp_path / f"{name}.png") for name in "ab"]
    samples = [row(f"{n}", image, (20, 30, 60, 70)) for n, image in enumerate(images)]
    (tmp_path / "a.png").write_bytes(b"cut")
    with caplog.at_level(logging.WARNING):
        contact_sheet(samples, out=tmp_path / "sheet.png")
    assert "a.png: not an image" in caplog.text
    assert where(tmp_path / "sheet.png", GREEN) == pytest.approx((348, 30, 388, 70), abs=2)


def test_spread_takes_whole_photos_over_the_file(tmp_path: Path) -> None:
    images = [photo(tmp_path / f"{n}.png") for n in range(10)]
    samples = [row(f"{n}-{k}", image) for n, image in enumerate(images) for k in range(3)]
    chosen = spread(samples, 4)
    assert [each for each in samples if each in chosen] == chosen
    assert len({each.images for each in chosen}) == 4 and len(chosen) == 12
    assert chosen[-1].id >= "7"
    assert spread(samples, 50) == samples
    assert len(spread(open_dataset("synth:referring"), 5)) == 5


@pytest.mark.parametrize("text", ["Zelle ä", "œuf, garçon", "Łódź", "κύτταρο", "клетка"])
def test_letters_with_accents_and_of_other_alphabets_are_no_boxes(text: str) -> None:
    font = font_for(text)
    assert font is not None
    unknown = bytes(font.getmask("\uffff"))
    assert all(bytes(font.getmask(letter)) != unknown for letter in text if letter != " ")


def test_letters_that_no_font_has_leave_the_others(caplog: pytest.LogCaptureFixture) -> None:
    text, font = drawable("cup \U0010fffd")
    assert text == "cup ?" and isinstance(font, ImageFont.FreeTypeFont)
    assert "no font here has the letters" in caplog.text
    assert drawable("cup")[0] == "cup"


@given(st.text(st.characters(max_codepoint=0x17F), max_size=80), st.integers(60, 400))
def test_lines_are_never_wider_than_their_picture(text: str, width: int) -> None:
    font = font_for("")
    assert font is not None
    lines = wrapped(text, font, width)
    assert all(font.getlength(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
