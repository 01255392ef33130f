"""From a folder of labelled photos to a report, by the commands of its page."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from files import read_rows
from reground.cli import app

PAGE = Path(__file__).parents[1] / "docs/photos.md"
PHOTOS = 200


def raccoons(folder: Path) -> None:
    """Photos in images/, an XML for each in annotations/, no lists, names as tools leave them."""
    chance = np.random.default_rng(0)
    for part in ("annotations", "images"):
        (folder / part).mkdir(parents=True)
    for number in range(1, PHOTOS + 1):
        name = f"raccoon-{number}"
        width, height = (int(side) for side in chance.integers(100, 200, 2))
        pixels = chance.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((width, height))
        image.save(folder / "images" / f"{name}.jpg")
        objects = ""
        for _ in range(1 + (number % 20 == 0)):
            x, y = chance.integers(1, 40, 2)
            objects += (
                f"<object><name>raccoon</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
                f"<xmax>{x + 50}</xmax><ymax>{min(y + 60, height)}</ymax></bndbox></object>"
            )
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>"
        (folder / "annotations" / f"{name}.xml").write_text(text)


def commands() -> list[list[str]]:
    """The block of the page that begins with `auto`."""
    blocks = re.findall(
        r"```\n(reground data convert auto my_photos.*?)```", PAGE.read_text(), re.S
    )
    (block,) = blocks
    return [shlex.split(line)[1:] for line in block.splitlines()]


@pytest.mark.slow
def test_from_a_folder_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raccoons(tmp_path / "my_photos")
    assert [command[0] for command in commands()] == ["data"] * 3 + ["eval", "report"]
    said = []
    for command in commands():
        ended = CliRunner().invoke(app, command)
        assert ended.exit_code == 0, (command, ended.output, ended.exception)
        said.append(ended.output)
    parts = {
        part: read_rows(Path(f"runs/mine/all.{part}.jsonl")) for part in ("train", "val", "test")
    }
    assert sum(map(len, parts.values())) == PHOTOS
    assert "recognised as voc" in said[0] and f"read {PHOTOS} photos ({PHOTOS} asked" in said[0]
    assert f"{len(parts['val'])} of {len(parts['val'])} rows are good" in said[1]
    assert Image.open("runs/mine/look.png").width > 600
    report = json.loads(Path("results/mine/report.json").read_text())
    assert report["n"] == 8
    assert {*Path("results/mine").glob("report.*")} >= {Path("results/mine/report.html")}
