"""What docs/extending.md shows works as it stands there, from outside the package."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from reground.config import config, load
from reground.data import benchmarks, images
from reground.data.schemes import is_endless
from reground.data.source import open_dataset, read_dataset, save_dataset
from reground.errors import ConfigError, DataError
from reground.grounding.sample import is_file_path
from reground.rollout.tools.opening import open_tool
from reground.rollout.tools.tool import Request
from reground.training.algorithms import AlgorithmSettings, algorithm_of
from reground.training.algorithms.clipped import Grpo
from reground.training.draw import Draws
from reground.training.rewards import OwnReward, Rewards, RewardSettings
from reground.training.settings import Phase
from test_algorithms import group, tokens
from test_rewards import BOX, EXAMPLE, answered, scored

PAGE = Path(__file__).parents[1] / "docs/extending.md"


def code(title: str) -> str:
    """The first Python block below a heading of the page."""
    text = PAGE.read_text(encoding="utf-8").partition(f"## {title}\n")[2]
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None, title
    return found[1]


def written(folder: Path, name: str, title: str) -> Path:
    path = folder / name
    path.write_text(code(title))
    return path


@config
class Section:
    algorithm: AlgorithmSettings = Grpo()
    rewards: tuple[RewardSettings, ...] = (OwnReward(path="none.py:none"),)


def test_a_reward(tmp_path: Path) -> None:
    path = written(tmp_path, "my_rewards.py", "A reward")
    settings = load(Section, None, [f"rewards=[{{path: '{path}:centre', weight: 0.5}}]"])
    assert Rewards(settings.rewards).names == ("centre",)
    assert scored(answered(BOX), EXAMPLE, *settings.rewards).reward == 0.5
    assert scored(answered([900, 900, 990, 990]), EXAMPLE, *settings.rewards).reward == 0


def test_an_algorithm(tmp_path: Path) -> None:
    path = written(tmp_path, "my_algorithms.py", "An algorithm")
    override = f"algorithm={{path: '{path}:Plain', settings: {{scale: 2.0}}}}"
    algorithm = algorithm_of(load(Section, None, [override]).algorithm)
    credit = algorithm.credit(group(1, 0), max_tokens=4)
    assert (credit.advantages, credit.divisor) == ((1.0, -1.0), 4.0)
    loss = algorithm.loss(tokens([-1, -2], [-1, -2], [1, -1], [1, 1], [0, 1]))
    assert float(loss.total.detach()) == -1


def test_a_detector(tmp_path: Path) -> None:
    path = written(tmp_path, "my_tools.py", "A detector")
    sample = open_dataset("synth:referring", limit=1)[0]
    tool = open_tool(f"{path}:Middle", samples=[sample])
    (found,) = tool.detect([Request(sample, sample.question)])
    assert not hasattr(found, "args") and found[0].box.xyxy == (28, 28, 84, 84)


ROWS = """
- title: "{set}"
  reader: jsonl
  source: own/test.jsonl
  photos: own
  hit: ">"
  average: micro
  licence: MIT
  get: Copy the folder own/.
  note: ""
  benchmarks:
    own_test: {with: {set: Ours}, samples: 3, counted: our count}
"""


def test_a_benchmark(tmp_path: Path, add_package: Callable[[str, str, str], None]) -> None:
    entries = "[reground.benchmarks]\nmy_package = my_package:BENCHMARKS\n"
    add_package("my_package", code("A benchmark"), entries)
    (tmp_path / "my_package" / "benchmarks.yaml").write_text(ROWS)
    assert benchmarks.find("own_test").title == "Ours"


def test_a_source(tmp_path: Path, add_package: Callable[[str, str, str], None]) -> None:
    assert is_file_path("greys:7"), "without the package it is a file's name"
    add_package("my_greys", code("A source"), "[reground.sources]\ngreys = my_greys\n")
    assert is_endless(open_dataset("greys:"))
    with pytest.raises(ConfigError, match="greys: is endless; say how many samples"):
        read_dataset("greys:")
    samples = read_dataset("greys:", seed=60, limit=3)
    assert [each.images[0].path for each in samples] == ["greys:60", "greys:61", "greys:62"]
    assert images.load(samples[1].images[0]).getpixel((5, 5)) == (61, 61, 61)
    assert images.size("greys:60") == images.ImageSize(40, 30)
    assert images.exists("greys:60")
    save_dataset(tmp_path / "deep" / "rows.jsonl", samples)
    assert read_dataset(str(tmp_path / "deep" / "rows.jsonl")) == samples, "no path was moved"
    with pytest.raises(DataError, match="greys:black: no such grey"):
        images.load("greys:black")
    draws = Draws([Phase(mix={"greys:": 1.0})], seed=3, total=40)
    assert [draws.sample(item).id for item in (0, 39)] == ["grey-0", "grey-39"]
