"""All three steps of an evaluation in one call: predict, score, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reground.evaluation.predict import predict_folder
from reground.evaluation.report import write_report
from reground.evaluation.score import score_folder


def evaluate(
    out: Path,
    *,
    model: str,
    data: str,
    seed: int = 7,
    limit: int | None = None,
    family: str | None = None,
    prompt: str | None = None,
    max_tokens: int = 256,
    blank: bool = False,
) -> dict[str, Any]:
    """Answer ``data`` with ``model`` and report on it in ``out``; returns what report.json holds.

    Where ``out`` is a training run's folder, the page shows its curves. Raises ``UserError`` for
    what the user can mend.
    """
    predict_folder(
        out,
        model=model,
        data=data,
        seed=seed,
        limit=limit,
        family=family,
        prompt=prompt,
        max_tokens=max_tokens,
        blank=blank,
    )
    score_folder(out, out=out)
    return write_report(out, training=out if (out / "metrics.jsonl").exists() else None)
