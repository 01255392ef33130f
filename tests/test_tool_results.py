"""What a tool said to samples is computed once, and a run goes on when the tool does again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from files import read_rows
from reground.data.source import open_dataset, save_dataset
from reground.errors import ConfigError, DataError, RunError
from reground.evaluation.predicting import predict
from reground.evaluation.predicting.predict import predict_folder
from reground.evaluation.predicting.question import Question, ToolUse
from reground.evaluation.predicting.shards import Shard, merge
from reground.evaluation.records import read_predictions, read_run
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection, ImageRef, Sample, Target, digest
from reground.rollout.tools.opening import open_tool
from reground.rollout.tools.results import TOOL_RESULTS, fill, results_digest
from reground.rollout.tools.runner import ToolRunner
from reground.rollout.tools.tool import Request, ToolError

# Fails for the samples that the file "down" names, and writes down what it is asked.
FLAKY = """
from pathlib import Path

from reground.grounding.boxes import Box
from reground.grounding.sample import Detection
from reground.rollout.tools.tool import ToolError

HERE = Path(__file__).parent


class Flaky:
    name = "flaky"
    by_image = True
    settings = "1"

    def detect(self, requests):
        return [self.answer(each.sample) for each in requests]

    def answer(self, sample):
        with (HERE / "asked").open("a") as out:
            out.write(sample.id + "\\n")
        if sample.id in (HERE / "down").read_text():
            return ToolError("503")
        frame = sample.images[0].frame
        return (Detection(0, Box(1.5, 1, 20, 20, frame), "cup", 0.25), )


class Other(Flaky):
    settings = "2"
"""


@pytest.fixture
def flaky(tmp_path: Path) -> str:
    (tmp_path / "flaky.py").write_text(FLAKY)
    says(tmp_path, down="")
    return f"{tmp_path}/flaky.py:Flaky"


def says(folder: Path, *, down: str) -> None:
    (folder / "down").write_text(down)


def asked(folder: Path) -> list[str]:
    """What the tool was asked since the last time."""
    path = folder / "asked"
    ids = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return ids


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    rows = []
    for number, name in enumerate("abcde"):
        Image.new("RGB", (100, 80), (40 * number, 0, 0)).save(tmp_path / f"{name}.png")
        image = ImageRef(str(tmp_path / f"{name}.png"), 100, 80)
        target = Target(0, Box(10, 8, 50, 40, image.frame))
        rows.append(Sample(name, (image,), f"the cup {name}", (target,), "test"))
    save_dataset(tmp_path / "data.jsonl", rows)
    return rows


@pytest.fixture
def question(flaky: str, samples: list[Sample], tmp_path: Path) -> Question:
    tool = ToolUse(spec=flaky)
    return Question(
        model="tiny_refiner", data=str(tmp_path / "data.jsonl"), max_tokens=8, tool=tool
    )


def results(folder: Path) -> list[dict[str, object]]:
    return read_rows(folder / TOOL_RESULTS)


def boxes(folder: Path) -> dict[str, int | None]:
    rows = [each.sample for each in read_predictions(folder)]
    return {row.id: None if row.tool_results is None else len(row.tool_results) for row in rows}


def test_a_detector_that_failed_is_asked_again_and_only_those_answers_are_made_again(
    question: Question, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    says(tmp_path, down="b")
    assert predict_folder(out, question) == 5
    first, run = (out / "predictions.jsonl").read_bytes().splitlines(), read_run(out)
    assert asked(tmp_path) == [*"abcde"] and boxes(out) == dict.fromkeys("acde", 1) | {"b": None}
    assert [row.get("problem") for row in results(out)[1:]] == [None, "503", None, None, None]

    assert predict_folder(out, question) == 5  # still down: nothing changes
    assert asked(tmp_path) == ["b"]
    assert (out / "predictions.jsonl").read_bytes().splitlines() == first

    says(tmp_path, down="")
    assert predict_folder(out, question) == 5
    last = (out / "predictions.jsonl").read_bytes().splitlines()
    assert asked(tmp_path) == ["b"] and boxes(out) == dict.fromkeys("abcde", 1)
    assert [one == two for one, two in zip(first, last, strict=True)] == [1, 0, 1, 1, 1]
    again = read_run(out)
    assert again.tool_sha256 != run.tool_sha256
    assert replace(again, tool_sha256=None) == replace(run, tool_sha256=None)

    predict_folder(tmp_path / "at_once", question)
    assert (tmp_path / "at_once/predictions.jsonl").read_bytes().splitlines() == last
    assert read_run(tmp_path / "at_once") == again


def test_the_digest_of_the_data_is_that_of_the_samples_without_boxes(
    question: Question, samples: list[Sample], tmp_path: Path
) -> None:
    predict_folder(tmp_path / "out", question)
    run = read_run(tmp_path / "out")
    filled = [each.sample for each in read_predictions(tmp_path / "out")]
    assert run.data_sha256 == digest(samples) == digest(filled)
    assert run.tool_sha256 == results_digest(filled) and results_digest(samples) is None
    none = [replace(each, tool_results=()) for each in filled]
    assert results_digest(none) not in (None, run.tool_sha256)


def test_results_are_another_runs_tool_without_asking_it(
    question: Question, tmp_path: Path
) -> None:
    predict_folder(tmp_path / "one", question)
    asked(tmp_path)
    recorded = replace(question, tool=ToolUse(spec=str(tmp_path / "one" / TOOL_RESULTS)))
    predict_folder(tmp_path / "two", recorded)
    assert not asked(tmp_path) and not (tmp_path / "two" / TOOL_RESULTS).exists()
    one, two = (read_run(tmp_path / name) for name in ("one", "two"))
    assert two.tool_sha256 == one.tool_sha256
    assert boxes(tmp_path / "two") == dict.fromkeys("abcde", 1)


def test_results_of_other_samples_are_refused(
    question: Question, samples: list[Sample], tmp_path: Path
) -> None:
    predict_folder(tmp_path / "one", question)
    spec = str(tmp_path / "one" / TOOL_RESULTS)
    other = replace(samples[0], question="the bowl")
    with pytest.raises(DataError, match="holds no result for sample 'a', as it is asked now"):
        open_tool(spec, samples=[other])
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        open_tool(str(tmp_path / "gone.jsonl"), samples=[])
    with pytest.raises(DataError, match=r"data\.jsonl: is no file of tool results"):
        open_tool(str(tmp_path / "data.jsonl"), samples=samples)
    (tool,) = [open_tool(spec, samples=samples)]
    assert isinstance(tool.detect([Request(other, "x")])[0], ToolError)


def test_boxes_that_changed_make_another_run(question: Question, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = list(open_dataset(str(data)))
    frame = rows[0].images[0].frame
    for edge in (20, 30):
        found = (Detection(0, Box(1, 1, edge, 20, frame)),)
        save_dataset(data, [replace(row, tool_results=found) for row in rows])
        stored = replace(question, tool=None)
        if edge == 20:
            predict_folder(tmp_path / "out", stored)
        else:
            with pytest.raises(RunError, match="sample 'a' was answered with other boxes"):
                predict_folder(tmp_path / "out", stored)


def test_another_tools_results_are_not_gone_on_with(
    question: Question, samples: list[Sample], tmp_path: Path, flaky: str
) -> None:
    path = tmp_path / "sub" / "results.jsonl"
    for name in ("Flaky", "Other"):
        tool = open_tool(flaky.replace("Flaky", name), samples=samples)
        runner = ToolRunner(tool, timeout_s=9, batch_size=2)
        if name == "Flaky":
            assert len(list(fill(samples, runner, path=path))) == 5
        else:
            with pytest.raises(RunError, match=r"holds the results of another tool.*delete"):
                list(fill(samples, runner, path=path))


@pytest.mark.parametrize("cut", [0, 3, 60, 130, 200, 100_000])
def test_a_file_that_a_killed_run_left_is_gone_on_with(
    cut: int, samples: list[Sample], tmp_path: Path, flaky: str
) -> None:
    path = tmp_path / "results.jsonl"

    def filled() -> list[Sample]:
        runner = ToolRunner(open_tool(flaky, samples=samples), timeout_s=9, batch_size=2)
        return [each.sample for each in fill(samples, runner, path=path)]

    whole = filled()
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    left = 6 - content[:cut].count(b"\n")
    asked(tmp_path)
    assert filled() == whole and path.read_bytes() == content
    assert len(asked(tmp_path)) == min(left, 5)


def test_shards_ask_for_their_own_samples_and_merge_to_the_whole(
    question: Question, tmp_path: Path
) -> None:
    predict_folder(tmp_path / "whole", question)
    asked(tmp_path)
    parts = []
    for index, own in ((1, [*"ace"]), (2, [*"bd"])):
        parts.append(tmp_path / f"part{index}")
        predict_folder(parts[-1], replace(question, shard=Shard(index, 2)))
        assert asked(tmp_path) == own
    merge(parts, out=tmp_path / "merged")
    for name in ("predictions.jsonl", "run.json"):
        one, two = ((tmp_path / each / name).read_bytes() for each in ("whole", "merged"))
        assert one == two


def test_a_tool_that_is_none_is_known_before_a_model_is_loaded(
    question: Question, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "_answerer", lambda *_: pytest.fail("the model is loaded"))
    wrong = replace(question, tool=ToolUse(spec=f"{tmp_path}/x.py:Mine"))
    with pytest.raises(ConfigError, match=r"x\.py:Mine: no such file"):
        predict_folder(tmp_path / "out", wrong)
    assert not (tmp_path / "out").exists()
