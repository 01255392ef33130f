"""How figures and tables are written, in pages and in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from reground.evaluation.scoring.bootstrap import NUM_RESAMPLES

_PACKAGE = "reground.evaluation.reporting"


def render(template: str, package: str = _PACKAGE, /, **context: Any) -> str:
    """A page from ``templates/`` of ``package``; everything that fills an HTML page is escaped.

    Templates of other packages may include those of this one, such as its style sheet.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name) for name in (package, _PACKAGE)]),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "cell": markdown_cell, "span": span}
    environment.globals |= {"estimate": estimate, "num_resamples": NUM_RESAMPLES}
    return environment.get_template(template).render(context)


def percent(value: float | None) -> str:
    """A share as percent with one decimal; a dash where there is none.

    >>> percent(0.615), percent(-0.0001)
    ('61.5', '0.0')
    """
    return "–" if value is None else f"{100 * value:z.1f}"  # noqa: RUF001


def estimate(row: Mapping[str, Any], name: str) -> str:
    """The mean called ``name`` in percent, with its standard error where it has one."""
    stderr = row[f"{name}_stderr"]
    return percent(row[name]) + ("" if stderr is None else f" ± {percent(stderr)}")


def span(interval: Sequence[float] | None) -> str:
    """The ends of an interval in percent.

    >>> span([-0.011, 0.25])
    '-1.1 to 25.0'
    """
    return "–" if interval is None else " to ".join(map(percent, interval))  # noqa: RUF001


def markdown_table(table: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the head first, with columns aligned for the terminal too.

    The first column is left-aligned, the others right-aligned.
    """
    table = [[markdown_cell(cell) for cell in row] for row in table]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines = [
        f"| {row[0]:<{widths[0]}} | "
        + " | ".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        + " |"
        for row in table
    ]
    rule = f"|{'-' * (widths[0] + 2)}|" + "".join(f"{'-' * (width + 1)}:|" for width in widths[1:])
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def markdown_cell(text: object) -> str:
    """Text that cannot end its cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")
