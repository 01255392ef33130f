"""Think-rethink from data to report: chains, the pizza, the reward, a training run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from files import read_rows
from made import prompter_of
from reground.data.convert import convert
from reground.data.source import open_dataset, save_dataset
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.local import LocalModel
from reground.evaluation.predicting.predict import predict_folder
from reground.evaluation.predicting.question import Question, ToolUse
from reground.evaluation.records import Prediction, read_predictions, read_run, read_scores
from reground.evaluation.reporting.report import write_report
from reground.evaluation.scoring.refinement import ToolOutcome, refined
from reground.evaluation.scoring.score import score_folder, score_prediction
from reground.grounding.boxes import Box, iou, place
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Detection, Sample
from reground.model.chat import EncodedImage, Prompt
from reground.protocols.calls import CALL
from reground.protocols.protocol import AnswerProtocol, get_protocol
from reground.protocols.rethink import Verdict, settled, verdict, with_rethink
from reground.rollout.environment import Pending, PlannedEnvironment, Start
from reground.rollout.episode import RolloutStatus, Trajectory
from reground.rollout.policy import Sampling
from reground.rollout.tools.tool import Request
from reground.runs import RunDir
from reground.teacher.rethink import chains
from reground.tinyworld import models as tiny
from reground.tinyworld import scenes as synth
from reground.tinyworld.oracle import Oracle
from reground.training.rewards import RefinementFormat, RefinementTerm, Rewards
from scripted import ScriptedPolicy

SHARED = Path(__file__).parents[2] / "shared/data"
REFINEMENT = Rewards((RefinementTerm(weight=0.9), RefinementFormat(weight=0.1)))
TRUE, OFF = (8.0, 8.0, 40.0, 40.0), (60.0, 60.0, 90.0, 90.0)
NEAR = (10.0, 8.0, 40.0, 42.0)


def scene(*boxes: tuple[float, ...], index: int = 0) -> Sample:
    """A scene whose true box is moved to TRUE, with these boxes of a detector."""
    sample = synth.sample("attribute", seed=0, index=index)
    frame = sample.images[0].frame
    target = replace(sample.targets[0], box=Box(*TRUE, frame))
    found = tuple(Detection(0, Box(x1, y1, x2, y2, frame)) for x1, y1, x2, y2 in boxes)
    return replace(sample, targets=(target,), tool_results=found)


@pytest.mark.parametrize(
    ("boxes", "found", "answer"),
    [
        ([NEAR], Verdict.RIGHT, NEAR),
        ([OFF, NEAR], Verdict.RIGHT, NEAR),  # the right one of several
        ([OFF], Verdict.WRONG, TRUE),
        ([], Verdict.MISSING, TRUE),
    ],
)
def test_a_chain_keeps_a_right_box_and_corrects_all_else(
    boxes: list[tuple[float, ...]], found: Verdict, answer: tuple[float, ...]
) -> None:
    sample = scene(*boxes)
    assert verdict(sample) is found
    assert [box.xyxy for box in settled(sample)] == [answer]
    told = with_rethink(sample, first_thought="at the left?")
    assert told.think == "at the left?"
    assert found.value in (told.rethink or "")
    points = "the tool points at the top left" if boxes == [NEAR] else "the tool points at the"
    assert (told.rethink or "").startswith(points if boxes else "the tool found nothing.")
    assert ((sample.think or "") in (told.rethink or "")) is (found is not Verdict.RIGHT)
    which = "the tool is right. it is the top left."
    assert (told.rethink or "").endswith(which) is (boxes == [OFF, NEAR])
    assert with_rethink(sample).think == f"look for {sample.question}."


def test_the_gold_chain_of_the_rethink_form_scores_the_maximum(tokenizer: Any) -> None:
    """Invariant 5, for every verdict, and form: think, call, result, rethink, answer."""
    for name in ("univg_r1", "qwen3_vl"):
        checkpoint = tiny.make("qwen3_vl", tokenizer=tokenizer)
        prompter = prompter_of(checkpoint, name, "think_rethink", prompt="tiny_refiner")
        for boxes, best in (([OFF], 1.0), ([], 1.0), ([TRUE], 0.55)):
            sample = with_rethink(scene(*boxes))
            prompt = prompter.prompt(sample)
            pieces = prompter.gold(sample, prompt)
            assert [piece.is_own for piece in pieces] == [True, False, True]
            assert pieces[0].text.endswith(CALL)
            text = "".join(piece.text for piece in pieces)
            own = prompter.protocol(sample)
            answer = own.read(text, prompt.images[0].size)
            found = REFINEMENT.score(said(text, sample, prompt, own), answer)
            assert answer.well_formed
            assert found.terms["refinement_format"] == 1.0
            assert found.iou > 0.9
            assert found.reward == pytest.approx(best)


def test_how_a_call_and_its_result_are_written_is_the_prompt_s(
    tokenizer: Any, tmp_path: Path
) -> None:
    """Training's gold turn and a rollout's observation show the result as the prompt file says."""
    path = tmp_path / "authors.txt"
    path.write_text(
        "$question\n[[call]]\n<function> get_extra_ref_result() </function>\n"
        "[[tool]]\n\n<tool>\n$results_indented\n</tool>\n"
    )
    checkpoint = tiny.make("qwen3_vl", tokenizer=tokenizer)
    prompter = prompter_of(checkpoint, "qwen3_vl", "think_rethink", prompt=str(path))
    sample = with_rethink(scene(OFF))
    prompt = prompter.prompt(sample)
    before, shown, _ = prompter.gold(sample, prompt)
    assert before.text.endswith("\n<function> get_extra_ref_result() </function>")
    assert shown.text.startswith('\n<tool>\n{\n  "reftool_1": "[{\\"bbox_2d\\": [')
    assert shown.text.endswith(']}]"\n}\n</tool>')
    environment = PlannedEnvironment(prompter)
    start = Start(sample, prompt)
    environment.begin([start])
    pending = Pending(start, tuple(checkpoint.chat.encode(before.text)))
    (observed,) = environment.answer([pending])
    assert prompter.text(observed.ids) == shown.text


def said(text: str, sample: Sample, prompt: Prompt, protocol: AnswerProtocol) -> Trajectory:
    ended = RolloutStatus.COMPLETED
    return Trajectory(sample, prompt, (), ended, text=text, protocol=protocol)


@pytest.mark.parametrize(
    ("tool", "final", "refinement"),
    [(OFF, TRUE, 1.0), (NEAR, TRUE, 0.5), (NEAR, OFF, 0.0), (OFF, OFF, 0.0), (None, TRUE, 1.0)],
)
def test_the_refinement_reward_by_what_became_of_the_box(
    tool: tuple[float, ...] | None, final: tuple[float, ...], refinement: float
) -> None:
    """As published: 1 for a correction, 0.5 for a confirmation; 0.9 of it and 0.1 of the form."""
    sample = scene(*([tool] if tool else []))
    size = EncodedSize(112, 112, 112, 112)
    for name in ("vg_refiner", "univg_r1"):
        own = get_protocol(name, "think_rethink")
        box = Box(*final, sample.images[0].frame)
        text = own.render([box], size=size, think="a", rethink="b")
        answer = own.read(text, size)
        prompt = Prompt((), (EncodedImage(torch.zeros(0), (1, 2, 2), size),))
        found = REFINEMENT.score(said(text, sample, prompt, own), answer)
        assert found.terms == {"refinement": refinement, "refinement_format": 1.0}
        assert found.reward == pytest.approx(0.9 * refinement + 0.1)
        assert found.iou == pytest.approx(iou(box, sample.boxes[0]), abs=0.02)


def test_chains_begin_with_what_the_model_thought(tmp_path: Path) -> None:
    asked = Question(model="tiny", data="synth:referring", seed=5, limit=6, max_tokens=64)
    predict_folder(tmp_path / "first", asked)
    save_dataset(
        tmp_path / "chains.jsonl",
        chains(tmp_path / "first", "oracle:weak", timeout_s=30, results=tmp_path / "r.jsonl"),
    )
    thoughts = {row.sample.id: row.text for row in read_predictions(tmp_path / "first")}
    made = open_dataset(str(tmp_path / "chains.jsonl"))
    assert len(made) == 6
    for sample in made:
        assert f"<think>{sample.think}</think>" in thoughts[sample.id]
        assert verdict(sample).value in (sample.rethink or "")
        if sample.detections:
            seen, points = (sample.rethink or "").split(". ")[:2]
            own = seen.removeprefix("i saw it at the ")
            assert f"at the {own}." in (sample.think or "") + "."
            places = [place(found.box) for found in sample.detections]
            same = "the same place" if own in places else "not the same place"
            assert points == f"the tool points at the {', the '.join(places)}, {same}"


def test_the_oracle_is_as_good_as_it_is_asked_to_be() -> None:
    samples = [synth.sample("referring", seed=2, index=index) for index in range(400)]
    requests = [Request(sample, sample.question) for sample in samples]

    def kinds(spec: str) -> list[Verdict]:
        found = Oracle.of(spec).detect(requests)
        return [
            verdict(replace(sample, tool_results=boxes))
            for sample, boxes in zip(samples, found, strict=True)
            if isinstance(boxes, tuple)
        ]

    for spec, share in (("weak", 0.5), ("strong", 0.9), ("right=0.3", 0.3), ("right=1", 1.0)):
        found = kinds(spec).count(Verdict.RIGHT) / len(samples)
        assert abs(found - share) <= 3 * math.sqrt(share * (1 - share) / len(samples)) + 0.06, spec
    assert set(kinds("right=0,wrong=0,hallucinated=0,missing=1")) == {Verdict.MISSING}
    nowhere = Oracle.of("right=0,wrong=0,missing=0,several=0").detect(requests)
    objects = [[each.box for each in synth.scene(s.images[0].path).objects] for s in samples]
    for boxes, own in zip(nowhere, objects, strict=True):
        assert isinstance(boxes, tuple)
        assert all(iou(each.box, other) < 0.1 for each in boxes for other in own)
    again = Oracle.of("weak").detect(requests[::-1])[::-1]
    assert again == Oracle.of("weak").detect(requests)
    assert again != Oracle.of("weak,seed=1").detect(requests)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the photo in ../shared/data")
def test_the_pizza_is_corrected_under_think_rethink(tmp_path: Path, tokenizer: Any) -> None:
    """From VG-Refiner's row to the report, with the precomputed box; a script speaks for the model.

    What it says is another model's real answer to this photo.
    """
    facts = json.loads((SHARED / "samples/annotations.json").read_text())["pizza.jpg"]
    row = {
        "image": "pizza.jpg",
        "question": facts["expression"],
        "ground_truth": json.dumps({"bbox_2d": facts["gt_xyxy"]}),
        "tool_results": json.dumps([{"bbox_2d": box} for box in facts["tool_boxes_xyxy"]]),
        "image_id": 1,
        "ann_id": 1,
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (sample,) = convert("vg_refiner", tmp_path / "rows.jsonl", images=SHARED / "samples")
    checkpoint = tiny.make("qwen2_5_vl", tokenizer=tokenizer)
    prompter = prompter_of(checkpoint, "vg_refiner", "think_rethink")
    own = prompter.protocol(sample)
    size = prompter.prompt(sample).images[0].size
    told: list[str] = []

    def rethinks(text: str, number: int) -> str:
        told.append(text.rpartition("<tool>")[2])
        box = Box(*facts["qwen2_5_vl_7b_box_xyxy"], size.pixels)
        return own.render([box], size=size, rethink="a smaller piece.").partition("<rethink>")[2]

    policy = ScriptedPolicy(
        checkpoint.chat,
        lambda prompt, number: f"<think>the piece below.</think>\n{CALL}",
        lambda text, number: "<rethink>" + rethinks(text, number),
    )
    found: list[Prediction] = []
    environment = PlannedEnvironment(prompter)
    model = LocalModel(prompter, policy, environment, None, Sampling(max_tokens=512))
    model.answer([sample], add=found.append)
    shown = Box(*facts["tool_boxes_xyxy"][0], size.pixels).to(size.frame(own.codec.frame))
    assert str([round(edge) for edge in shown.xyxy]) in told[0]
    (result,) = refined([score_prediction(found[0], own)])
    assert (round(result.tool_iou, 3), found[0].finish) == (0.476, "stop")
    assert result.score.iou == pytest.approx(0.729, abs=0.02)  # a box in pixels of the input
    assert result.outcome is ToolOutcome.CORRECTED
    assert (result.score.think, result.score.rethink) == ("the piece below.", "a smaller piece.")


@pytest.mark.parametrize("protocol", ["direct", "think", "piter", "think_rethink"])
def test_an_evaluation_with_a_tool_in_every_protocol(tmp_path: Path, protocol: Any) -> None:
    asked = Question(
        model="tiny",
        data="synth:referring",
        limit=4,
        max_tokens=48,
        tool=ToolUse(spec="oracle:strong"),
        protocol=protocol,
    )
    report = evaluate(tmp_path, asked)
    run = read_run(tmp_path)
    assert run.tool == "oracle:strong"
    assert (run.family, run.protocol, run.protocol_by) == ("univg_r1", protocol, "flag")
    assert [*run.prompts] == [protocol]
    assert report["refinement"]["n"] == 4
    assert all(row.sample.tool_results is not None for row in read_scores(tmp_path))
    score_folder(tmp_path, out=tmp_path)
    assert write_report(tmp_path) == report


def test_stored_boxes_that_are_not_there_are_named(tmp_path: Path) -> None:
    from reground.errors import DataError

    save_dataset(tmp_path / "d.jsonl", [synth.sample("referring", seed=1, index=i) for i in (1, 2)])
    asked = Question(model="tiny", data=str(tmp_path / "d.jsonl"), tool=ToolUse(spec="precomputed"))
    with pytest.raises(DataError, match=r"sample 'referring-1-1' has no tool_results"):
        predict_folder(tmp_path / "out", asked)


def test_grpo_trains_on_what_rollouts_sampled_beside_a_live_tool(
    whole: Mapping[str, RunDir],
) -> None:
    """Rollouts call and answer; counts, endings and the refinement term are logged."""
    found = read_rows(whole["refiner"].metrics)
    for row in found:
        endings = ("completed", "no_call", "tool_failed", "over_long")
        assert sum(row[f"rollout/{name}"] for name in endings) == pytest.approx(1)
        assert (row["tool/asked"], row["tool/late"], row["tool/failed"]) == (4, 0, 0)
        assert 0 <= row["reward/refinement"] <= 1
    assert max(row["rollout/completed"] for row in found) > 0.5
    assert max(row["reward/refinement"] for row in found) > 0
    logged = [row["text"] for row in read_rows(whole["refiner"].rollouts)]
    assert any("</function>\n<tool>{" in text.replace(">\n\n", ">\n") for text in logged)
