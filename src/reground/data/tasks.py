"""The order and the names in which reports and tables list tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# MIG-Bench's ten tasks in the order of the UniVG-R1 paper's Table 1, with its names of the columns.
MIG_BENCH_COLUMNS: Mapping[str, str] = {
    "diff": "Static",
    "view_diff": "Robust",
    "common_object": "Common",
    "object_tracking": "OT",
    "multi_view": "MV",
    "region": "Region",
    "refer_grounding": "Refer",
    "group_grounding": "GG",
    "reasoning": "Reason",
    "correspondence": "Co-Re",
}
MIG_BENCH_TASKS = tuple(MIG_BENCH_COLUMNS)


def in_order(tasks: Iterable[str]) -> list[str]:
    """Distinct tasks, MIG-Bench's as the paper has them, others behind them by name.

    >>> in_order(["region", "rec", "diff", "rec"])
    ['diff', 'region', 'rec']
    """
    known = set(tasks)
    return [task for task in MIG_BENCH_TASKS if task in known] + sorted(known - {*MIG_BENCH_TASKS})


def column(task: str) -> str:
    """What a table's column for ``task`` is called."""
    return MIG_BENCH_COLUMNS.get(task, task)
