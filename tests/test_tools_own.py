"""Detectors from outside the package: a user's file by its path, a package's entry point."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from reground.data.source import open_dataset, save_dataset
from reground.errors import ConfigError
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection, ImageRef, Sample, Target
from reground.rollout.tools.opening import open_tool
from reground.rollout.tools.tool import Request

OWN = '''
from dataclasses import dataclass

from reground.grounding.boxes import Box
from reground.grounding.sample import Detection
from reground.rollout.tools.tool import ToolError


@dataclass
class Corner:
    """Points at the upper left of every image, but of those that are asked for a dog."""

    side: int = 20
    name = "corner"
    settings = "20 pixels"
    by_image = True

    def detect(self, requests):
        return [self.box(each) for each in requests]

    def box(self, request):
        if "dog" in request.expression:
            return ToolError("no dogs")
        index = request.sample.target_image
        frame = request.sample.images[index].frame
        return (Detection(index, Box(0, 0, self.side, self.side, frame), "corner", 0.9),)


made = Corner(side=30)


class Half:
    name = "half"
    settings = by_image = None


class Broken:
    def __init__(self):
        raise ValueError("no licence")


def opened(options, samples):
    return Corner(side=int(options or len(samples)))
'''


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own_tools.py").write_text(OWN)
    return tmp_path / "own_tools.py"


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    Image.new("RGB", (100, 80), "navy").save(tmp_path / "photo.png")
    image = ImageRef(str(tmp_path / "photo.png"), 100, 80)
    target = Target(0, Box(0, 0, 20, 20, image.frame))
    return [Sample(each, (image,), f"the {each}", (target,), "t") for each in ("cup", "dog", "cat")]


@pytest.mark.parametrize(("name", "side"), [("Corner", 20), ("made", 30)])
def test_a_class_or_an_object_in_a_file_is_a_tool(
    name: str, side: int, own: Path, samples: list[Sample]
) -> None:
    tool = open_tool(f"{own}:{name}", samples=samples)
    (found,) = tool.detect([Request(samples[0], "the cup")])
    frame = samples[0].images[0].frame
    assert found == (Detection(0, Box(0, 0, side, side, frame), "corner", 0.9),)


def test_the_command_asks_a_tool_of_the_users(
    own: Path, samples: list[Sample], tmp_path: Path
) -> None:
    save_dataset(tmp_path / "data.jsonl", samples)
    command = [sys.executable, "-m", "reground", "tool", "run", "--tool", "own_tools.py:Corner"]
    command += ["--data", "data.jsonl", "--out", "out.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 without an answer: no dogs\n" in done.stderr
    written = list(open_dataset(str(tmp_path / "out.jsonl")))
    assert [each.tool_results and each.tool_results[0].box.xyxy for each in written] == [
        (0, 0, 20, 20),
        None,
        (0, 0, 20, 20),
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Corners", r"holds no 'Corners'; did you mean 'Corner'\?"),
        ("Half", "is no tool, for want of settings, by_image, detect; expected name and settings"),
        ("OWN", "holds no 'OWN'"),
        ("Broken", r"cannot be opened \(ValueError: no licence\); mend its code"),
        ("dataclass", "is no tool, for want of name, settings, by_image"),
        ("opened", r"cannot be opened \(TypeError: .*missing 2 required"),
    ],
)
def test_what_is_no_tool_is_said_in_a_sentence(name: str, message: str, own: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_tool(f"{own}:{name}", samples=[])
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_fails_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.py:Mine: no such file"):
        open_tool(f"{tmp_path}/gone.py:Mine", samples=[])
    (tmp_path / "bad.py").write_text("import no_such_module_at_all")
    with pytest.raises(ConfigError, match=r"bad\.py: fails when it is imported"):
        open_tool(f"{tmp_path}/bad.py:Mine", samples=[])


def test_a_package_adds_a_tool_by_its_entry_point(
    samples: list[Sample], add_package: Callable[[str, str, str], None]
) -> None:
    entries = "[reground.tools]\ncorner = corner_tools:opened\nlost = corner_tools:gone\n"
    add_package("corner_tools", OWN, entries)
    for spec, side in (("corner:40", 40), ("corner", 3)):
        (found,) = open_tool(spec, samples=samples).detect([Request(samples[0], "the cup")])
        assert found[0].box.xyxy == (0, 0, side, side)  # type: ignore[union-attr,index]
    with pytest.raises(ConfigError, match=r"no tool 'coner:40'; did you mean 'corner:40'\?"):
        open_tool("coner:40", samples=samples)
    with pytest.raises(ConfigError, match=r"tool corner:x: cannot be opened \(ValueError"):
        open_tool("corner:x", samples=samples)
    with pytest.raises(ConfigError, match=r"tool lost: cannot be opened \(AttributeError"):
        open_tool("lost", samples=samples)
