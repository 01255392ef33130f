"""What docs/extending.md shows works as it stands there, from outside the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reground.config import config, load
from reground.data import benchmarks
from reground.data.source import open_dataset
from reground.plugins import installed
from reground.rollout.tools.opening import open_tool
from reground.rollout.tools.tool import Request
from reground.training.algorithms import AlgorithmSettings, algorithm_of
from reground.training.algorithms.grpo import Grpo
from reground.training.rewards import OwnReward, Rewards, RewardSettings
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


def test_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text(code("A benchmark"))
    (package / "benchmarks.yaml").write_text(ROWS)
    about = tmp_path / "my_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[reground.benchmarks]\nmy_package = my_package:BENCHMARKS\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for known in (installed, benchmarks.table):
        known.cache_clear()
    try:
        assert benchmarks.find("own_test").title == "Ours"
    finally:
        for known in (installed, benchmarks.table):
            known.cache_clear()
