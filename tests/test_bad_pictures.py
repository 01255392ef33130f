"""Pictures and paths that are wrong in every way end in a sentence, the same for every verb."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reground.data.images import FORMATS, load, size, unreadable
from reground.data.soundness import Reason, Soundness
from reground.data.validate import validate
from reground.errors import DataError
from reground.grounding.sample import ImageRef

WIDTH, HEIGHT = 64, 48
MODES = ("RGB", "L", "P", "1", "CMYK", "RGBA", "LA", "I;16", "I", "F", "YCbCr", "HSV", "LAB", "PA")
PIXELS = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)


def saved(format_name: str, mode: str = "RGB", **how: Any) -> bytes | None:
    """A picture as Pillow writes it; None where it does not."""
    out = io.BytesIO()
    try:
        image = IMAGE.convert("L") if mode == "I;16" else IMAGE.convert(mode)
        (image.convert("I").convert(mode) if mode == "I;16" else image).save(
            out, format_name, **how
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError):
        return None
    return out.getvalue()


def of_all_formats() -> Iterator[tuple[str, bytes]]:
    Image.init()
    for name in sorted(Image.SAVE):
        for mode in MODES if name in FORMATS else ("RGB",):
            if name != "PDF" and (content := saved(name, mode)):
                yield f"{name} {mode}", content


def cut_off() -> Iterator[tuple[str, bytes]]:
    for name in FORMATS:
        whole = saved(name)
        assert whole
        for place in range(20):
            yield f"{name} cut at {place}/20", whole[: len(whole) * place // 20]


def flipped() -> Iterator[tuple[str, bytes]]:
    chance = random.Random(0)
    for name in FORMATS:
        for number in range(12):
            content = bytearray(saved(name) or b"")
            reach = min(200, len(content)) if number % 2 else len(content)  # headers, too
            for _ in range(chance.choice([1, 3, 20])):
                content[chance.randrange(reach)] ^= 1 << chance.randrange(8)
            yield f"{name} with bits flipped, {number}", bytes(content)


def png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    listed = [(b"IHDR", head), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in listed
    )


def lying() -> Iterator[tuple[str, bytes]]:
    """Headers that say more, or less, than there is."""
    row = (b"IDAT", zlib.compress(b"\0" * 65 * 48))
    for width, height in ((64, 48), (65, 48), (64, 49), (1, 1), (0, 48), (64, 0), (2**31 - 1, 1)):
        yield f"PNG of {width} x {height}", png(width, height, row)
    yield "PNG of 100,000 x 100,000", png(100_000, 100_000, row)
    yield "PNG of 9,000 x 9,000", png(9_000, 9_000, row)
    yield "PNG without pixels", png(64, 48)
    yield "PNG of 16 bits", png(64, 48, row, depth=16)
    yield "PNG with sBIT of none", png(64, 48, (b"sBIT", b""), row)
    yield (
        "PNG of a bomb of text",
        png(64, 48, (b"zTXt", b"a\0\0" + zlib.compress(b"a" * 2**21)), row),
    )
    for sides in (b"9999999 9999999", b"0 0", b"-1 5", b"64", b"a b", b"64 48\n" + b"9" * 20):
        yield f"PPM of {sides!r}", b"P6\n" + sides + b"\n255\n" + bytes(64 * 48 * 3)
    bmp = saved("BMP") or b""
    for width, height in ((2**31 - 1, 48), (64, -(2**31)), (-64, 48), (0, 0)):
        yield f"BMP of {width} x {height}", bmp[:18] + struct.pack("<ii", width, height) + bmp[26:]
    gif = saved("GIF") or b""
    yield "GIF of 65535 x 65535", gif[:6] + b"\xff\xff\xff\xff" + gif[10:]
    jpeg = saved("JPEG") or b""
    start = jpeg.index(b"\xff\xc0") + 5
    yield "JPEG of 65500 x 65500", jpeg[:start] + b"\xff\xdc\xff\xdc" + jpeg[start + 4 :]


def no_pictures() -> Iterator[tuple[str, bytes]]:
    yield "nothing", b""
    yield "PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n(x) run\n"
    yield "PDF", b"%PDF-1.4\n1 0 obj\n"
    yield "SVG", b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='48'/>"
    yield "HTML", b"<!doctype html><title>404</title>"
    yield "Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    yield "zip", b"PK\3\4" + bytes(60)
    yield "HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    yield "AVIF", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1"
    yield "XPM", b'/* XPM */\nstatic char *a[] = {\n"1 1 1 1",\n"a c None",\n"a"};'
    yield "zeros", bytes(5000)
    yield "ones", b"\xff" * 5000
    for mark in (
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM",
        b"II*\0",
        b"MM\0*",
        b"P6\n",
    ):
        yield f"the mark {mark!r} alone", mark
        yield f"the mark {mark!r} and noise", mark + PIXELS.tobytes()
    webp = saved("WEBP") or b""
    yield "WebP of no size", webp[:4] + b"\xff\xff\xff\xff" + webp[8:]


CONTENTS = dict([*of_all_formats(), *cut_off(), *flipped(), *lying(), *no_pictures()])


def stated(path: str) -> ImageRef:
    """The picture with the sides of its file, as far as it has any."""
    try:
        found = size(path)
    except DataError:
        return ImageRef(path, WIDTH, HEIGHT)
    return ImageRef(path, found.width, found.height)


def said_of(image: ImageRef) -> str | None:
    """What is wrong with a picture; every verb's door says the same."""
    problems = [
        each
        for each in Soundness().image_problems(image)
        if each.reason not in (Reason.TOO_SMALL, Reason.TOO_LONG)  # a matter of the model
    ]
    try:
        loaded = load(image)
    except DataError as error:
        assert problems, f"the validator takes what cannot be loaded: {error}"
        said = str(error)
        assert len(said) < 600 + len(image.path[:200]) and "\n" not in said
        is_of_size = problems[0].reason is Reason.SIZE_DIFFERS
        assert ("is recorded" if is_of_size else problems[0].detail) in said
        return said
    assert not problems, "the validator refuses what can be loaded"
    assert (loaded.mode, loaded.size) == ("RGB", (image.width, image.height))
    assert not unreadable([image]), "training refuses what can be loaded"
    return None


def test_there_are_300() -> None:
    assert len(CONTENTS) + len(PATHS) > 300


@pytest.mark.parametrize("kind", ["cut", "flipped", "mark", ""])
def test_every_content_loads_or_is_a_sentence(tmp_path: Path, kind: str) -> None:
    chosen = {name: content for name, content in CONTENTS.items() if kind in name}
    results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, (name, content) in enumerate(chosen.items()):
            path = tmp_path / f"{number}.png"
            path.write_bytes(content)
            results[name] = said_of(stated(str(path)))
    if kind == "":
        for name in ("nothing", "PostScript", "HTML", "PNG of 100,000 x 100,000", "JPEG2000 RGB"):
            assert results.get(name, "not made here"), name
        wrong = {
            name
            for name in results
            if name.split()[0] not in (*FORMATS, "MPO") and not results[name]
        }
        assert not wrong, "formats that are never opened"
        assert all(results[f"{name} RGB"] is None for name in FORMATS)


VIEWS = ["0,0,0,9,", "9,0,0,9,", "0,9,9,0,", "64,64,0,0,", "0,0,65,48,", "0,0,64,49,h", "0,0,,9,",
         "60,40,99999999999999999999,999999999999999999999999,v", "-1,0,9,9,", "0,0,9.5,9,",
         "0,0,9,9", "0,0,9,9,x", "0,0,9,9,hvh", "0,0,9,9,vh", " 0,0,9,9,", "a,b,c,d,", "",
         "0,0,1e3,9,", "0,0,0x9,9,", "0,0,9,9,h#view=0,0,99,9,", "0,0,9,9,\n", "nan,0,9,9,",
         "0,0,\u0669\u0669,9,"]  # fmt: skip
PATHS: list[str] = [
    *(f"good.png#view={edges}" for edges in VIEWS),
    *(f"none.png#view={edges}" for edges in VIEWS[:3]),
    *("", ".", "..", "/", "//", "~", "folder", "folder/", "good.png/", "good.png/a.png", "pipe"),
    *("loop", "dangling", "/dev/null", "/dev/zero", "/dev/urandom", "/proc/self/mem", "socket"),
    *("none.png", "x" * 5000, "x/" * 3000, "a\0b.png", "\0", "\ud800.png", "\udcff.png", "\n.png"),
    *("http://host/a.png", "file:///etc/passwd", "data:image/png;base64,AAAA", "s3://b/a.png"),
    *("C:\\a.png", "\\\\host\\a.png", "|ls", "-", "con", "%s%n.png", "$HOME/a.png", "\u202egnp.a"),
    *("synthetic:1", ":", "::", "#view=0,0,9,9,", "good.png#", "GOOD.PNG", "good.png "),
]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one picture and what is none."""
    monkeypatch.chdir(tmp_path)
    IMAGE.save("good.png")
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to("nowhere")
    return tmp_path


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_every_path_is_a_sentence(places: Path, path: str) -> None:
    assert said_of(ImageRef(path, WIDTH, HEIGHT))
    assert unreadable([ImageRef(path, WIDTH, HEIGHT)]) or "#view=" in path


@pytest.mark.parametrize(
    ("edges", "width"), [("0,0,64,48,", 64), ("0,0,64,48,hv", 64), ("8,0,40,30,v", 32)]
)
def test_views_that_are_right(places: Path, edges: str, width: int) -> None:
    height = int(edges.split(",")[3])
    assert said_of(ImageRef(f"good.png#view={edges}", width, height)) is None


@pytest.mark.parametrize("recorded", [(48, 64), (63, 48), (64, 49), (1, 1), (10**9, 10**9)])
def test_other_sides_than_the_files_are_refused(places: Path, recorded: tuple[int, int]) -> None:
    assert said_of(ImageRef("good.png", *recorded))


def test_the_command_says_it_all_in_one_go(places: Path) -> None:
    """Of a process without Pillow's own warnings on its standard error."""
    rows = []
    for number, (name, content) in enumerate(list(CONTENTS.items())[::7]):
        Path(f"{number}.png").write_bytes(content)
        image = {"path": f"{number}.png", "width": WIDTH, "height": HEIGHT}
        row = {"id": name, "images": [image], "question": "it", "targets": [], "task": "t"}
        rows.append(json.dumps(row))
    Path("d.jsonl").write_text("\n".join(rows))
    command = [sys.executable, "-m", "reground", "data", "validate", "d.jsonl"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr and "Warning" not in ended.stderr
    report = validate(Path("d.jsonl"))
    assert f"{report.num_clean} of {len(rows)} rows are good" in ended.stdout
