"""Step two of an evaluation: predictions -> scores. Pure: no model, and no image is opened."""

from __future__ import annotations

from pathlib import Path

from reground.evaluation.records import (
    Prediction,
    SampleScore,
    read_predictions,
    read_run,
    write_scores,
)
from reground.grounding import scoring
from reground.grounding.answers import parse
from reground.grounding.families import Family, get_family


def score_folder(predictions: Path, *, out: Path) -> int:
    """Score the predictions of a folder into ``out`` (scores.jsonl, run.json); returns how many.

    Raises ``DataError`` for a missing or malformed file, ``ConfigError`` for an unknown family.
    """
    run = read_run(predictions)
    family = get_family(run.family)
    scores = (score_prediction(row, family=family) for row in read_predictions(predictions))
    return write_scores(out, scores, run=run)


def score_prediction(prediction: Prediction, *, family: Family) -> SampleScore:
    """One prediction's score; the answer is read by the one parser, as ``family`` writes it.

    An answer that names another image than the sample's target scores IoU 0, however its box lies.
    """
    sample = prediction.sample
    if prediction.error is not None:
        return SampleScore(sample, error=prediction.error)
    answer = parse(prediction.text, family, prediction.sizes[sample.target_image])
    return SampleScore(
        sample,
        status=answer.status,
        iou=scoring.score(answer, sample),
        predicted=tuple(box.xyxy for box in answer.boxes),
        named_image=answer.image_index,
        well_formed=answer.well_formed,
        num_clipped=answer.num_clipped,
        num_tokens=prediction.num_tokens,
        finish=prediction.finish,
        text=prediction.text,
        think=answer.think,
        rethink=answer.rethink,
    )
