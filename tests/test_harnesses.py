"""lmms-eval and Inspect themselves, in .venv-harnesses: the same answers, the same scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("lmms_eval", reason="lmms-eval is in .venv-harnesses: make test-harnesses")
pytest.importorskip("inspect_ai", reason="Inspect is in .venv-harnesses: make test-harnesses")

import inspect_ai
from inspect_ai._util.entrypoints import ensure_entry_points
from inspect_ai._util.registry import registry_find, registry_info
from lmms_eval.__main__ import parse_eval_args
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from reground.data.benchmarks import table
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question
from reground.evaluation.reporting.report import write_report
from reground.evaluation.scoring.score import score_log
from reground.integrations import inspect_tasks
from reground.integrations.exam import Exam, one_turn_families, stored
from reground.integrations.lmms_tasks import write_tasks

OUTPUTS = Path(__file__).parents[2] / "shared/data/mig_bench/outputs/qwen2_vl"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``reground eval`` finds of tiny; of 65 scenes the last is in a batch of its own."""
    folder = tmp_path_factory.mktemp("own") / "tiny"
    evaluate(folder, Question(model="tiny", data="synth:referring", limit=65))
    return folder


@pytest.fixture(scope="module")
def mig(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers of another model to MIG-Bench, 20 of each task, as our scorer scores them."""
    if not OUTPUTS.is_dir():
        pytest.skip("needs the stored answers to MIG-Bench in ../shared/data")
    part, folder = tmp_path_factory.mktemp("part"), tmp_path_factory.mktemp("mig") / "qwen2_vl"
    for path in OUTPUTS.glob("*.json"):
        *rows, totals = json.loads(path.read_bytes())
        (part / path.name).write_text(json.dumps([*rows[:20], totals]))
    score_log(part, format_name="mig_bench_outputs", out=folder)
    write_report(folder)
    return folder


def lmms(folder: Path, exam: Exam, **model_args: Any) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics of a run of lmms-eval, and the text that came back for each sample."""
    (name,) = write_tasks(folder, [exam], max_tokens=256)
    with mock.patch("sys.argv", ["lmms-eval"]):
        _, defaults = parse_eval_args()
    found = simple_evaluate(
        model="reground",
        model_args=",".join(f"{key}={value}" for key, value in model_args.items()),
        tasks=[name],
        batch_size=16,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        cli_args=defaults,
    )
    texts = {row["acc@0.5"]["id"]: row["filtered_resps"][0] for row in found["samples"][name]}
    return found["results"][name], texts


def inspected(task: str, logs: Path, **kwargs: Any) -> tuple[dict[str, dict[str, float]], Any]:
    """The metrics of a run of Inspect by score, and its log."""
    (log,) = inspect_ai.eval(task, log_dir=str(logs), display="none", **kwargs)
    assert log.status == "success", log.error
    scores = {
        score.name: {name.split("/")[-1]: own.value for name, own in score.metrics.items()}
        for score in log.results.scores
    }
    return scores, log


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_bytes())
    return report


def test_lmms_eval_finds_what_reground_eval_finds(own: Path, tmp_path: Path) -> None:
    exam = Exam.of("synth:referring", model="tiny", limit=65)
    found, texts = lmms(tmp_path / "tasks", exam, pretrained="tiny")
    report = report_of(own)
    assert texts == {id: row.text.strip() for id, row in stored(str(own)).items()}
    assert (found["acc@0.5,none"], found["mean_iou,none"]) == (
        report["acc@0.5"],
        report["mean_iou"],
    )
    assert 0 < report["acc@0.5"] < 1
    # Theirs divides by N(N-1), ours by the number of images: the same, where each is asked once.
    assert found["acc@0.5_stderr_clustered,none"] == pytest.approx(report["acc@0.5_stderr"])


def test_inspect_finds_what_reground_eval_finds(own: Path, tmp_path: Path) -> None:
    scores, log = inspected(
        "reground/grounding",
        tmp_path,
        task_args={"data": "synth:referring", "samples": 65},
        model="reground/tiny",
    )
    report = report_of(own)
    texts = {sample.id: sample.output.completion for sample in log.samples}
    assert texts == {id: row.text for id, row in stored(str(own)).items()}
    for name in ("acc@0.5", "mean_iou"):
        assert scores[name]["mean"] == report[name]
        assert scores[name]["stderr"] == pytest.approx(report[f"{name}_stderr"], rel=1e-12)


def test_stored_answers_score_the_same_everywhere(mig: Path, tmp_path: Path) -> None:
    report, exam = report_of(mig), Exam.of(str(mig))
    found, _ = lmms(tmp_path / "tasks", exam, answers=mig)
    scores, _ = inspected(
        "reground/grounding",
        tmp_path / "logs",
        task_args={"data": str(mig)},
        solver=inspect_tasks.stored(answers=str(mig)),
        model="mockllm/model",
    )
    assert report["n"] == 200
    for name in ("acc@0.5", "mean_iou"):
        assert found[f"{name},none"] == scores[name]["mean"] == report[name]
        assert scores[name]["stderr"] == pytest.approx(report[f"{name}_stderr"], rel=1e-12)
    assert found["mean_of_tasks,none"] == scores["acc@0.5"]["mean_of_tasks"]
    assert found["mean_of_tasks,none"] == report["macro@0.5"]


def test_every_benchmark_is_a_task(tmp_path: Path) -> None:
    ways = one_turn_families()
    exams = [Exam.of(name, family=way) for name in table() for way in ways]
    names = write_tasks(tmp_path / "tasks", exams, max_tokens=256)
    known = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    assert known.all_subtasks == sorted(names)
    ensure_entry_points("reground")
    listed = {registry_info(each).name for each in registry_find(lambda own: own.type == "task")}
    assert {f"reground/{name}" for name in [*table(), "grounding"]} <= listed
