"""What the tables share: reading a result, and how figures are written."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs/results"


def read(name: str) -> dict[str, Any]:
    """A result of docs/results."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


def percent(row: Mapping[str, Any], name: str = "acc@0.5") -> str:
    """A share with its standard error, in percent."""
    return f"{100 * row[name]:.1f} ± {100 * row[f'{name}_stderr']:.1f}"


def points(row: Mapping[str, Any]) -> str:
    """Acc@0.5 in percent, as leaderboards give it."""
    return f"{100 * row['acc@0.5']:.2f}"


def over_seeds(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean over seeds, the standard error over test photos, and the range of the seeds."""
    values = [100 * row["acc@0.5"] for row in rows]
    error = 100 * statistics.mean(row["acc@0.5_stderr"] for row in rows)
    return f"{statistics.mean(values):.1f} ± {error:.1f} ({min(values):.0f}-{max(values):.0f})"


def spread(row: Mapping[str, float], unit: str) -> str:
    """A median with its unit and range."""
    return f"{row['median']:.3g} {unit} ({row['min']:.3g}-{row['max']:.3g})"


def ratio(row: Mapping[str, Any]) -> str:
    """How many times faster, with the range."""
    return f"{row['speedup']} ({row['speedup_min']}-{row['speedup_max']})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows below a head, the first column to the left."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)
