"""A reproduction, by the code of `reground eval`, and whether the published figure agrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reground.evaluation.evaluate import evaluate
from reground.evaluation.reporting.pages import markdown_table
from reground.evaluation.reproducing.plan import Plan
from reground.evaluation.reproducing.published import Figure
from reground.io import write_json

_Z = 1.96  # a 95 % interval from a standard error


@dataclass(frozen=True, slots=True)
class Verdict:
    """A published figure and ours, in percent, with the ends of our 95 % interval."""

    figure: Figure
    ours: float | None
    interval: tuple[float, float] | None

    @property
    def agrees(self) -> bool | None:
        """Whether the published figure, as far as it was printed, is inside; None without one."""
        if self.interval is None:
            return None
        rounding = 0.5 * 10.0**-self.figure.table.decimals
        low, high = self.interval
        return low - rounding <= self.figure.value <= high + rounding

    @property
    def words(self) -> str:
        """The verdict for a person to read."""
        if self.ours is None:
            return "nothing measured"
        gap = f"{self.ours - self.figure.value:+.2f} points"
        if self.agrees is None:
            return f"{gap}; no interval from one image"
        return "agrees" if self.agrees else f"differs by {gap}"

    @property
    def cells(self) -> tuple[str, ...]:
        """Figure, published, ours, interval and verdict, ready to print."""
        ours = "" if self.ours is None else f"{self.ours:.2f}"
        ends = "" if self.interval is None else "{:.2f} to {:.2f}".format(*self.interval)
        value = f"{self.figure.value:.{self.figure.table.decimals}f}"
        return _name(self.figure), value, ours, ends, self.words


def reproduce(plan: Plan, *, out: Path) -> str:
    """Evaluate in ``out`` and write reproduction.json; returns the verdict, in Markdown.

    Raises ``UserError`` for what the user can mend.
    """
    report = evaluate(out, plan.question())
    found, said = verdicts(plan.entry.figures, report), caveats(plan, report)
    scorer = report["authors"]["scorer"] if report["authors"] else report["run"]["scorer"]
    names = ("figure", "published", "ours", "interval", "verdict")
    rows = [dict(zip(names, each.cells, strict=True)) for each in found]
    write_json(out / "reproduction.json", {"scorer": scorer, "figures": rows, "caveats": said})
    head = ("figure", "published (%)", "ours (%)", "95 %", "")
    notes = [f"Figures by {scorer}, {report['n']} samples.", *(f"- {each}" for each in said)]
    return "\n".join([markdown_table([head, *(each.cells for each in found)]), *notes])


def verdicts(figures: Sequence[Figure], report: Mapping[str, Any]) -> list[Verdict]:
    """One for each published figure, from what report.json holds: by the authors' rule if any."""
    return [_verdict(figure, report["authors"] or report, report) for figure in figures]


def caveats(plan: Plan, report: Mapping[str, Any]) -> list[str]:
    """In what the run was not as published."""
    run, pixels = report["run"], plan.entry.asked.pixels
    said = [
        f"asked with prompt {use['name']}, in our wording, not the authors'"
        for use in run["prompts"].values()
        if plan.authors_prompt and not use["wording"].startswith("as published")
    ]
    if pixels and pixels != (run["min_pixels"], run["max_pixels"]):
        here, there = (
            f"{low} to {high}" for low, high in ((run["min_pixels"], run["max_pixels"]), pixels)
        )
        said.append(f"images had {here} pixels, as published {there}")
    if run["limit"] is not None:
        said.append(f"the first {run['limit']} samples alone")
    if report["errors"]:
        said.append(f"{report['errors']} samples were never answered")
    if plan.model:
        said.append(f"asked {plan.model} as {plan.entry.model.title}")
    return said


def _name(figure: Figure) -> str:
    measure = {"acc": "Acc@0.5", "nsri_w": "NSRI, tool wrong"}[figure.table.measure]
    return figure.task or (f"{measure}, mean over tasks" if figure.is_macro else measure)


def _verdict(figure: Figure, rule: Mapping[str, Any], report: Mapping[str, Any]) -> Verdict:
    if figure.table.measure == "nsri_w":
        row = report["refinement"] or {}
        value, error = row.get("nsri_w"), row.get("nsri_w_stderr")
        ends = None if value is None or error is None else (value - _Z * error, value + _Z * error)
    else:
        row = rule["tasks"].get(figure.task, {}) if figure.task else rule
        name = "macro@0.5" if figure.is_macro else "acc@0.5"
        value, ends = row.get(name), row.get(f"{name}_interval")
    percent = None if value is None else 100 * value
    return Verdict(figure, percent, None if ends is None else (100 * ends[0], 100 * ends[1]))
