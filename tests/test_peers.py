"""Other projects' scorers: what they read of awkward texts, and their own records, reproduced."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reground.cli import app
from reground.errors import ConfigError, DataError
from reground.evaluation.records import SampleScore, read_scores
from reground.evaluation.reporting.report import write_json_report
from reground.evaluation.scoring.peers import PEERS
from reground.evaluation.scoring.peers.peer import NO_BOX, Quad, Task
from reground.evaluation.scoring.score import diagnose_log, score_log
from reground.grounding.refinement_reward import reward

SHARED = Path(__file__).parents[1] / "../shared/data"
OUTPUTS = SHARED / "mig_bench/outputs"
LOGS = SHARED / "rec_logs"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs the real data in ../shared/data"
)
TASK = Task((64, 48, 320, 240), 640, 480)
JSON = '{"bbox_2d": [64, 48, 320, 240]}'
OTHER = '{"bbox_2d": [0, 0, 9, 9]}'


@pytest.mark.parametrize(
    ("name", "text", "box"),
    [
        ("mig_bench", "<think>(1,2),(3,4)</think>(5,6),(7,8)", (1, 2, 3, 4)),
        ("mig_bench", "(5,6),(7,8) [1, 2, 3, 4]", (5, 6, 7, 8)),
        ("mig_bench", "[1, 2, 3, 4] (5, 6), (7, 8)", (5, 6, 7, 8)),  # pattern before place
        ("mig_bench", "[0.1, 0.2, 0.3, 0.4]", NO_BOX),
        ("mig_bench", "<box>1 2 3 4</box>", (1, 2, 3, 4)),
        ("mig_bench", "(1,2),( 3,4)", NO_BOX),
        ("mig_bench", "(1,2), (3, 4)", (1, 2, 3, 4)),
        ("vlm_r1", f"<think>{OTHER}</think><answer>[{JSON}]</answer>", (64, 48, 320, 240)),
        ("vlm_r1", f"<answer>[{OTHER}, {JSON}]</answer>", (64, 48, 320, 240)),  # the last one
        ("vlm_r1", "<answer>[64, 48, 320, 240]</answer>", NO_BOX),  # no braces
        ("vlm_r1", '<answer>{"bbox_2d": [64.5, 48, 320, 240]}</answer>', NO_BOX),
        ("vlm_r1", JSON + "</answer>", NO_BOX),
        ("vlm_r1", f"<answer>\n{JSON}</answer>", NO_BOX),  # not on one line
        ("vlm_r1_baseline", "so [ 64, -48 ,320, 240] or [0, 0, 9, 9]", (64, -48, 320, 240)),
        ("vlm_r1_baseline", "[64.0, 48, 320, 240]", NO_BOX),
        ("migician", "(270,597),(330,900)", (270, 627, 330, 990)),
        ("univg_r1_zero_shot", "<think>( 100, 200 ) , (300,400)</think>", (0.1, 0.2, 0.3, 0.4)),
        ("univg_r1_zero_shot", "(10.5,20),(30,40)", None),
        (
            "vg_refiner_precomputed",
            f"<answer>{OTHER}</answer><answer>[{JSON}]</answer>",
            TASK.truth,
        ),
        ("vg_refiner_precomputed", JSON, None),
        ("vg_refiner_precomputed", f"<answer>[{JSON}, 3]</answer>", None),  # one bad item
        ("vg_refiner", f"[{JSON}, 3]", TASK.truth),
        ("vlm_r1_reward", f"<answer>[{OTHER}, {JSON}]</answer>", (0, 0, 9, 9)),  # the first one
        ("vlm_r1_reward", "<answer>[64, 48, 320, 240]</answer>", (64, 48, 320, 240)),
        ("vg_refiner", f"<think>{OTHER}</think><answer>{JSON}</answer>", (0, 0, 9, 9)),
        ("vg_refiner", f"[{OTHER}, {JSON}]", (64, 48, 320, 240)),  # the best of one JSON value
        ("vg_refiner", f"```json\n[{JSON}]\n```", (64, 48, 320, 240)),
        ("vg_refiner", "(64,48),(320,240)", None),
        ("lmms_eval_bbox_rec", "[0.1, 0.1, 0.5, 0.5]", (0.1, 0.1, 0.5, 0.5)),
        ("lmms_eval_bbox_rec", "none", NO_BOX),
        ("lmms_eval_grounding", f"[{OTHER}, {JSON}]", (64, 48, 320, 240)),
        ("lmms_eval_grounding", "at 100, 100, 500, 500", (64, 48, 320, 240)),  # read as 0-1000
        ("lmms_eval_grounding", '{"it": {"box": [64, 48, 320, 240]}}', (64, 48, 320, 240)),
        ("vlmevalkit_refcoco", "[0.1, 0.1, 0.5, 0.5]", (64, 48, 320, 240)),
        ("vlmevalkit_refcoco", "1 object: [100 100 500 500]", (64, 48, 320, 240)),
        ("vlmevalkit_refcoco", "2 or 3: x 500, 500", (1.28, 1.44, 320, 240)),  # any four numbers
        ("vlmevalkit_refcoco", "[1100, 100, 500, 500]", (500, 100, 640, 480)),
        ("vlmevalkit_refcoco", "three", None),
    ],
)
def test_what_each_reads(name: str, text: str, box: Quad | None) -> None:
    found = PEERS[name].judge(text, TASK).box
    assert (found is None) == (box is None)
    assert found is None or found == pytest.approx(box)


def test_a_perfect_answer_in_pixels_is_misread_by_vlmevalkit() -> None:
    task = Task((250, 200, 500, 400), 640, 480)
    iou = PEERS["vlmevalkit_refcoco"].judge("[250, 200, 500, 400]", task).iou
    assert iou is not None and iou < 0.15


def test_vlm_r1_counts_pixels_inclusively() -> None:
    task = Task((0, 0, 10, 10), 640, 480)
    ious = {10: 1.0, 5: 0.5, 1: 0.0}  # one pixel wide: no intersection
    for right, iou in ious.items():
        assert PEERS["vlm_r1_baseline"].judge(f"[0, 0, {right}, 10]", task).iou == iou


@pytest.mark.parametrize(
    ("text", "tool", "expected"),
    [
        (f"<think></think><rethink></rethink><answer>{JSON}</answer>", [(0, 0, 9, 9)], 1.0),
        (f"<think></think><rethink></rethink><answer>{JSON}</answer>", [TASK.truth], 0.55),
        (f"<answer>{JSON}</answer>", [(0, 0, 9, 9)], 0.9),
        (f"<think></think><rethink></rethink><answer>{OTHER}</answer>", [TASK.truth], 0.1),
        (f"< think > </think><rethink></rethink>< answer >{JSON}</answer>", [], 1.0),
        ("", [], 0.0),
        (f"<answer>{JSON}", [], 0.0),
    ],
)
def test_reward_of_vg_refiner(text: str, tool: list[Quad], expected: float) -> None:
    assert reward(text, truth=[TASK.truth], tool=tool).overall == pytest.approx(expected)


@needs_shared
def test_reward_of_the_pizza() -> None:
    facts = json.loads((SHARED / "samples/annotations.json").read_text())["pizza.jpg"]
    text = "<think></think><rethink></rethink><answer>{}</answer>".format(
        json.dumps({"bbox_2d": facts["qwen2_5_vl_7b_box_xyxy"]})
    )
    truth, tool = facts["gt_xyxy"], facts["tool_boxes_xyxy"]
    found = reward(text, truth=[tuple(truth)], tool=[tuple(box) for box in tool])
    assert found.overall == 1.0
    assert found.tool_iou < 0.5 < found.model_iou


# ---- their records -----------------------------------------------------------------------------


def stored(model: str) -> list[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
    """(task, rows, totals) of a model's files."""
    files = [json.loads(path.read_text()) for path in sorted((OUTPUTS / model).glob("*.json"))]
    return [(rows[0]["task"], rows, totals[rows[0]["task"]]) for *rows, totals in files]


def scored(tmp_path: Path, source: Path, format_name: str, scorer: str) -> list[SampleScore]:
    score_log(source, format_name=format_name, out=tmp_path, scorer=scorer)
    return list(read_scores(tmp_path))


MACRO = {"migician": 63.37, "qwen2_vl": 30.02}


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize("model", MACRO)
def test_mig_bench_reproduces_every_stored_box_iou_and_total(tmp_path: Path, model: str) -> None:
    scorer = "migician" if model == "migician" else "mig_bench"
    scores = scored(tmp_path, OUTPUTS / model, "mig_bench_outputs", scorer)
    assert len(scores) == 4276
    by_id = {score.sample.id: score for score in scores}
    for task, rows, totals in stored(model):
        own = [by_id[f"{task}/{number}"] for number in range(len(rows))]
        for row, score in zip(rows, own, strict=True):
            assert list(score.predicted[0]) == row["filter_answer"]
            assert score.iou == row["iou"]
        ious = [score.iou or 0.0 for score in own]
        assert sum(ious) == totals["AVE_IOU"]
        for threshold in (0.3, 0.5, 0.7):
            assert sum(iou >= threshold for iou in ious) == totals[f"IOU@{threshold}"]
    report = write_json_report(tmp_path)
    assert round(100 * report["macro@0.5"], 2) == MACRO[model]
    assert report["run"]["scorer"] == scorer and report["run"]["hit"] == ">="
    unmeasured = ("length", "well_formed", "clipped", "truncated")
    assert [report[name] for name in unmeasured] == [None] * 4  # rather than 0


@needs_shared
@pytest.mark.parametrize(
    "name", [path.name for path in sorted(LOGS.glob("*.json")) if "baseline" not in path.name]
)
def test_vlm_r1_reproduces_every_recorded_box_and_accuracy(tmp_path: Path, name: str) -> None:
    log = json.loads((LOGS / name).read_text())
    scorer = "vlm_r1_baseline" if "sft" in name else "vlm_r1"
    scores = scored(tmp_path, LOGS / name, "vlm_r1_log", scorer)
    for row, score in zip(log["results"], scores, strict=True):
        assert list(score.predicted[0]) == row["extracted_answer"]
        assert (score.iou or 0.0) > 0.5 or not row["correct"]
    assert 100 * write_json_report(tmp_path)["acc@0.5"] == pytest.approx(log["accuracy"], abs=1e-9)


@needs_shared
def test_the_trap_is_seen() -> None:
    name = "rec_results_refcoco_val_qwen2_5vl_3b_instruct_baseline.json"
    found = diagnose_log(LOGS / name, format_name="vlm_r1_log")
    answers, recorded = found.split("recorded boxes\n")
    assert "no mismatch" in answers
    assert "frame mismatch: the answers fit best as thousand" in recorded


def test_the_help_names_every_scorer() -> None:
    text = CliRunner().invoke(app, ["score", "--help"]).stdout
    assert [name for name in PEERS if not re.search(rf"\b{name}\b", text)] == []


# ---- choosing a scorer -------------------------------------------------------------------------


def test_a_wrong_scorer_is_explained(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text('{"results": []}')
    with pytest.raises(ConfigError, match="did you mean 'mig_bench'"):
        score_log(tmp_path / "log.json", format_name="vlm_r1_log", out=tmp_path, scorer="mig_bnech")


@pytest.mark.parametrize(
    ("format_name", "content", "error", "message"),
    [
        ("vlm_r1_logs", "{}", ConfigError, "did you mean 'vlm_r1_log'"),
        ("vlm_r1_log", "{}", DataError, "not what vlm_r1_log holds"),
        ("vlm_r1_log", "{", DataError, "not what vlm_r1_log holds"),
        ("vlm_r1_log", "[]", DataError, "not what vlm_r1_log holds"),
        ("mig_bench_outputs", "{}", DataError, "found 0 of MIG-Bench's ten tasks"),
    ],
)
def test_a_wrong_log_is_explained(
    tmp_path: Path, format_name: str, content: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / "log.json"
    path.write_text(content)
    with pytest.raises(error, match=message):
        score_log(path, format_name=format_name, out=tmp_path / "out")
    assert not (tmp_path / "out" / "scores.jsonl").exists()
