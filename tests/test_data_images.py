"""Loading images, opening datasets, drawing samples."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from reground.data import images
from reground.data.fonts import font_for
from reground.data.images import ImageSize, load, size
from reground.data.show import contact_sheet, draw, picture
from reground.data.source import open_dataset, save_dataset
from reground.errors import ConfigError, DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target
from reground.tinyworld import scenes

WHITE, RED = (255, 255, 255), (254, 0, 0)


def two_tone(width: int = 20, height: int = 10) -> Image.Image:
    """Red on the left half, white on the right."""
    image = Image.new("RGB", (width, height), "white")
    image.paste((254, 0, 0), (0, 0, width // 2, height))
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_agrees_with_load_for_every_exif_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "photo.jpg"
    two_tone().save(path, exif=exif, quality=95)
    loaded = load(str(path))
    assert size(path) == ImageSize(*loaded.size)
    assert loaded.size == ((10, 20) if orientation >= 5 else (20, 10))


def test_exif_orientation_turns_the_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by 90 degrees clockwise
    two_tone().save(tmp_path / "photo.png", exif=exif)
    loaded = load(str(tmp_path / "photo.png"))
    assert loaded.getpixel((5, 2)) == RED
    assert loaded.getpixel((5, 17)) == WHITE


def grey_16_bit() -> Image.Image:
    return Image.fromarray(np.full((4, 4), 0x80FF, dtype=np.uint16))


def palette_with_hole() -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 254, 0, 0])
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (Image.new("1", (4, 4), 1), ".png", WHITE),
        (Image.new("L", (4, 4), 90), ".png", (90, 90, 90)),
        (grey_16_bit(), ".png", (128, 128, 128)),
        (grey_16_bit(), ".tiff", (128, 128, 128)),
        (Image.new("I", (4, 4), 0x4000), ".pgm", (64, 64, 64)),
        (Image.new("RGB", (4, 4), RED).quantize(2), ".png", RED),
        (palette_with_hole(), ".gif", WHITE),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), ".png", WHITE),
        (Image.new("RGBA", (4, 4), (254, 0, 0, 255)), ".png", RED),
        (Image.new("LA", (4, 4), (0, 0)), ".png", WHITE),
        (Image.new("CMYK", (4, 4), (0, 0, 0, 0)), ".tiff", WHITE),
        (Image.new("CMYK", (4, 4), (0, 0, 0, 0)), ".jpg", WHITE),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, image: Image.Image, suffix: str, expected: tuple[int, int, int]
) -> None:
    path = tmp_path / f"image{suffix}"
    image.save(path)
    loaded = load(str(path))
    assert loaded.mode == "RGB"
    assert loaded.getpixel((1, 1)) == expected


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, WHITE)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert load(str(tmp_path / "two.gif")).getpixel((0, 0)) == RED


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".webp", ".tiff", ".bmp"])
def test_truncated_file_is_a_data_error(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"half{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="half"):
        load(str(path))


def test_missing_text_and_empty_files_are_data_errors(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match="no such image"):
        load(str(tmp_path / "absent.jpg"))
    for name in ("text.jpg", "empty.png"):
        with pytest.raises(DataError, match="not an image"):
            load(str(tmp_path / name))
        with pytest.raises(DataError, match="not an image"):
            size(tmp_path / name)
    with pytest.raises(DataError, match="not a regular file"):
        load(str(tmp_path))


def test_unknown_range_is_a_data_error(tmp_path: Path) -> None:
    Image.new("F", (4, 4), 0.5).save(tmp_path / "depth.tiff")
    with pytest.raises(DataError, match="floating-point"):
        load(str(tmp_path / "depth.tiff"))
    Image.fromarray(np.full((4, 4), 1 << 20, dtype=np.int32)).save(tmp_path / "wide.tiff")
    with pytest.raises(DataError, match="32-bit"):
        load(str(tmp_path / "wide.tiff"))


def test_bombs_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_tone().save(tmp_path / "image.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 199)
    with pytest.raises(DataError, match="too many pixels"):
        load(str(tmp_path / "image.png"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # Pillow's own guard, at twice its limit
    with pytest.raises(DataError, match="too many pixels"):
        size(tmp_path / "image.png")


def test_size_reads_a_header_without_its_pixels(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert size(path) == ImageSize(64, 48)


def test_recorded_size_must_be_the_files(tmp_path: Path) -> None:
    two_tone().save(tmp_path / "image.png")
    path = str(tmp_path / "image.png")
    assert load(ImageRef(path, 20, 10)).size == (20, 10)
    with pytest.raises(DataError, match="20 x 10, but 10 x 20"):
        load(ImageRef(path, 10, 20))


def test_scene_world_images_are_rendered() -> None:
    sample = scenes.sample("referring", seed=3, index=5)
    assert load(sample.images[0]).size == (112, 112)
    assert size(sample.images[0].path) == ImageSize(112, 112)


def make_sample(folder: Path, name: str = "a") -> Sample:
    path = folder / "images" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    two_tone(400, 200).save(path)
    ref = ImageRef(str(path), 400, 200)
    return Sample(name, (ref,), "the red half", (Target(0, Box(0, 0, 200, 200, ref.frame)),), "t")


def test_saved_dataset_can_be_moved_with_its_images(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    samples = [make_sample(folder, name) for name in "abc"]
    assert save_dataset(folder / "data" / "all.jsonl", samples) == 3
    folder.rename(tmp_path / "there")
    moved = open_dataset(str(tmp_path / "there" / "data" / "all.jsonl"))
    assert [sample.id for sample in moved] == ["a", "b", "c"]
    assert load(moved[1].images[0]).size == (400, 200)
    assert moved[1].boxes == samples[1].boxes


def test_paths_are_right_through_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "far" / "away" / "data").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away" / "data")
    save_dataset(tmp_path / "link" / "all.jsonl", [make_sample(tmp_path)])
    (sample,) = open_dataset(str(tmp_path / "link" / "all.jsonl"))
    assert load(sample.images[0]).size == (400, 200)


def test_jsonl_dataset_obeys_limit_and_refuses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    save_dataset(path, [make_sample(tmp_path, name) for name in "abc"])
    assert [sample.id for sample in open_dataset(str(path), limit=2)] == ["a", "b"]
    with pytest.raises(DataError, match="limit of 0"):
        open_dataset(str(path), limit=0)
    path.write_text("\n")
    with pytest.raises(DataError, match="no sample"):
        open_dataset(str(path))
    with pytest.raises(DataError, match="no such file"):
        open_dataset(str(tmp_path / "absent.jsonl"))


def test_scene_world_dataset_is_lazy_and_random_access() -> None:
    endless = open_dataset("synth:referring@1-3", seed=4)
    assert len(endless) == 2**31 - 1
    assert endless[2_000_000] == scenes.sample("referring@1-3", seed=4, index=2_000_000)
    short = open_dataset("synth:referring", seed=4, limit=5)
    assert [sample.id for sample in short] == [short[index].id for index in range(5)]
    assert short[-1] == short[4]
    assert short[1:3] == [short[1], short[2]]
    with pytest.raises(IndexError):
        short[5]
    assert short[0] != open_dataset("synth:referring", seed=5, limit=5)[0]
    with pytest.raises(DataError):
        open_dataset("synth:refering")


def test_picture_shows_true_and_predicted_boxes(tmp_path: Path) -> None:
    sample = make_sample(tmp_path)
    answer = [Target(0, Box(240, 40, 360, 160, sample.images[0].frame))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, both = picture(sample), picture(sample, predicted=answer)
    assert plain.width == 640  # 400 x 200 at a height of 320
    green, orange = np.array([31, 157, 58]), np.array([255, 140, 0])
    assert np.any(np.all(np.asarray(plain) == green, axis=2))
    assert not np.any(np.all(np.asarray(plain) == orange, axis=2))
    rows, columns = np.nonzero(np.all(np.asarray(both) == orange, axis=2))
    assert abs(columns.min() - 384) <= 3 and abs(columns.max() - 576) <= 3
    assert abs(rows.min() - 64) <= 3 and abs(rows.max() - 256) <= 3


def test_draw_and_contact_sheet_write_png(tmp_path: Path) -> None:
    samples = [make_sample(tmp_path, name) for name in "abcd"]
    draw(samples[0], out=tmp_path / "one.png")
    contact_sheet(samples, out=tmp_path / "deep" / "sheet.png")
    one, sheet = Image.open(tmp_path / "one.png"), Image.open(tmp_path / "deep" / "sheet.png")
    assert (one.format, sheet.format) == ("PNG", "PNG")
    assert one.width + 8 <= 1400 // 2  # two or more in a row, the others below
    in_row = min(4, 1400 // (one.width + 8))
    num_rows = -(-4 // in_row)
    assert sheet.size == (in_row * (one.width + 8) - 8, num_rows * (one.height + 8) - 8)


@pytest.mark.parametrize(("bits", "brightest"), [(8, 255), (10, 1023), (12, 4095), (16, 65535)])
def test_bits_in_use_of_16_are_shown(tmp_path: Path, bits: int, brightest: int) -> None:
    """12 bits of 16, as X-rays are stored: the brightest pixel is white, not nearly black."""
    values = np.linspace(0, brightest, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "x.png")
    shown = np.asarray(load(str(tmp_path / "x.png")))
    assert shown.max() == 255 and shown.min() == 0


def test_significant_bits_of_a_png_count(tmp_path: Path) -> None:
    """A dark picture of 12 bits stays dark where the file says that it has 12."""
    values = np.full((64, 64), 255, np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    assert np.asarray(load(str(tmp_path / "x.png"))).max() == 255
    content = (tmp_path / "x.png").read_bytes()
    chunk = b"sBIT" + bytes([12])
    own = struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "x.png").write_bytes(content[:33] + own + content[33:])
    assert np.asarray(load(str(tmp_path / "x.png"))).max() == 15


@pytest.mark.parametrize(
    "made",
    [
        lambda path: os.mkfifo(path),
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n"),
        lambda path: Image.new("RGB", (64, 64)).save(path, format="PCX"),
    ],
)
def test_only_files_of_known_formats_are_opened(tmp_path: Path, made: Any) -> None:
    path = tmp_path / "a.png"
    made(path)
    with pytest.raises(DataError, match="not a"):
        load(str(path))


@pytest.mark.parametrize(
    "path", ["x" * 5000, "a\0b.png", "a.png#view=64,64,0,0,", "a.png#view=0,0,0,9,h", "~" * 300]
)
def test_paths_that_are_none_are_a_sentence(path: str) -> None:
    with pytest.raises(DataError) as caught:
        load(path)
    assert len(str(caught.value)) < 400


def test_the_limit_of_pixels_is_the_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (13_000, 8_000)).save(tmp_path / "slide.png")
    with pytest.raises(DataError, match=r"too many pixels.*REGROUND_MAX_IMAGE_PIXELS"):
        load(str(tmp_path / "slide.png"))
    monkeypatch.setenv("REGROUND_MAX_IMAGE_PIXELS", "120000000")
    assert size(tmp_path / "slide.png").width == 13_000


@pytest.mark.parametrize(
    ("text", "drawn"), [("café", True), ("красный", True), ("\U0010fffd", False)]
)
def test_captions_have_letters_or_say_that_no_font_has_them(
    text: str, drawn: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if text == "красный" and font_for(text) is None:
        pytest.skip("no font here has Cyrillic letters")
    sample = replace(scenes.sample("referring", seed=0, index=0), question=text)
    picture(sample)
    assert ("no font here has the letters" in caplog.text) != drawn


def test_a_font_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "none.ttf").write_text("no font")
    with pytest.raises(ConfigError, match=r"none\.ttf: no font that can be read"):
        font_for("a", tmp_path / "none.ttf")


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("most", "side"), [(None, 1600), (1600 * 1200, 1600), (900_000, 1600), (100_000, 400), (9, 200)]
)
def test_very_large_jpegs_are_decoded_at_less_where_less_is_seen(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: int | None,
    side: int,
    orientation: int,
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 1_000_000)
    monkeypatch.setenv("REGROUND_MAX_IMAGE_PIXELS", "2000000")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    photo = Image.effect_noise((40, 30), 60).resize((1600, 1200)).convert("RGB")
    photo.save(tmp_path / "large.jpg", exif=exif)
    photo.save(tmp_path / "large.png", exif=exif)
    upright = (1200, 1600) if orientation == 6 else (1600, 1200)
    ref = ImageRef(str(tmp_path / "large.jpg"), *upright)
    seen = load(ref, most=most)
    assert max(seen.size) == side and seen.size[0] * upright[1] == seen.size[1] * upright[0]
    assert load(str(tmp_path / "large.png"), most=most).size == upright  # PNG has no such way
    whole = np.asarray(load(ref).resize(seen.size, Image.Resampling.BOX), dtype=int)
    assert np.abs(np.asarray(seen, dtype=int) - whole).mean() < 1.5
    with pytest.raises(DataError, match="the file is"):
        load(replace(ref, width=400, height=300), most=most)
    monkeypatch.setattr(images, "MAX_PIXELS", 2_000_000)  # as usual: nothing changes
    assert np.array_equal(np.asarray(load(ref, most=most)), np.asarray(load(ref)))
