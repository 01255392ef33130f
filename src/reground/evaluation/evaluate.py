"""All three steps of an evaluation in one call: predict, score, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reground.evaluation.predicting.predict import predict_folder
from reground.evaluation.predicting.question import Question
from reground.evaluation.reporting.report import write_report
from reground.evaluation.scoring.score import score_folder


def evaluate(out: Path, question: Question) -> dict[str, Any]:
    """Answer what is asked and report on it in ``out``; returns what report.json holds.

    Where ``out`` is a training run's folder, the page shows its curves. Raises ``UserError`` for
    what the user can mend.
    """
    predict_folder(out, question)
    score_folder(out, out=out)
    return write_report(out, training=out if (out / "metrics.jsonl").exists() else None)
