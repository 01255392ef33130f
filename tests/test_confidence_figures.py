"""Scores in evaluations: kept, calibrated, asked for, and never a silent miss."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from files import read_rows
from made import run_of
from reground.cli import app
from reground.errors import ConfigError, DataError
from reground.evaluation.predicting.predict import predict_folder
from reground.evaluation.predicting.question import Question
from reground.evaluation.records import (
    Draw,
    Prediction,
    SampleScore,
    read_predictions,
    read_scores,
    write_predictions,
)
from reground.evaluation.reporting.pairing import read_runs
from reground.evaluation.reporting.report import build_report, write_report
from reground.evaluation.scoring.calibration import calibration
from reground.evaluation.scoring.score import score_folder, score_prediction
from reground.grounding.answers import Status
from reground.grounding.boxes import Box
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import ImageRef, Sample, Target
from reground.protocols.protocol import get_protocol
from reground.rollout.endpoint import Endpoint
from server import says, serving

SIZE = EncodedSize(100, 100, 112, 112)
RIGHT, WRONG, NONE, BAD = "(0,0),(400,400)", "(500,500),(900,900)", "[]", "no"
PROTOCOL = get_protocol("univg_r1", "direct")


def prediction(name: str, text: str, *scores: float | None, **more: Any) -> Prediction:
    target = Target(0, Box(0, 0, 40, 40, SIZE.pixels))
    sample = Sample(name, (ImageRef(f"{name}.jpg", 100, 100),), "the cup", (target,), "find")
    return Prediction(sample, text, (SIZE,), 12, "stop", scores=scores, **more)


ROWS = [
    prediction("a", RIGHT, 0.9),
    prediction("b", RIGHT, 0.4),
    prediction("c", WRONG, 0.95),
    prediction("d", WRONG, 0.3),
    prediction("e", BAD),
    prediction("f", RIGHT, None),
    replace(prediction("g", ""), error="timeout", finish=None),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_predictions(tmp_path / "run", ROWS, run=run_of([row.sample for row in ROWS]))
    run = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps(run | {"protocol": "direct"}))
    return tmp_path / "run"


def test_an_unsure_answer_abstains_and_is_neither_hit_nor_miss(folder: Path) -> None:
    out = folder.parent / "sure"
    score_folder(folder, out=out, min_score=0.5)
    scores = {score.sample.id: score for score in read_scores(out)}
    abstained = [name for name, score in scores.items() if score.status is Status.ABSTAINED]
    assert abstained == ["b", "d", "f"]  # f: nobody knows
    assert all(scores[name].iou is None and not scores[name].predicted for name in abstained)
    report = write_report(out)
    assert (report["n"], report["errors"], report["status"]["abstained"]) == (3, 1, 3)
    assert report["acc@0.5"] == pytest.approx(1 / 3)  # a; not c, nor e, which cannot be read
    assert report["coverage"] == 0.5 and report["run"]["min_score"] == 0.5
    assert "Coverage 50.0" in (out / "report.md").read_text()
    assert "3 answers with a score below 0.5 abstain" in (out / "report.html").read_text()


def test_without_a_minimum_all_count_and_coverage_is_whole(folder: Path) -> None:
    score_folder(folder, out=folder)
    report = build_report(read_scores(folder), run=run_of([row.sample for row in ROWS]))
    assert (report["n"], report["coverage"], report["status"]["abstained"]) == (6, 1.0, 0)
    assert report["calibration"]["score"]["n"] == 4  # those with a score


def test_runs_at_different_minima_are_not_compared(folder: Path) -> None:
    outs = [folder.parent / name for name in ("x", "y")]
    for out, least in zip(outs, (0.5, 0.8), strict=True):
        score_folder(folder, out=out, min_score=least)
    with pytest.raises(DataError, match=r"min-score 0\.5.* and .*min-score 0\.8"):
        read_runs(outs)


def test_a_minimum_without_scores_or_by_others_rules_is_refused(tmp_path: Path) -> None:
    rows = [prediction("a", RIGHT)]
    write_predictions(tmp_path, rows, run=run_of([row.sample for row in rows]))
    with pytest.raises(DataError, match="no box has a score"):
        score_folder(tmp_path, out=tmp_path / "out", min_score=0.5)
    with pytest.raises(ConfigError, match="--min-score is for --scorer reground"):
        score_folder(tmp_path, out=tmp_path / "out", scorer="vlm_r1", min_score=0.5)


def test_old_runs_without_scores_are_read(folder: Path) -> None:
    rows = read_rows(folder / "predictions.jsonl")
    for row in rows:
        del row["scores"]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score_folder(folder, out=folder)
    report = write_report(folder)
    assert report["calibration"] is None
    assert "How far scores" not in (folder / "report.html").read_text()


def test_scores_of_another_reading_of_the_text_are_dropped() -> None:
    assert score_prediction(prediction("a", RIGHT, 0.9, 0.8), PROTOCOL).scores == ()
    assert score_prediction(prediction("a", RIGHT, 0.9), PROTOCOL).scores == (0.9,)


def test_agreement_is_the_mean_overlap_of_the_voted_answer_with_the_others() -> None:
    others = tuple(Draw(text, 7, "stop", (0.5,)) for text in (RIGHT, WRONG, BAD))
    scored = score_prediction(prediction("a", "(0,0),(400,380)", 0.7, others=others), PROTOCOL)
    assert scored.agreement == pytest.approx(0.95 / 3)
    assert scored.scores == (0.7,)
    assert score_prediction(prediction("a", RIGHT, 0.7), PROTOCOL).agreement is None


def pairs(scores: np.ndarray, right: np.ndarray) -> float:
    """AUROC by its definition."""
    wins = [
        float(a > b) + (a == b) / 2
        for a, b in itertools.product(scores[right == 1], scores[right == 0])
    ]
    return sum(wins) / len(wins)


@pytest.mark.parametrize("decimals", [1, 2, 8])
def test_auroc_is_the_chance_of_a_right_order(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    scores = rng.random(120).round(decimals)
    right = (rng.random(120) < scores).astype(float)
    found = calibration(scores, right, rng.integers(0, 60, 120))
    assert found.auroc == pytest.approx(pairs(scores, right))
    assert found.auroc_interval and found.auroc_interval.low < found.auroc
    assert sum(each.share.n for each in found.bins) == 120
    assert all(a.high < b.low for a, b in itertools.pairwise(found.bins))


def test_the_interval_of_the_calibration_error_holds_the_true_one() -> None:
    """Of scores that are too sure by a fifth."""
    inside = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores = rng.uniform(0.3, 0.95, 300)
        right = (rng.random(300) < scores - 0.2).astype(float)
        ends = calibration(scores, right, np.arange(300)).ece_interval
        inside += ends is not None and ends.low <= 0.2 <= ends.high
    assert inside >= 17


def test_perfect_scores_have_the_error_of_chance() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.3, 0.95, 1000)
    found = [
        calibration(scores, (rng.random(1000) < scores).astype(float), np.arange(1000))
        for _ in range(5)
    ]
    assert np.mean([each.ece for each in found]) == pytest.approx(found[0].ece_by_chance, rel=0.3)


def test_thresholds_keep_the_surest_and_say_how_many() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.2])
    found = calibration(scores, np.array([1.0, 1.0, 0.0, 0.0]), np.arange(4)).thresholds
    kept = [(each.min_score, each.coverage, each.share.accuracy) for each in found]
    assert kept == [(0.2, 1.0, 0.5), (0.8, 0.75, pytest.approx(2 / 3)), (0.9, 0.25, 1.0)]


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_answers_of_one_kind_have_no_auroc(right: float) -> None:
    found = calibration(np.array([0.2, 0.8]), np.full(2, right), np.arange(2))
    assert (found.auroc, found.auroc_interval) == (None, None)


def test_a_run_that_is_killed_anywhere_writes_the_same_scores(tmp_path: Path) -> None:
    asked = Question(model="tiny", data="synth:attribute@1-2", limit=7, max_tokens=64)
    predict_folder(tmp_path / "whole", asked)
    lines = (tmp_path / "whole/predictions.jsonl").read_bytes().splitlines(keepends=True)
    assert all(
        0 < score < 1 for row in read_predictions(tmp_path / "whole") for score in row.scores
    )
    for kept in (1, 5):
        killed = tmp_path / f"killed{kept}"
        killed.mkdir()
        (killed / "run.json").write_bytes((tmp_path / "whole/run.json").read_bytes())
        (killed / "answers.jsonl").write_bytes(b"".join(lines[:kept]))
        predict_folder(killed, asked)
        assert (killed / "predictions.jsonl").read_bytes() == b"".join(lines)


@pytest.mark.parametrize("gives", ["log-probs", "none", "refuses", "nonsense"])
def test_a_server_gives_scores_where_it_gives_log_probs(tmp_path: Path, gives: str) -> None:
    from PIL import Image

    from reground.data.source import save_dataset

    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    sample = replace(ROWS[0].sample, images=(ImageRef(str(tmp_path / "a.png"), 100, 100),))
    save_dataset(tmp_path / "data.jsonl", [sample, replace(sample, id="z")])
    pieces = ["(0", ",", "0", "),(", "400", ",", "400", ")"]
    content = [{"token": piece, "logprob": -0.5, "top_logprobs": []} for piece in pieces]
    if gives == "nonsense":
        content[3] = {"token": 3, "logprob": "low"}

    def respond(body: dict[str, Any], _: int) -> Any:
        if gives == "refuses" and "logprobs" in body:
            return replace(says(RIGHT), status=400)
        more = {} if gives in ("none", "refuses") else {"logprobs": {"content": content}}
        return says(RIGHT, **more)

    with serving(respond) as (url, bodies):
        server = Endpoint(url=url, model="m", concurrency=1, timeout_s=5.0, retries=0)
        fields = {"family": "univg_r1", "protocol": "direct", "prompt": "tiny"}
        asked = Question(model="m", data=str(tmp_path / "data.jsonl"), endpoint=server, **fields)  # type: ignore[arg-type]
        assert predict_folder(tmp_path / "out", asked) == 2
    expected = (0.6065,) if gives == "log-probs" else ()
    assert [row.scores for row in read_predictions(tmp_path / "out")] == [expected] * 2
    assert len(bodies) == (3 if gives == "refuses" else 2)  # refused once


def test_min_score_on_the_command_line(folder: Path) -> None:
    line = ["score", str(folder), "--out", str(folder.parent / "sure"), "--min-score"]
    done = CliRunner().invoke(app, [*line, "0.5"])
    assert done.exit_code == 0 and "3 of them abstentions, Acc@0.5 33.33 %" in done.output
    none = CliRunner().invoke(app, [*line, "1"])
    assert none.exit_code == 0, none.output  # what cannot be read still counts
    assert isinstance(next(iter(read_scores(folder.parent / "sure"))), SampleScore)
