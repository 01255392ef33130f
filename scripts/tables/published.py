"""Tables of what others published: where their prompts are, and how each is known again."""

from __future__ import annotations

from reground.data.benchmarks import column, find
from reground.evaluation.reproducing import published as figures
from reground.evaluation.reproducing.published import Table
from reground.protocols.published import published_prompts
from tables.common import table


def prompts() -> str:
    """Where the prompts of published models are, and their digests."""
    rows = [
        [
            f"{each.model}: {each.use}",
            each.protocol,
            f"{each.where}. {each.note or ''}".strip(),
            f"`{each.sha256}`" + (f", tool `{each.tool_sha256}`" if each.tool_sha256 else ""),
        ]
        for each in published_prompts()
    ]
    return table(["whose, for what", "protocol", "where", "digest"], rows)


def published() -> str:
    """Every table of published figures, with its source."""
    tables = figures.published().tables.values()
    return "\n".join(f"### {own.title}\n\n{own.source}.\n\n{_rows(own)}" for own in tables)


def _rows(own: Table) -> str:
    columns = [column(task) for task in own.tasks] or [find(name).title for name in own.columns]
    rows = [
        [_name(key), *(f"{value:.{own.decimals}f}" for value in row)]
        for key, row in own.rows.items()
    ]
    return table(["model", *columns, *(["AVG"] if own.average else [])], rows)


def _name(key: str) -> str:
    model = figures.published().models[key]
    return f"{model.title} (`{key}`)" if model.source else model.title
