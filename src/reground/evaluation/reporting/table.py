"""A table like a paper's: runs as rows, tasks as columns; in Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

from reground.data.benchmarks import column
from reground.evaluation.reporting.compare import Comparison, Row
from reground.evaluation.reporting.pages import markdown_table

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure as it is printed; ``best`` is the highest of its column, or as high as printed."""

    text: str
    best: bool


@dataclass(frozen=True, slots=True)
class Line:
    """The cells of one run."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Acc@0.5 in percent: a line per run, a column per task, and AVG where there are several."""

    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    note: str


def make_table(comparison: Comparison) -> Table:
    """The table of all runs, in their order."""
    figures = [_figures(row) for row in comparison.rows]
    best = [max(own) for own in zip(*figures, strict=True)]
    return Table(
        columns=(*map(column, comparison.tasks), *(["AVG"] if len(comparison.tasks) > 1 else [])),
        lines=tuple(
            Line(row.name, tuple(Cell(_text(x), _text(x) == _text(top)) for x, top in pairs))
            for row, pairs in (
                (row, zip(own, best, strict=True))
                for row, own in zip(comparison.rows, figures, strict=True)
            )
        ),
        note=_note(comparison),
    )


def to_markdown(table: Table) -> str:
    """The table with the best figures bold."""
    rows = [
        [line.name, *(f"**{cell.text}**" if cell.best else cell.text for cell in line.cells)]
        for line in table.lines
    ]
    return markdown_table([["", *table.columns], *rows])


def to_latex(table: Table) -> str:
    """A tabular for the package booktabs, with the best figures bold."""
    lines = [
        "% \\usepackage{booktabs}",
        f"% {' '.join(table.note.split())}",
        f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        "\\toprule",
        _latex_row("", *map(latex_text, table.columns)),
        "\\midrule",
    ]
    for line in table.lines:
        cells = [f"\\textbf{{{cell.text}}}" if cell.best else cell.text for cell in line.cells]
        lines.append(_latex_row(latex_text(line.name), *cells))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def to_csv(table: Table) -> str:
    """The table with ``run`` as the first column's name."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", *table.columns])
    writer.writerows([line.name, *(cell.text for cell in line.cells)] for line in table.lines)
    return out.getvalue()


def latex_text(text: str) -> str:
    r"""Text that LaTeX prints as it stands.

    >>> print(latex_text("run_1 & 50 %"))
    run\_1 \& 50 \%
    """
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


def _figures(row: Row) -> list[float]:
    return [*row.tasks.values(), *([row.macro] if len(row.tasks) > 1 else [])]


def _text(value: float) -> str:
    return f"{100 * value:.2f}"


def _note(comparison: Comparison) -> str:
    several = "; AVG is the mean over tasks" if len(comparison.tasks) > 1 else ""
    note = (
        f"Acc@0.5 in percent (IoU {comparison.hit} 0.5, scorer {comparison.scorer}) on "
        f"{comparison.n} samples{several}. The highest of each column is bold."
    )
    if comparison.y_scaled:
        names = ", ".join(comparison.y_scaled)
        note += f" Of {names}, y was stretched first, as MIG-Bench does for Migician alone."
    if not comparison.left_out:
        return note
    unscored = ", ".join(f"{row.name} {row.unscored}" for row in comparison.rows)
    return (
        f"{note} Left out: {comparison.left_out} samples that not every run answered "
        f"(unanswered: {unscored})."
    )


def _latex_row(*cells: str) -> str:
    return " & ".join(cells) + " \\\\"
