"""Several sampled answers to a question: their mean, the best of them, and their vote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import server
from made import run_of
from reground.cli import app
from reground.data.source import open_dataset, save_dataset
from reground.errors import ConfigError, DataError
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.predict import predict_folder
from reground.evaluation.predicting.question import Question
from reground.evaluation.records import Draw, Prediction, read_predictions, write_predictions
from reground.evaluation.reporting.report import build_report
from reground.evaluation.scoring.sampled import vote
from reground.evaluation.scoring.score import score_folder, score_prediction
from reground.grounding.answers import Answer, Status
from reground.grounding.boxes import Box
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import ImageRef, Sample, Target
from reground.protocols.protocol import get_protocol
from reground.rollout.endpoint import Endpoint

SIZE = EncodedSize(100, 100, 112, 112)
TINY = {"model": "tiny", "data": "synth:attribute@1-2", "limit": 4, "max_tokens": 64}


def answer(*lefts: float, image: int | None = None) -> Answer:
    """Boxes 40 wide at these places, in a named image."""
    boxes = tuple(Box(left, 0, left + 40, 40, SIZE.pixels) for left in lefts)
    return Answer(Status.OK, boxes, image_index=image)


BAD = Answer(Status.UNPARSABLE)


@pytest.mark.parametrize(
    ("answers", "place"),
    [
        ([answer(0)], 0),
        ([answer(0), answer(50), answer(52)], 1),  # a tie goes to the first of the two
        ([answer(0), answer(50), answer(60), answer(55)], 3),
        ([BAD, answer(0), BAD, BAD], 1),  # those that cannot be read have no voice
        ([BAD, BAD], 0),
        ([answer(), answer(0), answer()], 0),  # "nothing is there" is an answer
        ([answer(0), answer(0, 50), answer(0, 52)], 1),
        ([answer(0, image=0), answer(0, image=1), answer(5, image=1)], 1),
        ([answer(0, image=0), answer(0), answer(5, image=1)], 1),  # no name agrees with any
    ],
)
def test_the_vote_is_the_answer_that_agrees_most(answers: Sequence[Answer], place: int) -> None:
    assert vote(answers) == place


def sample(name: str, task: str = "find") -> Sample:
    target = Target(0, Box(0, 0, 40, 40, SIZE.pixels))
    return Sample(name, (ImageRef(f"{name}.jpg", 100, 100),), "the cup", (target,), task)


def prediction(asked: Sample, *texts: str) -> Prediction:
    first, *others = texts
    rest = tuple(Draw(text, 7, "stop") for text in others)
    return Prediction(asked, first, (SIZE,), 12, "stop", others=rest)


RIGHT, WRONG, NEAR = "(0,0),(400,400)", "(500,500),(900,900)", "(0,0),(400,380)"
PROTOCOL = get_protocol("univg_r1", "direct")


def test_a_row_is_the_votes_and_keeps_the_iou_of_every_draw() -> None:
    scored = score_prediction(prediction(sample("a"), WRONG, RIGHT, NEAR), PROTOCOL)
    assert scored.draws == pytest.approx((0.0, 1.0, 0.95))
    assert (scored.text, scored.iou, scored.num_tokens) == (RIGHT, 1.0, 7)
    assert score_prediction(prediction(sample("a"), RIGHT), PROTOCOL).draws == ()


def test_the_report_tells_mean_best_and_vote_of_all_and_of_each_task() -> None:
    asked = [sample("a"), sample("b"), sample("c", "other")]
    texts = [(WRONG, RIGHT, NEAR, "no"), (RIGHT, WRONG, WRONG, WRONG), (WRONG,) * 4]
    rows = [
        score_prediction(prediction(own, *four), PROTOCOL)
        for own, four in zip(asked, texts, strict=True)
    ]
    rows.append(score_prediction(Prediction(sample("d"), error="no photo"), PROTOCOL))
    report = build_report(rows, run=run_of([row.sample for row in rows]))
    figures = {key: report["sampled"][key] for key in ("n", "size", "mean", "best", "vote")}
    assert figures == pytest.approx(
        {"n": 3, "size": 4, "mean": 1 / 4, "best": 2 / 3, "vote": 1 / 3}
    )
    assert report["tasks"]["other"]["sampled"]["best"] == 0.0
    assert report["tasks"]["find"]["sampled"]["vote"] == 0.5
    assert report["acc@0.5"] == pytest.approx(1 / 3)  # the vote's


def test_questions_with_unlike_numbers_of_answers_are_refused() -> None:
    rows = [
        score_prediction(prediction(sample("a"), RIGHT, RIGHT), PROTOCOL),
        score_prediction(prediction(sample("b"), RIGHT), PROTOCOL),
    ]
    with pytest.raises(DataError, match="0 and with 2 answers"):
        build_report(rows, run=run_of([row.sample for row in rows]))


def test_a_peers_scorer_reads_one_answer_alone(tmp_path: Path) -> None:
    asked = sample("a")
    write_predictions(tmp_path, [prediction(asked, RIGHT, RIGHT)], run=run_of([asked]))
    with pytest.raises(DataError, match=r"2 sampled answers.*--scorer reground"):
        score_folder(tmp_path, out=tmp_path / "out", scorer="vg_refiner")


def test_samples_depend_on_seed_and_question_alone(tmp_path: Path) -> None:
    asked = TINY | {"draws": 3, "temperature": 1.0}
    predict_folder(tmp_path / "four", Question(**asked))
    rows = list(read_predictions(tmp_path / "four"))
    save_dataset(tmp_path / "data.jsonl", [row.sample for row in rows][::-1][:2])
    assert all(len(row.others) == 2 for row in rows)
    assert any(other.text != row.text for row in rows for other in row.others)

    def again(name: str, **changes: Any) -> list[Prediction]:
        own = asked | {"data": str(tmp_path / "data.jsonl"), "limit": None} | changes
        predict_folder(tmp_path / name, Question(**own))
        return list(read_predictions(tmp_path / name))

    assert again("two") == rows[::-1][:2]
    assert again("other", seed=8) != rows[::-1][:2]


def test_eval_samples_on_the_command_line(tmp_path: Path) -> None:
    line = ["eval", "--model", "tiny", "--data", "synth:attribute@1-2", "--limit", "4"]
    line += ["--max-tokens", "64", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*line, "--samples", "4"])
    assert done.exit_code == 0, done.output
    assert "4 sampled answers to each question" in done.output
    assert "4 sampled answers" in (tmp_path / "out" / "report.html").read_text()
    refused = CliRunner().invoke(app, [*line, "--samples", "2", "--temperature", "0"])
    assert "temperature 0, which are all alike" in str(refused.exception)


def test_one_sample_may_be_hot_and_several_must_not_be_cold() -> None:
    assert Question(**TINY, temperature=0.7).draws == 1
    with pytest.raises(ConfigError, match="--temperature above 0"):
        Question(**TINY, draws=2)


def test_a_server_is_asked_for_each_sample(tmp_path: Path) -> None:
    asked = list(open_dataset("synth:attribute@1-2", seed=7, limit=2))
    save_dataset(tmp_path / "data.jsonl", asked)
    replies = iter([RIGHT, WRONG, NEAR] * 2)
    with server.serving(lambda body, _: server.says(next(replies), tokens=9)) as (url, bodies):
        question = Question(
            model="m",
            data=str(tmp_path / "data.jsonl"),
            family="univg_r1",
            protocol="direct",
            endpoint=Endpoint(url=url, model="m", concurrency=1, timeout_s=5.0),
            draws=3,
            temperature=0.5,
        )
        report = evaluate(tmp_path / "out", question)
    assert (len(bodies), {body["temperature"] for body in bodies}) == (6, {0.5})
    assert report["sampled"]["size"] == 3
    first, _ = read_predictions(tmp_path / "out")
    assert [first.text, *(own.text for own in first.others)] == [RIGHT, WRONG, NEAR]
